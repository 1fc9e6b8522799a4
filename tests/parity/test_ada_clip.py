# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AdaCLIP against figures measured on its reference code (erf GELU, fp32, image by image, deterministic weights)."""

import json

import pytest
import torch
from safetensors.torch import load_file
from sklearn.cluster import KMeans

from anomalib_clipzoo.anomaly.losses import dice_loss, focal_loss
from anomalib_clipzoo.clip.preprocess import normalize, resize_images, resize_masks
from anomalib_clipzoo.models.ada_clip import AdaClip, fusion
from anomalib_clipzoo.models.ada_clip.loss import AdaClipLoss
from tests.parity import deterministic
from tests.parity.files import GOLDEN, write_backbone

FOLDER = GOLDEN / "ada_clip"
ABOUT = json.loads((FOLDER / "golden.json").read_text())
NAMES = ABOUT["class_names"]
LAYERS = (6, 12, 18, 24)
SIGMA = 4.0  # the reference's, whatever the image size
# What adding up in another order makes of figures that carry the logits' factor of 100.
LOGIT_ATOL = 1e-4


def close(given: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(given.detach(), expected, atol=atol, rtol=0)


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "golden.safetensors")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return deterministic.tensor("input.image", (3, 3, 70, 70))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict:
    """Constructor arguments of the model that was measured: a CLIP and learned weights, as files."""
    folder = tmp_path_factory.mktemp("ada_clip")
    learned = {key: deterministic.tensor(key, tuple(shape)) for key, shape in ABOUT["checkpoint_keys"].items()}
    torch.save(learned, folder / "learned.pth")
    backbone = write_backbone(folder, ABOUT["config"]["architecture"])
    return {**backbone, "weights": folder / "learned.pth", "image_size": 70, "sigma": SIGMA}


def build(files: dict, **arguments) -> AdaClip:
    return AdaClip(**{**files, **arguments}).eval()


@pytest.fixture
def given_labels(monkeypatch):
    """Make HSF use clusters that were measured, in place of its own k-means."""

    def use(labels: torch.Tensor) -> None:
        monkeypatch.setattr(fusion, "k_means", lambda rows, clusters: labels.long())

    return use


@pytest.fixture
def reference_k_means(monkeypatch):
    """Make HSF cluster as the reference does when seeded."""

    def cluster(rows: torch.Tensor, clusters: int) -> torch.Tensor:
        fits = [KMeans(clusters, n_init=1, random_state=0).fit(each) for each in rows.detach().numpy()]
        return torch.stack([torch.from_numpy(fit.labels_).long() for fit in fits])

    monkeypatch.setattr(fusion, "k_means", cluster)


@torch.no_grad()
def test_every_step_of_inference(files, golden, images, given_labels):
    model = build(files).model
    vision, text = model.backbone.vision, model.backbone.text
    close(images[:, :, :8, :8], golden["input_crop"])
    close(vision.position, golden["visual_positional_embedding_resized"])
    plain, (image, tokens) = model.image_features(images)
    close(plain, golden["frozen_image_feature"])
    close(image, golden["prompted_image_feature"])
    for index, layer in enumerate(tokens):
        # The residual stream is not normalised (values up to 21): 1e-5 of its size.
        expected = golden["prompted_patch_tokens_0"][index]
        close(layer[0] / expected.abs().max(), expected / expected.abs().max())
    dynamic = model.visual_prompts(plain)[2] - model.visual_prompts.static[2]
    close(dynamic, golden["dynamic_visual_prompts"])
    close(model.text_prompts(plain)[3] - model.text_prompts.static[3], golden["dynamic_text_prompts"])
    for name, expected in zip(NAMES, golden["tokens"], strict=True):
        ids = text.tokenize(model.sentences.write(name))
        assert torch.equal(ids, expected[:, : ids.shape[1]])
        assert not expected[:, ids.shape[1] :].any()
    features = model.text_features(NAMES, plain)
    close(features, golden["text_features"].transpose(1, 2))
    patches = model.patch_projections(layer[:, 1:] for layer in tokens)
    close(patches[:, 0], golden["proj_patches_0"])
    close(torch.nn.functional.normalize(model.class_projection(image), dim=-1), golden["proj_cls"])
    given_labels(golden["hsf_labels"])
    logits = model.logits(images, NAMES)
    expected = golden["patch_logits"].diff(dim=-1).squeeze(-1).transpose(0, 1)
    close(logits.layers, expected, LOGIT_ATOL)
    close(logits.layers.mean(dim=0).sigmoid(), golden["patch_probability"])
    assert torch.equal(logits.layers.mean(dim=0).topk(25, dim=1).indices, golden["topk_indices"].long())
    close(model.fusion(patches, logits.layers), golden["hsf_feature"])
    close(model.image_embedding(image, patches, logits.layers), golden["final_image_feature"])
    close(logits.image, golden["image_logits"].diff(dim=1).squeeze(1), LOGIT_ATOL)


