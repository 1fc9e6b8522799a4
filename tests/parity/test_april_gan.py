# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""APRIL-GAN against figures measured on its reference code (erf GELU, fp32, deterministic weights)."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

from anomalib_clipzoo.anomaly.losses import dice_loss, focal_loss, map_loss
from anomalib_clipzoo.anomaly.prompts import ADACLIP_ABNORMAL_STATES, APRIL_GAN_TEMPLATES, NORMAL_STATES
from anomalib_clipzoo.anomaly.references import Reference
from anomalib_clipzoo.models.april_gan import AprilGan, AprilGanModel
from anomalib_clipzoo.models.april_gan.ranges import MaximumRanges
from tests.parity import deterministic
from tests.parity.files import GOLDEN, flatten, write_backbone

FOLDER = GOLDEN / "april_gan"
LAYERS = (6, 12, 18, 24)
CLASSES = ("bottle", "metal_nut", "pcb1")
UNIT_VARIANCE = (3 * 70 * 70) ** 0.5


def close(given: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(given.detach(), expected, atol=atol, rtol=0)


def ours(key: str) -> str:
    """Return what a reference key is called here."""
    ((prefix, name),) = AprilGan.REFERENCE_KEYS.items()
    return name + key.removeprefix(prefix)


@pytest.fixture(scope="module")
def about() -> dict:
    return json.loads((FOLDER / "golden.json").read_text())


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "golden.safetensors")


@pytest.fixture(scope="module")
def build(about, tmp_path_factory):
    """How to build the model that was measured."""
    config = {**about["config"]["cfg"]}
    config["vision_cfg"] = {**config["vision_cfg"], "head_width": about["config"]["head_width"]}
    folder = tmp_path_factory.mktemp("april_gan")
    sample = flatten(torch.load(FOLDER / "checkpoint_sample.pth", weights_only=True))
    learned = {key: deterministic.tensor(key, tuple(value.shape)) for key, value in sample.items()}
    torch.save(learned, folder / "learned.pth")
    settings = {**write_backbone(folder, config), "weights": folder / "learned.pth", "image_size": 70}

    def build(**arguments) -> AprilGan:
        return AprilGan(**{**settings, **arguments}).eval()

    return build


def reference_images(category: str) -> torch.Tensor:
    return deterministic.tensor(f"input.reference.{category}", (4, 3, 70, 70)) * UNIT_VARIANCE


def remember(model: AprilGanModel, category: str, images: torch.Tensor) -> None:
    model.references.precision = torch.float32  # as in the reference code
    model.remember(images, [Reference(category, f"{index}.png") for index in range(len(images))])


# ---- zero-shot ----


def test_words(about):
    assert list(APRIL_GAN_TEMPLATES) == about["templates"]
    assert list(NORMAL_STATES) == about["states"]["normal"]
    assert list(ADACLIP_ABNORMAL_STATES) == about["states"]["abnormal"]


@torch.no_grad()
def test_text(build, golden, about):
    model = build().model
    text, probes = model.backbone.text, about["text"]["probe_sentences"]
    for sentence, ids in zip(probes, about["text"]["probe_token_ids"], strict=True):
        assert text.tokenize([sentence])[0].tolist() == ids
    close(text(text.tokenize(probes)), golden["text.probe_features"])
    assert [len(side) for side in model.ensemble.sentences("bottle")] == list(
        about["text"]["sentences_per_class"].values()
    )
    close(model.text_features(CLASSES), golden["text.features"])


@torch.no_grad()
def test_every_step_of_the_zero_shot_map(build, golden):
    model = build().model
    close(model.backbone.vision.position, golden["visual.position"])
    features = model.image_features(golden["input.image"], LAYERS)
    close(features.image, golden["visual.image_features"])
    for layer in LAYERS:  # values up to 20
        close(features.patches[layer], golden[f"visual.tokens.layer_{layer}"][:, 1:], atol=2e-5)
    projected = model.patch_projections(features.patches[layer] for layer in LAYERS)
    close(projected[:, 0], golden["patch.features.image0"])
    expected = golden["patch.logits"]
    logits = model.logits(features.patches, model.text_features(CLASSES))
    close(logits, expected[..., 1] - expected[..., 0], atol=5e-5)  # a factor of 100
    maps = model.layer_maps(golden["input.image"], CLASSES)
    close(maps, golden["zero.layer_maps"])


