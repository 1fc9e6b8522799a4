# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AdaClip beyond its figures: prompts, class names, clusters, weights in and out, what it says to bad input."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from anomalib import LearningType
from anomalib.data import ImageBatch
from sklearn.cluster import KMeans

from anomalib_clipzoo.clip import TextTower
from anomalib_clipzoo.data import CategoryBatch, CrossDataset, MultiCategory
from anomalib_clipzoo.data.nested import as_datamodule
from anomalib_clipzoo.data.toy import UNSEEN_CATEGORIES, ToyAD
from anomalib_clipzoo.models.ada_clip import AdaClip, fusion
from anomalib_clipzoo.models.ada_clip.fusion import HybridSemanticFusion, cluster_means, k_means
from anomalib_clipzoo.models.ada_clip.loss import AdaClipLoss
from anomalib_clipzoo.models.ada_clip.prompting import plain_features
from anomalib_clipzoo.models.ada_clip.torch_model import Probabilities
from anomalib_clipzoo.models.components.pre_processor import ClipTransform
from tests.medical import lay_out
from tests.parity.files import GOLDEN
from tests.tiny import write_tiny_clip

CONFIGS = Path(__file__).parents[3] / "configs"
NAMES = ["pill", "foam-pad", "pill"]
SENTENCES = 48


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def build(tiny, **arguments) -> AdaClip:
    torch.manual_seed(0)
    return AdaClip(**{"backbone": tiny, "pretrained": None, **arguments}).eval()


def test_defaults_follow_the_backbone(tiny):
    model = build(tiny)
    assert model.hparams.image_size == [32, 32]
    assert model.hparams.layers == [1, 2, 3, 4]
    assert model.hparams.prompting_depth == 3  # the text tower has no more
    assert model.hparams.k_clusters == 16
    assert model.learning_type is LearningType.ONE_CLASS


# ---- prompts ----


@pytest.mark.parametrize("image_size", [32, (32, 48)])
@pytest.mark.parametrize("kind", ["S", "D", "SD"])
@pytest.mark.parametrize("branch", ["", "V", "L", "VL"])
@torch.no_grad()
def test_scores_and_maps_are_probabilities(tiny, image_size, branch, kind):
    model = build(tiny, image_size=image_size, prompting_branch=branch, prompting_type=kind, k_clusters=3)
    height, width = model.hparams.image_size
    output = model.model(torch.randn(3, 3, height, width), NAMES)
    assert output.pred_score.shape == (3,)
    assert output.anomaly_map.shape == (3, height, width)
    for values in output.pred_score, output.anomaly_map:
        assert values.min() >= 0
        assert values.max() <= 1
        assert values.std() > 0


@pytest.mark.parametrize("hsf", [True, "clusters", "most_anomalous", False])
@pytest.mark.parametrize("kind", ["S", "D", "SD"])
@pytest.mark.parametrize("branch", ["", "V", "L", "VL"])
@pytest.mark.parametrize("depth", [1, 3])
def test_every_learned_parameter_takes_part(tiny, images, kind, branch, hsf, depth):
    """Training on several devices breaks on a parameter without a gradient."""
    arguments = {"prompting_type": kind, "prompting_branch": branch, "hsf": hsf, "prompting_depth": depth}
    model = build(tiny, **arguments, k_clusters=3).train()
    probabilities = model.model.probabilities(images, NAMES)
    model.loss(probabilities, torch.ones(3, 32, 32), torch.ones(3)).backward()
    for name, value in model.model.named_parameters():
        learned = not name.startswith("backbone.") and name != "text_prompts.static.0"  # the text's first is never used
        assert (value.grad is not None) == learned, name
        assert value.requires_grad == learned, name


def test_static_text_prompts_start_small(tiny):
    prompts = torch.stack(list(build(tiny).model.text_prompts.static))
    assert 0.015 < prompts.std() < 0.025


@pytest.mark.parametrize(
    ("kind", "branch", "passes"),
    [("SD", "VL", 2), ("D", "V", 2), ("S", "VL", 1), ("S", "L", 1), ("SD", "L", 1), ("SD", "", 1)],
)
def test_the_tower_runs_only_as_often_as_prompts_need(tiny, images, kind, branch, passes):
    model = build(tiny, prompting_type=kind, prompting_branch=branch).model
    seen = []
    model.backbone.vision.blocks[0].ln_1.register_forward_hook(lambda *arguments: seen.append(arguments))
    model(images, NAMES)
    assert len(seen) == passes