@torch.no_grad()
def test_map_and_score(files, golden, images, given_labels):
    given_labels(golden["hsf_labels"])
    output = build(files).model(images, NAMES)
    close(output.pred_score, golden["score"])
    close(output.anomaly_map, golden["anomaly_map_gaussian"])
    close(build(files, sigma=0).model(images, NAMES).anomaly_map, golden["anomaly_map"])


@torch.no_grad()
def test_training_probabilities(files, golden, images, given_labels):
    given_labels(golden["hsf_labels"])
    probabilities = build(files).model.probabilities(images, NAMES)
    close(probabilities.maps[:, 0], golden["train_layer_maps_abnormal_0"])
    close(probabilities.image, golden["train_image_probability"][:, 1])


@torch.no_grad()
def test_images_of_a_batch_do_not_influence_each_other(files, golden, images):
    model = build(files).model
    together, alone = model(images, NAMES), model(images[1:2], NAMES[1:2])
    close(alone.anomaly_map, golden["anomaly_map_gaussian"][1:2])
    close(alone.pred_score, together.pred_score[1:2])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("hsf_off", {"hsf": False}),
        ("quick_gelu", {"quick_gelu": True}),
        ("type_S_branch_VL", {"prompting_type": "S", "prompting_branch": "VL"}),
        ("type_S_branch_V", {"prompting_type": "S", "prompting_branch": "V"}),
        ("type_S_branch_L", {"prompting_type": "S", "prompting_branch": "L"}),
        ("type_D_branch_V", {"prompting_type": "D", "prompting_branch": "V"}),
        ("type_SD_branch_V", {"prompting_type": "SD", "prompting_branch": "V"}),
        ("type_SD_branch_L", {"prompting_type": "SD", "prompting_branch": "L"}),
        ("type_SD_branch_none", {"prompting_type": "SD", "prompting_branch": ""}),
        ("half_prompts", {"half_prompts": True}),
    ],
)
@torch.no_grad()
def test_variants(files, golden, images, reference_k_means, name, arguments):
    output = build(files, sigma=0, **arguments).model(images, NAMES)
    close(output.anomaly_map[0], golden[f"variant.{name}.anomaly_map_0"])
    close(output.pred_score, golden[f"variant.{name}.score"])


@torch.no_grad()
def test_fewer_clusters_take_fewer_patches(files, golden, images, given_labels):
    given_labels(golden["variant.k_clusters_4.hsf_labels"])
    model = build(files, k_clusters=4).model
    image, tokens = model.image_features(images)[1]
    patches, layers = model.patch_projections(layer[:, 1:] for layer in tokens), model.logits(images, NAMES).layers
    assert torch.equal(layers.mean(dim=0).topk(20, dim=1).indices, golden["variant.k_clusters_4.topk_indices"].long())
    close(model.fusion(patches, layers), golden["variant.k_clusters_4.hsf_feature"])
    close(model.image_embedding(image, patches, layers), golden["variant.k_clusters_4.final_image_feature"])
    close(model(images, NAMES).pred_score, golden["variant.k_clusters_4.score"])