@torch.no_grad()
def test_zero_shot_map_and_score(build, golden):
    output = build().model(golden["input.image"], CLASSES)
    close(output.anomaly_map * len(LAYERS), golden["zero.map"])  # the reference sums over layers, we average
    close(output.pred_score, golden["zero.score"])
    expected = golden["zero.score_logits"]
    close(output.pred_score.logit(), expected[:, 1] - expected[:, 0], atol=5e-5)


@torch.no_grad()
def test_one_class_for_all_images(build, golden):
    model = build().model
    close(model(golden["input.image"], ["bottle"]).pred_score, golden["one_category.zero_score"])


@torch.no_grad()
def test_quick_gelu(build, golden):
    model = build(quick_gelu=True).model
    image, tokens = model.backbone.vision(golden["input.image"][:1], (24,))
    close(image, golden["variant.quick_gelu.image_features"])
    close(tokens[0], golden["variant.quick_gelu.tokens_last"], atol=2e-5)
    close(model.encode_text("bottle"), golden["variant.quick_gelu.text_features"])


# ---- few-shot ----


def test_references_are_those_that_were_measured(about):
    for category in CLASSES:
        content = reference_images(category).numpy().tobytes()
        assert hashlib.sha256(content).hexdigest()[:16] == about["images"]["references"]["sha256_16"][category]


@pytest.mark.parametrize("k_shot", [1, 4])
@torch.no_grad()
def test_few_shot_map(build, golden, k_shot):
    """Each image against its own class's texts and references, in one batch."""
    model = build().model
    for category in CLASSES:
        remember(model, category, reference_images(category)[:k_shot])
    features = model.image_features(golden["input.image"], LAYERS)
    distances = model.references.layer_distances(features.patches, CLASSES)
    close(2 * distances, golden[f"few.k{k_shot}.distances"])  # the reference goes without the half
    if k_shot == 4:
        summed = model.maps.upsample(distances).sum(dim=0) * 2
        close(summed, golden["few.k4.reference_map"])
    output = model(golden["input.image"], CLASSES, CLASSES)
    summed = output.anomaly_map * 3 * len(LAYERS)  # the reference sums over layers, 0..1 and 0..2; we average
    close(summed, golden[f"few.k{k_shot}.map"])
    close(summed.amax(dim=(1, 2)), golden[f"few.k{k_shot}.map_max"])
    expected = (golden["zero.score"] + golden[f"few.k{k_shot}.map_max"] / (3 * len(LAYERS))) / 2
    close(output.pred_score, expected)


@pytest.mark.parametrize("k_shot", [1, 4])
@torch.no_grad()
def test_score_among_all_images_of_a_category(build, golden, k_shot):
    """The reference code's score scales maxima by those of all images of the category."""
    expected = golden[f"one_category.k{k_shot}.score"]
    maxima = golden[f"one_category.k{k_shot}.map_max"]
    low, high = maxima.min().item(), maxima.max().item()
    ranges = MaximumRanges()
    ranges.keep({"bottle": (low, high)})
    close((golden["one_category.zero_score"] + ranges.scale(maxima, ["bottle"])) / 2, expected)
    model = build().model
    remember(model, "bottle", reference_images("bottle")[:k_shot])
    given = model(golden["input.image"], ["bottle"], ["bottle"]).anomaly_map.amax(dim=(1, 2))
    close(given * 3 * len(LAYERS), maxima)
    model.ranges.keep({"bottle": (given.min().item(), given.max().item())})
    narrow = high - low  # 0.02: what the scaling makes of rounding
    close(model(golden["input.image"], ["bottle"], ["bottle"]).pred_score, expected, atol=1e-5 / narrow)
    alone = model(golden["input.image"][:1], ["bottle"], [None])  # the only category that there is
    close(alone.pred_score, expected[:1], atol=1e-5 / narrow)


@torch.no_grad()
def test_an_image_that_is_its_own_reference(build, golden):
    model = build().model
    remember(model, "bottle", golden["input.image"])
    features = model.image_features(golden["input.image"], LAYERS)
    distances = model.references.layer_distances(features.patches, ["bottle"])
    assert 2 * distances.max() <= golden["few.self_distance_max"].max() + 1e-6


