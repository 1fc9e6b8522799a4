# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AprilGan beyond its figures: arguments, texts and tower passes, references, min_max, weights, bad input."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.data import ImageBatch, MVTecAD
from anomalib.engine import Engine
from PIL import Image

from anomalib_clipzoo.anomaly.references import Reference
from anomalib_clipzoo.data import CategoryBatch, CrossDataset
from anomalib_clipzoo.models.april_gan import AprilGan
from tests.tiny import write_tiny_clip

WORDS = {"normal_states": ["{}"], "abnormal_states": ["damaged {}"], "templates": ["a photo of a {}."]}
CATEGORIES = ("screw", "metal_nut")


def draw(path: Path, count: int, seed: int) -> None:
    """Write images of another size than the model's, smooth enough to survive being resized."""
    path.mkdir(parents=True)
    for index in range(count):
        coarse = np.random.default_rng([seed, index]).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC).save(path / f"{index:03}.png")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two categories in the layout of MVTec AD."""
    root = tmp_path_factory.mktemp("data")
    for seed, category in enumerate(CATEGORIES):
        draw(root / category / "train" / "good", 4, 10 * seed)
        draw(root / category / "test" / "good", 4, 10 * seed + 1)
        draw(root / category / "test" / "bad", 4, 10 * seed + 2)
        draw(root / category / "ground_truth" / "bad", 4, 10 * seed + 3)
        for mask in (root / category / "ground_truth" / "bad").iterdir():
            mask.rename(mask.with_stem(f"{mask.stem}_mask"))
    return root


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def build(tiny):
    def build(**arguments) -> AprilGan:
        torch.manual_seed(0)
        return AprilGan(**{"backbone": tiny, "pretrained": None, **WORDS, "visualizer": False, **arguments}).eval()

    return build


@pytest.fixture
def engine(tmp_path):
    return Engine(default_root_dir=tmp_path / "results", accelerator="cpu", devices=1, logger=False)


def one_category(root: Path, category: str = "screw") -> MVTecAD:
    return MVTecAD(root=root, category=category, eval_batch_size=3, num_workers=0)


def images(count: int = 2, size: tuple[int, int] = (32, 32), seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def remember(model: AprilGan, count: int = 2, category: str | None = "screw", seed: int = 9) -> None:
    size = model.model.backbone.vision.image_size
    model.model.remember(images(count, size, seed), [Reference(category, f"{index}.png") for index in range(count)])


def batch(count: int = 2) -> CategoryBatch:
    masks = torch.zeros(count, 32, 32, dtype=torch.bool)
    masks[0, 4:20, 8:16] = True
    labels = masks.flatten(1).any(dim=1)
    return CategoryBatch(image=images(count), gt_mask=masks, gt_label=labels, category=list(CATEGORIES)[:count])


def train_one_step(model: AprilGan, count: int = 2) -> torch.Tensor:
    """Take one optimizer step, as Lightning does."""
    model.log = lambda *_, **__: None
    optimizer = model.configure_optimizers()
    loss = model.train().training_step(batch(count))
    loss.backward()
    optimizer.step()
    return loss


# ---- arguments ----


def test_defaults_follow_the_backbone(tiny):
    model = AprilGan(backbone=tiny, pretrained=None)
    assert model.hparams.layers == [1, 2, 3, 4]
    assert model.model.references.layers == model.model.layers
    assert model.model.references.weight == pytest.approx(2 / 3)
    assert [len(side) for side in model.model.ensemble.sentences("screw")] == [245, 175]
    assert model.learning_type is LearningType.ONE_CLASS
    assert model.trainer_arguments == {"num_sanity_val_steps": 0}


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"image_size": (32, 48)}, {"layers": [2, 4], "reference_layers": [1]}, {"reference_weight": 1, "sigma": 2.0}],
    ids=str,
)
@torch.no_grad()
def test_scores_and_maps_are_within_0_and_1(build, arguments, count):
    model = build(**arguments)
    if count:
        remember(model, count)
    height, width = model.hparams.image_size
    output = model.model(images(3, (height, width)))
    assert output.pred_score.shape == (3,)
    assert output.anomaly_map.shape == (3, height, width)
    for values in output.pred_score, output.anomaly_map:
        assert values.min() >= 0
        assert values.max() <= 1
        assert values.std() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 50}, "multiple of the backbone's patch size 8"),
        ({"layers": [2, 9]}, r"layers \[2, 9\].*from 1 to 4"),
        ({"reference_layers": [0]}, "reference_layers.* is not what AprilGan takes"),
        ({"reference_layers": [5]}, r"layers \[5\].*from 1 to 4"),
        ({"class_name": ""}, "class_name='' is not what AprilGan takes"),
        ({"class_name": "very " * 80}, "tokens, but the text tower has room for 77: use a shorter class name"),
        ({"templates": []}, "at least one template"),
        ({"abnormal_states": ["damaged"]}, "state 'damaged' must have exactly one {}"),
        ({"reference_weight": 1.5}, r"reference_weight=1.5 is not what AprilGan takes"),
        ({"k_shot": -1}, "k_shot=-1 is not what AprilGan takes"),
    ],
    ids=str,
)
def test_unfit_arguments(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


# ---- what is computed ----


@torch.no_grad()
def test_a_class_is_encoded_once(build, monkeypatch):
    model = build().model
    encoded = []
    encode = model.encode_text
    monkeypatch.setattr(model, "encode_text", lambda name: encoded.append(name) or encode(name))
    for names in (["screw", "nut"], ["nut", "screw"], ["gear", "nut"]):
        model(images(), names)
    assert encoded == ["screw", "nut", "gear"]


@torch.no_grad()
def test_images_go_through_the_tower_once_also_with_references(build, monkeypatch):
    model = build(layers=[2, 4], reference_layers=[1, 2])
    remember(model)
    asked = []
    run = model.model.backbone.vision.forward
    monkeypatch.setattr(
        model.model.backbone.vision, "forward", lambda batch, layers: asked.append(layers) or run(batch, layers)
    )
    model.model(images())
    assert asked == [[1, 2, 4]]


@torch.no_grad()
def test_images_of_a_batch_have_words_and_references_of_their_own(build):
    model = build()
    for seed, category in enumerate(CATEGORIES):
        remember(model, 2, category, seed=seed + 20)
    together = model.model(images(), CATEGORIES, CATEGORIES)
    for row, category in enumerate(CATEGORIES):
        alone = model.model(images()[row][None], [category], [category])
        torch.testing.assert_close(together.anomaly_map[row], alone.anomaly_map[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(together.pred_score[row], alone.pred_score[0], atol=1e-6, rtol=0)
    swapped = model.model(images(), CATEGORIES, CATEGORIES[::-1])
    assert (swapped.anomaly_map - together.anomaly_map).abs().max() > 1e-3


# ---- training ----


def test_every_learned_parameter_takes_part(build):
    model = build()
    train_one_step(model)
    for name, value in model.model.named_parameters():
        assert (value.grad is not None) == (not name.startswith("backbone.")), name


def test_images_are_compared_with_their_own_words_in_training(build):
    losses = []
    for names in (CATEGORIES, CATEGORIES[::-1]):
        model = build()
        model.class_names = lambda _, names=names: list(names)
        losses.append(float(train_one_step(model)))
    assert abs(losses[0] - losses[1]) > 1e-6


def test_a_batch_of_one_image_trains(build):
    model = build()
    before = [value.detach().clone() for value in model.model.patch_projections.parameters()]
    assert train_one_step(model, count=1).isfinite()
    assert not any(map(torch.equal, before, model.model.patch_projections.parameters()))


# ---- references, through anomalib's engine ----


def scores(engine: Engine, model: AprilGan, **what) -> torch.Tensor:
    return torch.cat([batch.pred_score for batch in engine.predict(model, **what)])


def test_references_stay(build, engine, root, tmp_path):
    model = build(k_shot=2)
    engine.test(model, datamodule=one_category(root), verbose=False)
    assert len(model.model.references) == 2
    learned = root / "screw" / "test"
    expected = scores(engine, model, data_path=learned)
    again = build(weights=model.save_weights(tmp_path / "learned.safetensors"))
    assert again.learning_type is LearningType.FEW_SHOT
    assert torch.equal(scores(engine, again, data_path=learned), expected)


def test_references_that_are_not_there(build, engine, root, tmp_path):
    with pytest.raises(ValueError, match="k_shot=2 needs reference images: give few_shot_source"):
        engine.predict(build(k_shot=2), data_path=root / "screw" / "test")
    learned = build(k_shot=2)
    learned.has_learned = True
    with pytest.raises(ValueError, match="k_shot=2 needs reference images"):
        learned.to_torch(tmp_path)
    with pytest.raises(ValueError, match=r"5 reference images are wanted, but of category 'screw' there are only 4"):
        engine.test(build(k_shot=5), datamodule=one_category(root), verbose=False)
    model = build()
    remember(model, category="metal_nut")
    with pytest.raises(ValueError, match=r"no reference images for category 'screw'; there are some for 'metal_nut'"):
        engine.test(model, datamodule=one_category(root), verbose=False)


def test_each_reference_takes_a_tower_of_tokens(build):
    model = build(reference_layers=[2])
    remember(model, 3)
    kept = {name: value.shape for name, value in model.state_dict().items() if "references.layer" in name}
    assert kept == {"model.references.layer_2": (3, 16, 32)}


# ---- the reference code's score over all images of a category ----


def paper_scores(model: AprilGan, engine: Engine, data: dict) -> dict[str, float]:
    """Score each image as the reference code does, from what the model says without it."""
    plain = {}
    for found in engine.predict(model, **data):
        for path, image_map, score in zip(found.image_path, found.anomaly_map, found.pred_score, strict=True):
            if "broken" in path:
                continue
            plain[path] = (float(image_map.max()), float(score))
    low, high = (extreme(maximum for maximum, _ in plain.values()) for extreme in (min, max))
    return {path: score - peak / 2 + (peak - low) / (high - low) / 2 for path, (peak, score) in plain.items()}


def predicted(engine: Engine, model: AprilGan, **data) -> dict[str, float]:
    return {
        path: float(score)
        for found in engine.predict(model, **data)
        for path, score in zip(found.image_path, found.pred_score, strict=True)
    }


def test_min_max_is_the_reference_codes_score(build, engine, root, tmp_path):
    data = {"data_path": tmp_path / "images"}
    shutil.copytree(root / "screw" / "test", data["data_path"])
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")  # its black stand-in has no say in the range
    arguments = {"few_shot_source": root / "screw" / "train" / "good", "k_shot": 2, "post_processor": False}
    expected = paper_scores(build(**arguments), engine, data)
    given = predicted(engine, build(**arguments, min_max=True), **data)
    assert given.pop(str(tmp_path / "images" / "broken.png")) >= 0
    assert given == pytest.approx(expected, abs=1e-4)  # the range is narrow
    assert max(expected.values()) - min(expected.values()) > 0.4


def test_min_max_ranks_the_images_of_each_category_alone(build, engine, root):
    arguments = {"k_shot": 2, "post_processor": False}
    datamodule = CrossDataset(
        auxiliary=one_category(root, "screw"), target=one_category(root, "metal_nut"), num_workers=0
    )
    model = build(**arguments, min_max=True)
    engine.test(model, datamodule=datamodule, verbose=False)
    assert model.model.ranges.categories == ["metal_nut"]
    low, high = model.model.ranges.features("limits", "metal_nut")[0, 0].tolist()
    peaks = [
        float(peak)
        for found in engine.predict(build(**arguments), datamodule=one_category(root, "metal_nut"))
        for peak in found.anomaly_map.amax(dim=(-2, -1)).flatten()
    ]
    assert (low, high) == pytest.approx((min(peaks), max(peaks)), abs=1e-5)


def test_ranges_stay_and_single_images_are_scored_in_them(build, engine, root, tmp_path):
    folder = root / "screw" / "test"
    arguments = {"few_shot_source": root / "screw" / "train" / "good", "k_shot": 2, "post_processor": False}
    model = build(**arguments, min_max=True)
    expected = predicted(engine, model, data_path=folder)
    again = build(weights=model.save_weights(tmp_path / "learned.safetensors"), post_processor=False)
    assert again.hparams.min_max is True
    image = folder / "bad" / "001.png"
    assert predicted(engine, again, data_path=image)[str(image)] == pytest.approx(expected[str(image)], abs=1e-5)


def test_min_max_without_references_and_what_has_not_learned_are_told(build, engine, root, tmp_path, caplog):
    model, image = build(min_max=True), root / "screw" / "test" / "bad" / "001.png"
    weights = model.save_weights(tmp_path / "learned.safetensors")
    engine.predict(model, data_path=image)
    assert "min_max given, but there are no references" in caplog.text
    assert "This AprilGan has learned nothing yet" in caplog.text
    caplog.clear()
    engine.predict(build(weights=weights, min_max=False), data_path=image)
    assert "min_max" not in caplog.text
    assert "learned nothing" not in caplog.text


def test_min_max_is_not_exported_without_its_range(build, engine, root, tmp_path):
    folder = root / "screw"
    weights = build().save_weights(tmp_path / "learned.safetensors")
    few_shot = {"few_shot_source": folder / "train" / "good", "k_shot": 2}
    model = build(weights=weights, **few_shot, min_max=True)
    with pytest.raises(ValueError, match="min_max needs the range of the maps over many images"):
        model.to_torch(tmp_path)
    engine.predict(model, data_path=folder / "test")
    model.to_torch(tmp_path)


def test_min_max_needs_all_images_in_one_process(build, engine, root, monkeypatch):
    model = build(few_shot_source=root / "screw" / "train" / "good", k_shot=2, min_max=True)
    monkeypatch.setattr("lightning.pytorch.Trainer.world_size", 2)
    with pytest.raises(ValueError, match="min_max needs all images of a category in one process"):
        engine.predict(model, data_path=root / "screw" / "test")


# ---- weights ----


def test_weights_out_and_in(build, tmp_path):
    model = build(layers=[2, 4], reference_layers=[1], image_size=48, reference_weight=0.3)
    remember(model, category=None)
    again = build(weights=model.save_weights(tmp_path / "learned.safetensors"))
    with torch.no_grad():
        expected, given = (each.model(images(2, (48, 48))) for each in (model, again))
    assert torch.equal(given.anomaly_map, expected.anomaly_map)
    assert torch.equal(given.pred_score, expected.pred_score)


def reference_file(path: Path, layers: int = 4, width: int = 32, joint: int = 32) -> Path:
    """Write a checkpoint as the reference code does."""
    state = {f"fc.{index}.weight": torch.randn(joint, width) for index in range(layers)}
    state |= {f"fc.{index}.bias": torch.randn(joint) for index in range(layers)}
    torch.save({"trainable_linearlayer": state}, path)
    return path


def test_reference_checkpoint(build, tmp_path):
    path = reference_file(tmp_path / "epoch_3.pth")
    model = build(weights=path)
    state = torch.load(path, weights_only=True)["trainable_linearlayer"]
    assert torch.equal(model.state_dict()["model.patch_projections.2.weight"], state["fc.2.weight"])
    assert model.learning_type is LearningType.ZERO_SHOT
    assert build(weights=path, fine_tune=True).learning_type is LearningType.ONE_CLASS


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"layers": 3}, r"does not fit this model.*lacks model.patch_projections.3"),
        ({"layers": 5}, r"does not fit this model.*patch_projections.4"),
        ({"width": 48}, r"does not fit this model.*patch_projections.0.weight is \(32, 48\) instead of"),
    ],
    ids=str,
)
def test_reference_checkpoints_that_do_not_fit(build, tmp_path, shape, message):
    with pytest.raises(ValueError, match=message):
        build(weights=reference_file(tmp_path / "epoch_3.pth", **shape))


def test_vcp_clips_checkpoint_is_refused(build, tmp_path):
    path = reference_file(tmp_path / "train_visa.pth")
    content = torch.load(path, weights_only=True)
    torch.save({**content, "prompt_embeddings": torch.zeros(1, 1, 32)}, path)
    with pytest.raises(ValueError, match=r"not a checkpoint of AprilGan's reference code.*prompt_embeddings"):
        build(weights=path)


def test_a_batch_of_an_unknown_category_shows_an_object(build):
    model = build()
    assert model.class_names(model.categories(ImageBatch(image=images()))) == ["object", "object"]