@pytest.mark.parametrize("trace", ["hsf_on", "hsf_off"])
def test_training_trace(files, golden, images, given_labels, trace):
    module = build(files, hsf=trace == "hsf_on").train()
    loss_per_row = AdaClipLoss(dice_per_row=True)  # as in the measured run, at batch size 1
    optimizer = module.configure_optimizers()
    about, prefix = ABOUT["training"][trace], f"training.{trace}"
    for step, (index,) in enumerate(ABOUT["training"]["protocol"]["steps_image_index"]):
        if trace == "hsf_on":
            given_labels(golden[f"{prefix}.hsf_labels"][step : step + 1])
        probabilities = module.model.probabilities(images[index : index + 1], NAMES[index : index + 1])
        mask, label = _truth(index)
        loss = loss_per_row(probabilities, mask, label)
        close(loss, golden[f"{prefix}.loss"][step], atol=1e-4)
        _check_components(probabilities, mask, label, about["components"][step])
        optimizer.zero_grad()
        loss.backward()
        _check_gradients(module, golden, prefix, about["grad_norms"][step], first=step == 0)
        optimizer.step()
    parameters = _by_reference_key(module)
    for key, norm in about["param_l2_after"].items():
        assert parameters[key].norm().item() == pytest.approx(norm, abs=1e-4), key
    for key, value in _starting_with(golden, f"{prefix}.param_after.").items():
        close(parameters[key], value, atol=3e-4)  # Adam makes much of tiny gradients
    assert all(value.grad is None for value in module.model.backbone.parameters())


def _truth(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    protocol, mask = ABOUT["training"]["protocol"], torch.zeros(1, 70, 70)
    if box := protocol["mask_boxes_y0_y1_x0_x1"][index]:
        top, bottom, left, right = box
        mask[:, top:bottom, left:right] = 1
    return mask, torch.tensor([protocol["anomaly"][index]])


def _check_components(probabilities, mask, label, expected) -> None:
    def check(given: torch.Tensor, value: float) -> None:
        assert given.item() == pytest.approx(value, abs=1e-4)

    check(focal_loss(probabilities.image, label), expected["image_focal"])
    rows = mask[..., None, :]
    for maps, layer in zip(probabilities.maps, expected["per_layer"], strict=True):
        check(focal_loss(maps, mask), layer["focal"])
        check(dice_loss(maps[..., None, :], rows), layer["dice_abnormal"])
        check(dice_loss(1 - maps[..., None, :], 1 - rows), layer["dice_normal"])


def _check_gradients(module, golden, prefix, norms, *, first: bool) -> None:
    parameters = _by_reference_key(module)
    for key, norm in norms.items():
        if norm is None:
            assert parameters[key].grad is None, key
        else:
            assert parameters[key].grad.norm().item() == pytest.approx(norm, rel=2e-3, abs=1e-5), key
    if first:
        for key, value in _starting_with(golden, f"{prefix}.grad_step1.").items():
            close(parameters[key].grad, value)


def _starting_with(golden: dict, prefix: str) -> dict[str, torch.Tensor]:
    found = {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}
    assert found, prefix
    return found


def _by_reference_key(module: AdaClip) -> dict[str, torch.nn.Parameter]:
    parameters = dict(module.model.named_parameters())
    named = {}
    for key in ABOUT["checkpoint_keys"]:
        prefix = max((prefix for prefix in AdaClip.REFERENCE_KEYS if key.startswith(prefix)), key=len)
        named[key] = parameters[AdaClip.REFERENCE_KEYS[prefix] + key.removeprefix(prefix)]
    return named


@torch.no_grad()
def test_reference_checkpoint(files, images, given_labels):
    expected = load_file(FOLDER / "checkpoint_expected.safetensors")
    module = build(files, weights=FOLDER / "checkpoint_sample.pth")
    arguments = ("prompting_depth", "prompting_length", "prompting_branch", "prompting_type")
    assert [module.hparams[name] for name in arguments] == [4, 5, "VL", "SD"]
    without = build(files, weights=FOLDER / "checkpoint_sample.pth", hsf=False, sigma=0).model(images, NAMES)
    close(without.pred_score, expected["hsf_off.score"])
    close(without.anomaly_map, expected["hsf_off.anomaly_map"])
    given_labels(expected["hsf_labels"])
    output = module.model(images, NAMES)
    close(output.pred_score, expected["score"])
    close(output.anomaly_map, expected["anomaly_map_gaussian"])
    plain, (image, _) = module.model.image_features(images)
    close(image, expected["prompted_image_feature"])
    close(module.model.text_features(NAMES, plain), expected["text_features"].transpose(1, 2))


def test_preprocessing(golden):
    image = golden["preprocess.source_image"].permute(2, 0, 1).float() / 255
    close(normalize(resize_images(image, (70, 70))), golden["preprocess.image"])
    mask = resize_masks(golden["preprocess.source_mask"], (70, 70))
    assert torch.equal(mask, golden["preprocess.mask_binary"][0].bool())