def test_the_plain_pass_takes_of_the_last_block_what_it_needs(tiny, images):
    vision = build(tiny).model.backbone.vision
    tokens = vision.embed(images).requires_grad_()
    given = plain_features(vision, tokens).image
    torch.testing.assert_close(given, vision(images).image)
    assert not given.requires_grad


@pytest.mark.parametrize("length", [1, 9, 40])
@torch.no_grad()
def test_prompts_longer_than_the_sentence(tiny, images, length):
    """The end of text is then overwritten too, as in the reference code, which pads all sentences to the context."""
    model = build(tiny, prompting_length=length).model
    plain, _ = model.image_features(images)
    given = model.text_features(NAMES, plain)
    model.sentences.prompting_length = model.backbone.text.context_length - 1  # what sentences are padded to
    torch.testing.assert_close(given, model.text_features(NAMES, plain))


# ---- class names ----


@torch.no_grad()
def test_images_of_a_batch_do_not_influence_each_other(tiny, images):
    model = build(tiny, k_clusters=3).model
    names = ["pill", "a rather longer name of a thing", "pill"]
    together = model(images, names)
    for index, name in enumerate(names):
        alone = model(images[index : index + 1], [name])
        torch.testing.assert_close(alone.anomaly_map, together.anomaly_map[index : index + 1], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone.pred_score, together.pred_score[index : index + 1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_class_name_matters(tiny, images):
    model = build(tiny).model
    assert not torch.equal(model(images, ["pill"] * 3).anomaly_map, model(images, ["screw"] * 3).anomaly_map)
    assert torch.equal(model(images).anomaly_map, model(images, ["object"] * 3).anomaly_map)


@pytest.fixture
def encoded(monkeypatch):
    """How many sentences each call of the text tower had."""
    counts, run_blocks = [], TextTower.run_blocks

    def count(tower, tokens, *arguments, **named):
        counts.append(len(tokens))
        return run_blocks(tower, tokens, *arguments, **named)

    monkeypatch.setattr(TextTower, "run_blocks", count)
    return counts


@pytest.mark.parametrize("arguments", [{"prompting_type": "S"}, {"prompting_branch": "V"}, {"prompting_depth": 1}])
@torch.no_grad()
def test_text_that_no_image_changes_is_encoded_once_a_class(tiny, images, encoded, arguments):
    model = build(tiny, **arguments).model
    model(images, NAMES)
    assert encoded == [2 * SENTENCES]
    model(images, ["pill", "screw", "pill"])
    assert encoded == [2 * SENTENCES, SENTENCES]


def test_text_for_all_images_is_encoded_in_one_pass(tiny, images, encoded):
    model = build(tiny).model
    model(images, NAMES)
    assert encoded == [3 * SENTENCES]


def test_kept_text_follows_what_was_learned(tiny, images):
    model = build(tiny, prompting_type="S", prompting_branch="L")
    with torch.no_grad():
        before = model.model(images, NAMES).anomaly_map
    optimizer = model.configure_optimizers()
    probabilities = model.model.probabilities(images, NAMES)
    model.loss(probabilities, torch.ones(3, 32, 32), torch.ones(3)).backward()
    for name, value in model.model.named_parameters():
        if not name.startswith("text_prompts"):
            value.grad = None
    optimizer.step()
    with torch.no_grad():
        after = model.model(images, NAMES).anomaly_map
    assert not torch.equal(before, after)
    state = build(tiny, prompting_type="S", prompting_branch="L").state_dict()
    model.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(model.model(images, NAMES).anomaly_map, before)


@pytest.mark.parametrize("branch", ["V", "VL"])
def test_training_goes_on_after_inference_mode(tiny, images, branch):
    model = build(tiny, prompting_branch=branch)
    with torch.inference_mode():
        model.model(images, NAMES)
    model.train().model.probabilities(images, NAMES).image.sum().backward()
    assert model.model.patch_projections[0].weight.grad is not None


def batch_of(categories) -> CategoryBatch:
    return CategoryBatch(image=torch.zeros(len(categories), 3, 32, 32), category=categories)


def names_in(model, batch) -> list[str]:
    return model.context(model.categories(batch))["class_names"]


def test_names_come_with_each_image(tiny):
    model = build(tiny)
    model.category = "bottle"  # the datamodule's
    assert names_in(model, batch_of(["pill", "screw"])) == ["pill", "screw"]
    assert names_in(model, batch_of(["pill", None])) == ["pill", "object"]
    assert names_in(model, ImageBatch(image=torch.zeros(2, 3, 32, 32))) == ["bottle", "bottle"]
    assert names_in(build(tiny, class_name="thing"), batch_of(["pill", None])) == ["thing", "thing"]


@torch.no_grad()
def test_known_and_unknown_names_in_a_batch(tiny, images):
    model = build(tiny)
    batch = CategoryBatch(image=images, category=["pill", None, "screw"])
    expected = model.model(images, ["pill", "object", "screw"])
    assert torch.equal(model.validation_step(batch).pred_score, expected.pred_score)


def prepare(model, datamodule) -> None:
    """Do what the trainer does before anything else."""
    model.trainer = SimpleNamespace(datamodule=datamodule, max_epochs=1, max_steps=-1, callbacks=[])
    model.setup("test")


def test_the_datamodules_category_names_what_has_no_name(tiny):
    model = build(tiny)
    assert model.context([model.category]) == {"class_names": ["object"]}
    prepare(model, SimpleNamespace(category="bottle"))
    assert model.context([model.category]) == {"class_names": ["bottle"]}
    prepare(model, None)  # a folder of images, after a run on data that say what they show
    assert model.context([model.category]) == {"class_names": ["bottle"]}


def test_a_name_that_is_too_long_is_found_before_the_first_batch(tiny):
    samples = pd.DataFrame({"category": ["pill", None, "screw " * 80]})
    datamodule = SimpleNamespace(category="", test_data=SimpleNamespace(samples=samples))
    with pytest.raises(ValueError, match=r"screw screw.* room for 77: use a shorter class name"):
        prepare(build(tiny), datamodule)
    prepare(build(tiny, class_name="screw"), datamodule)


def test_a_name_for_each_image_or_none(tiny, images):
    with pytest.raises(ValueError, match="3 images but 2 class names"):
        build(tiny).model(images, ["pill", "screw"])


# ---- hybrid semantic fusion ----


def test_k_means_finds_clusters_that_are_there():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(5, (4, 60), generator=generator)
    centres = 10 * torch.randn(4, 5, 8, generator=generator)
    rows = centres.gather(1, truth[..., None].expand(-1, -1, 8)) + 0.1 * torch.randn(4, 60, 8, generator=generator)
    for labels, expected in zip(k_means(rows, 5), truth, strict=True):
        pairs = set(zip(labels.tolist(), expected.tolist(), strict=True))
        assert len(pairs) == len({label for label, _ in pairs}) == len(expected.unique())


def test_k_means_is_as_good_as_scikit_learn():
    rows = torch.randn(3, 100, 16, generator=torch.Generator().manual_seed(1))
    for each, labels in zip(rows, k_means(rows, 20), strict=True):
        centres = torch.stack([each[labels == cluster].mean(dim=0) for cluster in range(20)])
        inertia = (each - centres[labels]).square().sum().item()
        assert inertia < 1.05 * KMeans(20, n_init=1, random_state=0).fit(each.numpy()).inertia_


def test_the_same_image_has_the_same_clusters_in_any_batch():
    rows = torch.randn(4, 40, 16, generator=torch.Generator().manual_seed(2))
    together = k_means(rows, 6)
    torch.manual_seed(5)
    assert torch.equal(k_means(rows[2:3], 6)[0], together[2])


@pytest.mark.parametrize("mode", ["clusters", "most_anomalous"])
def test_fewer_distinct_patches_than_clusters(mode):
    patches = torch.nn.functional.normalize(torch.randn(2, 1, 2, 8), dim=-1).repeat(1, 3, 5, 1).requires_grad_()
    feature = HybridSemanticFusion(mode, 6)(patches, torch.randn(2, 3, 10))
    feature.sum().backward()
    assert feature.isfinite().all()
    assert patches.grad.isfinite().all()


def test_all_clusters_count_alike_and_only_the_most_anomalous_patches():
    axes = torch.eye(8)
    # Six patches of one kind, two of another; the rest is not anomalous and must not count.
    patches = axes[[0] * 6 + [1] * 4 + [2] * 10][None, None]
    logits = torch.tensor([5.0] * 10 + [-5.0] * 10)[None, None]
    feature = HybridSemanticFusion("clusters", 2)(patches, logits)
    torch.testing.assert_close(feature[0], (axes[0] + axes[1]) / 2**0.5)


def test_the_papers_own_fusion_takes_the_most_anomalous_cluster():
    axes = torch.eye(8)
    patches = axes[[0] * 6 + [1] * 3 + [2] * 11][None, None]
    logits = torch.tensor([-2.0] * 6 + [1.0] * 3 + [-5.0] * 10 + [9.0])[None, None]
    feature = HybridSemanticFusion("most_anomalous", 3)(patches, logits)
    torch.testing.assert_close(feature[0], axes[1])


@pytest.fixture(scope="module")
def clustered(tmp_path_factory):
    """What HSF clusters on images of a toy category, its rows ``(B, R, D)``, and the features by clustering."""
    datamodule = MultiCategory(ToyAD(root=tmp_path_factory.mktemp("toy")), categories=[UNSEEN_CATEGORIES[0]])
    datamodule.prepare_data()
    datamodule.setup()
    items = [datamodule.test_data[index] for index in range(24)]
    model = build("toy").model
    images = ClipTransform(model.backbone.vision.image_size)(torch.stack([item.image for item in items]))
    rows, seen, features = [], [], {}
    model.fusion.register_forward_hook(lambda _module, _inputs, feature: seen.append(feature))
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        for name, cluster in CLUSTERINGS.items():
            patch.setattr(fusion, "k_means", recording(cluster, rows))
            model(images, [item.category for item in items])
            features[name] = seen.pop()
    return rows[0], features


def recording(cluster, kept: list):
    """Have a clustering keep the rows that it is given."""

    def run(rows: torch.Tensor, clusters: int) -> torch.Tensor:
        kept.append(rows)
        return cluster(rows, clusters)

    return run


def scikit_learns_k_means(rows: torch.Tensor, clusters: int, seed: int = 0) -> torch.Tensor:
    """Cluster as the reference code does, but seeded."""
    fits = [KMeans(clusters, n_init=1, random_state=seed).fit(each.numpy()) for each in rows]
    return torch.stack([torch.from_numpy(fit.labels_).long() for fit in fits])


def random_labels(rows: torch.Tensor, clusters: int) -> torch.Tensor:
    return torch.randint(clusters, rows.shape[:2], generator=torch.Generator().manual_seed(0))


CLUSTERINGS = {
    "ours": k_means,
    "scikit-learn": scikit_learns_k_means,
    "another seed": partial(scikit_learns_k_means, seed=1),
    "random": random_labels,
}


def inertia(rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Squared distances of each image's rows to the centres of their clusters, summed: ``(B,)``."""
    centres, _ = cluster_means(rows, labels, 20)
    return (rows - centres.gather(1, labels[..., None].expand_as(rows))).square().sum(dim=(1, 2))


def test_clusters_of_patches_are_as_tight_as_scikit_learns(clustered):
    rows, _ = clustered
    of = {name: inertia(rows, cluster(rows, 20)) for name, cluster in CLUSTERINGS.items()}
    ratio = of["ours"] / of["scikit-learn"]
    assert ratio.mean() < 1
    assert ratio.max() < 1.05
    assert (of["random"] / of["scikit-learn"]).mean() > 2  # so the test does tell good clusters from bad ones


def test_hsf_features_are_as_near_to_scikit_learns_as_those_of_another_seed(clustered):
    _, features = clustered
    distances = {name: (features[name] - features["scikit-learn"]).norm(dim=-1).mean() for name in features}
    assert distances["ours"] < 1.1 * distances["another seed"]
    assert distances["random"] > 2 * distances["another seed"]


# ---- loss ----


def test_dice_counts_images_or_their_rows():
    masks = torch.zeros(2, 4, 4)
    masks[0, 1] = 1
    maps = torch.full((1, 2, 4, 4), 0.5)
    probabilities = Probabilities(maps, torch.full((2,), 0.5))
    labels = torch.tensor([1, 0])
    per_image, per_row = (AdaClipLoss(rows)(probabilities, masks, labels) for rows in (False, True))
    # Dice of (abnormal, normal): per image 1 - (2 * 2 + 1) / (8 + 4 + 1) ..., per row 1 - (2 * 2 + 1) / (2 + 4 + 1) ...
    image_dice = [1 - 5 / 13, 1 - 13 / 21, 1 - 1 / 9, 1 - 17 / 25]
    full, empty = 1 - 5 / 7, 1 - 1 / 3
    row_dice = [(full + 3 * empty) / 4, (empty + 3 * full) / 4, empty, full]
    torch.testing.assert_close(per_row - per_image, torch.tensor((sum(row_dice) - sum(image_dice)) / 2))


def test_a_perfect_answer_costs_next_to_nothing(tiny):
    masks = torch.zeros(2, 8, 8)
    masks[0, 2:5] = 1
    labels = torch.tensor([True, False])
    right = Probabilities(masks[None], labels.float())
    wrong = Probabilities(1 - masks[None], 1 - labels.float())
    assert build(tiny).loss(right, masks.bool(), labels) < 1e-4 < build(tiny).loss(wrong, masks.bool(), labels)


# ---- weights ----


def test_weights_out_and_in(tiny, images, tmp_path):
    arguments = {"prompting_depth": 2, "prompting_length": 3, "prompting_branch": "V", "hsf": False, "layers": [2, 4]}
    arguments["templates"] = ["a photo of a {}."]
    model = build(tiny, **arguments)
    path = model.save_weights(tmp_path / "learned.safetensors")
    torch.manual_seed(7)
    again = AdaClip(backbone=tiny, pretrained=None, weights=path).eval()
    with torch.no_grad():
        expected, given = model.model(images, NAMES), again.model(images, NAMES)
    assert torch.equal(given.anomaly_map, expected.anomaly_map)
    assert torch.equal(given.pred_score, expected.pred_score)
    assert again.learning_type is LearningType.ZERO_SHOT
    assert {name: again.hparams[name] for name in arguments} == arguments


@pytest.mark.parametrize("branch", ["VL", "V", "L"])
@pytest.mark.parametrize("kind", ["SD", "S", "D"])
def test_a_reference_checkpoint_tells_how_it_was_made(tiny, images, tmp_path, kind, branch):
    made = {"prompting_type": kind, "prompting_branch": branch, "prompting_depth": 2, "prompting_length": 3}
    model = build(tiny, **made)
    path = tmp_path / "reference.pth"
    torch.save(as_the_reference_saves(model), path)
    shown = {"weights": path} if "S" in kind else {"weights": path, "prompting_branch": branch, "prompting_depth": 2}
    again = build(tiny, **shown)
    assert {name: again.hparams[name] for name in made} == made
    with torch.no_grad():
        assert torch.equal(again.model(images, NAMES).pred_score, model.model(images, NAMES).pred_score)


def as_the_reference_saves(model: AdaClip) -> dict[str, torch.Tensor]:
    """Give a model's learned tensors the reference's names; it saves both towers' generators, used or not."""
    saved = {}
    for key, value in model.model.state_dict().items():
        for theirs, ours in AdaClip.REFERENCE_KEYS.items():
            if key.startswith(ours):
                saved[theirs + key.removeprefix(ours)] = value.clone()
    generators = [key for key in saved if "prompt_generator" in key]
    for key in generators:
        for tower, other in (("visual", "text"), ("text", "visual")):
            saved.setdefault(key.replace(f"dynamic_{tower}", f"dynamic_{other}"), torch.zeros_like(saved[key]))
    return saved


def test_a_whole_model_can_be_pickled(tiny, images, tmp_path):
    model = build(tiny)
    model.has_learned = True
    path = model.to_torch(tmp_path)
    again = torch.load(path, weights_only=False)["model"]
    with torch.no_grad():
        assert torch.equal(again.model(images).anomaly_map, model.model(images).anomaly_map)


@pytest.mark.parametrize("arguments", [{}, {"prompting_type": "S"}, {"hsf": "most_anomalous"}], ids=str)
def test_export_needs_no_control_flow_of_the_data(tiny, arguments):
    model = build(tiny, **arguments, k_clusters=3, class_name="foam-pad").model
    with torch.no_grad():
        model(torch.randn(2, 3, 32, 32))
        batch = torch.export.Dim("batch", min=1, max=8)
        program = torch.export.export(model, (torch.randn(2, 3, 32, 32),), dynamic_shapes=({0: batch},), strict=False)
        images = torch.randn(3, 3, 32, 32)
        given, expected = program.module()(images), model(images)
    torch.testing.assert_close(given.anomaly_map, expected.anomaly_map, atol=1e-5, rtol=0)
    torch.testing.assert_close(given.pred_score, expected.pred_score, atol=1e-5, rtol=0)


def test_mixed_precision(tiny, images):
    model = build(tiny).train()
    expected = model.model.probabilities(images, NAMES)
    with torch.autocast("cpu", torch.bfloat16):
        given = model.model.probabilities(images, NAMES)
        loss = model.loss(given, torch.ones(3, 32, 32), torch.ones(3))
    assert given.maps.dtype == torch.float32
    assert (given.maps - expected.maps).abs().mean() < 0.05
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weights": "nowhere.pth"}, FileNotFoundError, "no file of learned weights at 'nowhere.pth'"),
        ({"weights": GOLDEN / "ada_clip" / "checkpoint_sample.pth"}, ValueError, r"prompting_depth 4 .* 1 to 3"),
        ({"weights": GOLDEN / "vcp_clip" / "checkpoint_sample.pth"}, ValueError, "not a checkpoint of AdaClip's ref"),
        ({"layers": [2, 9]}, ValueError, r"layers \[2, 9\].*from 1 to 4"),
        ({"prompting_depth": 4}, ValueError, "prompting_depth 4 must be within both towers, 1 to 3"),
        ({"prompting_depth": 0}, ValueError, "prompting_depth=0 is not what AdaClip takes: a whole number above 0"),
        ({"prompting_length": 0}, ValueError, "prompting_length=0 is not what AdaClip takes"),
        ({"prompting_length": 77}, ValueError, "prompting_length 77 must be 1 to 76"),
        (
            {"prompting_branch": "T"},
            ValueError,
            "prompting_branch='T' is not what AdaClip takes: 'VL' or 'V' or",
        ),
        ({"prompting_type": ""}, ValueError, "prompting_type='' is not what AdaClip takes: 'SD' or 'S' or 'D'"),
        ({"k_clusters": 17}, ValueError, "k_clusters 17 must be 1 to 16, the number of patches"),
        ({"k_clusters": 0}, ValueError, "k_clusters=0 is not what AdaClip takes"),
        ({"hsf": "best"}, ValueError, "hsf='best' is not what AdaClip takes: 'clusters' or 'most_anomalous'"),
        ({"class_name": "screw " * 80}, ValueError, r"room for 77: use a shorter class name, state or template"),
        ({"class_name": "-"}, ValueError, "class name '-' has no words"),
        ({"templates": ["a photo"]}, ValueError, "template 'a photo' must have exactly one {}"),
        ({"normal_states": []}, ValueError, "at least one state"),
    ],
)
def test_bad_arguments(arguments, error, message, tiny):
    with pytest.raises(error, match=message):
        build(tiny, **arguments)


# ---- configurations ----


@pytest.mark.parametrize("path", sorted((CONFIGS / "ada_clip").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_papers_protocol(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("ClinicDB", "ColonDB"):
        lay_out(name, tmp_path)
    config = yaml.safe_load(path.read_text())
    datamodule = as_datamodule(config["data"])
    assert isinstance(datamodule, CrossDataset)
    assert datamodule.train_batch_size == 1
    learned, tested = path.stem.split("_to_")
    assert [part.name.lower() for part in datamodule.auxiliary] == learned.replace("mvtec", "mvtecad").split("_")
    assert datamodule.target.name.lower() == tested.replace("mvtec", "mvtecad")
    backbone = {"backbone": write_tiny_clip(tmp_path, layers=24), "pretrained": None, "prompting_depth": 3}
    AdaClip(**{**config["model"]["init_args"], **backbone, "image_size": 64})