@torch.no_grad()
def test_other_layers_for_references_than_for_texts(build, golden):
    """With K layers for the texts and K' for the references the reference code's sum weighs them K to 2 K'."""
    model = build(reference_layers=(6, 18)).model
    whole = build().model
    for each in (model, whole):
        for category in CLASSES:
            remember(each, category, reference_images(category))
    distances = whole.references.layer_distances(whole.image_features(golden["input.image"], LAYERS).patches, CLASSES)
    expected = golden["zero.map"] + 2 * whole.maps.upsample(distances[[0, 2]]).sum(dim=0)
    close(model(golden["input.image"], CLASSES, CLASSES).anomaly_map * (4 + 2 * 2), expected)


# ---- training ----


def masks_of(about: dict, letter: str) -> torch.Tensor:
    masks = torch.zeros(3, 70, 70)
    for image, top, bottom, left, right in about["training"]["masks"][letter]:
        masks[image, top:bottom, left:right] = 1
    return masks


def test_training_trace(build, golden, about):
    module = build().train()
    model, optimizer = module.model, module.configure_optimizers()
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    second = deterministic.tensor("input.image_b", (3, 3, 70, 70)) * UNIT_VARIANCE
    images = {"A": golden["input.image"], "B": second}
    training = about["training"]
    for expected in training["steps"]:
        letter = expected["batch"]
        maps = model.layer_maps(images[letter], training["classes"][letter])
        masks = masks_of(about, letter)
        for layer, (focal, dice) in zip(maps, expected["focal_dice_per_layer"], strict=True):
            assert focal_loss(layer, masks).item() == pytest.approx(focal, abs=1e-4)
            assert dice_loss(layer, masks).item() == pytest.approx(dice, abs=1e-4)
        loss = map_loss(maps, masks)
        assert loss.item() == pytest.approx(expected["loss"], abs=1e-4)
        optimizer.zero_grad()
        loss.backward()
        if expected["step"] == 0:
            compare(golden, "grad1", {name: value.grad for name, value in parameters.items()})
            for key, norm in training["l2_norms_of_first_gradient"].items():
                assert parameters[ours(key)].grad.norm().item() == pytest.approx(norm, rel=1e-4), key
        optimizer.step()
    compare(golden, "after5", parameters)
    for key, norm in training["l2_norms_after_5_steps"].items():
        assert parameters[ours(key)].norm().item() == pytest.approx(norm, rel=1e-4), key
    assert all(value.grad is None for value in model.backbone.parameters())


def compare(golden: dict[str, torch.Tensor], when: str, values: dict[str, torch.Tensor]) -> None:
    """Compare with what was kept of the tensors: all of a small one, the first rows of a large one."""
    compared = 0
    for name, expected in golden.items():
        if name.startswith(f"train.{when}."):
            key = name.removeprefix(f"train.{when}.").partition(".rows")[0]
            close(values[ours(key)][: len(expected)], expected)
            compared += 1
    assert compared >= 5


def test_loss_of_a_batch_of_one(build, golden, about):
    """Dice is per image, where the reference's squeeze makes it an average over rows."""
    expected = about["training"]["batch_of_one"]
    index = expected["image"]
    maps = build().model.layer_maps(golden["input.image"][index][None], [CLASSES[index]])
    loss = map_loss(maps, masks_of(about, "A")[index][None])
    assert loss.item() == pytest.approx(expected["loss_per_image_dice"], abs=1e-4)


# ---- checkpoint ----


@torch.no_grad()
def test_reference_checkpoint(build, golden):
    expected = load_file(FOLDER / "checkpoint_expected.safetensors")
    model = build(weights=FOLDER / "checkpoint_sample.pth").model
    output = model(golden["input.image"], CLASSES)
    close(output.anomaly_map * len(LAYERS), expected["zero.map"])
    close(output.pred_score, expected["zero.score"])
    for category in CLASSES:
        remember(model, category, reference_images(category))
    close(model(golden["input.image"], CLASSES, CLASSES).anomaly_map * 3 * len(LAYERS), expected["few.k4.map"])
