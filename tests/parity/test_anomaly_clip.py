# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AnomalyCLIP against figures measured on its reference code (QuickGELU, fp32, deterministic weights)."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from anomalib_clipzoo.anomaly.losses import dice_loss, focal_loss, map_loss
from anomalib_clipzoo.clip.preprocess import normalize, resize_images, resize_masks
from anomalib_clipzoo.models.anomaly_clip import AnomalyClip
from tests.parity import deterministic
from tests.parity.files import GOLDEN, write_backbone

FOLDER = GOLDEN / "anomaly_clip"
LAYERS = (6, 12, 18, 24)
LEARNED = "prompt_learner."


def close(given: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(given.detach(), expected, atol=atol, rtol=0)


@pytest.fixture(scope="module")
def about() -> dict:
    return json.loads((FOLDER / "golden.json").read_text())


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "golden.safetensors")


@pytest.fixture(scope="module")
def build(about, tmp_path_factory):
    """How to build the model that was measured."""
    folder = tmp_path_factory.mktemp("anomaly_clip")
    config = about["config"]
    vision = {"image_size": config["native_size"], "patch_size": config["patch_size"]}
    vision |= {"width": config["vision_width"], "layers": config["vision_layers"], "head_width": config["head_width"]}
    text = {"context_length": config["context_length"], "vocab_size": config["vocab_size"]}
    text |= {"width": config["text_width"], "layers": config["text_layers"], "heads": 2}
    backbone = write_backbone(folder, {"embed_dim": config["embed_dim"], "vision_cfg": vision, "text_cfg": text})
    sample = torch.load(FOLDER / "checkpoint_sample.pth", weights_only=True)["prompt_learner"]
    learned = {key: deterministic.tensor(key, tuple(sample[key].shape)) for key in sample if ours(key)}
    torch.save({"prompt_learner": learned}, folder / "learned.pth")
    settings = {"weights": folder / "learned.pth", "image_size": 70, "sigma": 4, "layers": LAYERS}

    def build(**arguments) -> AnomalyClip:
        return AnomalyClip(**backbone, **{**settings, **arguments}).eval()

    return build


def ours(key: str) -> str | None:
    """Return what a key of the reference's prompt learner is called here; ``None`` for what is not needed."""
    prefix = max((prefix for prefix in AnomalyClip.REFERENCE_KEYS if (LEARNED + key).startswith(prefix)), key=len)
    name = AnomalyClip.REFERENCE_KEYS[prefix]
    return None if name is None else name + (LEARNED + key).removeprefix(prefix)


@torch.no_grad()
def test_text(build, golden, about):
    model = build().model
    tokens = model.prompts.tokens()[0]
    close(tokens[:, :17], golden["text.prompts"][:, :17], atol=0)
    assert tokens.shape[1] == 17  # what follows the end of text has no influence
    assert model.prompts.end.tolist() == about["token_ids"]["eot_index"]
    close(model.prompts.encode(model.backbone.text)[0], golden["text.features_raw"])
    close(model.encode_text(), golden["text.features"][0])


@torch.no_grad()
def test_every_step_of_the_image_tower(build, golden):
    model = build().model
    vision = model.backbone.vision
    close(vision.position, golden["visual.pos_embed"])
    class_token, local, _ = model.dual_path(vision, golden["input.image"])
    _, tokens = vision(golden["input.image"], (5, 24))
    # The residual streams are not normalised (values up to 12): 1e-5 of their size.
    close(tokens[0][:1] / 12, golden["visual.block5_out"] / 12)
    close(tokens[1][:1] / 12, golden["visual.x_ori_last"] / 12)
    close(class_token / 12, golden["visual.cls_pre_proj"] / 12)
    image_features = class_token @ vision.projection
    close(image_features / 12, golden["visual.image_features_raw"] / 12)
    close(functional.normalize(image_features, dim=-1), golden["visual.image_features"])
    for layer, stream in zip(LAYERS, local, strict=True):
        close(stream[:1] / 12, golden[f"visual.tap_{layer}"] / 12)
        close(vision.project(stream), golden[f"visual.patch_{layer}"])


@torch.no_grad()
def test_similarities_and_maps(build, golden):
    model = build().model
    logits, patches = model.compare(model.image_features(golden["input.image"]), model.encode_text())
    close(logits, golden["score.logits"])
    maps = model.layer_maps(patches)
    for index, layer in enumerate(LAYERS):
        close(patches[index].sigmoid(), golden[f"sim.layer_{layer}"][..., 1])
        close(maps[index], golden[f"map.layer_{layer}"])
    close(maps.sum(0), golden["map.sum"])


@torch.no_grad()
def test_map_and_score(build, golden):
    output = build().model(golden["input.image"])
    close(output.anomaly_map * len(LAYERS), golden["map.final"])  # the reference sums over layers, we average
    close(output.pred_score, golden["score"])


@torch.no_grad()
def test_images_of_a_batch_do_not_influence_each_other(build, golden):
    output = build().model(golden["input.image"][1:2])
    close(output.anomaly_map * len(LAYERS), golden["map.final"][1:2])
    close(output.pred_score, golden["score"][1:2])


@torch.no_grad()
def test_last_layer_alone_is_the_default(build, golden):
    output = build(layers=None).model(golden["input.image"])
    close(output.anomaly_map, golden["variant.last_only.map.final"])
    close(output.pred_score, golden["score"])


@torch.no_grad()
def test_without_half_rounding(build, golden):
    model = build(half_prompts=False).model
    close(model.encode_text(), golden["variant.no_half.text.features"][0])
    output = model(golden["input.image"])
    close(output.anomaly_map * len(LAYERS), golden["variant.no_half.map.final"])
    close(output.pred_score, golden["variant.no_half.score"])
    rounding = golden["variant.no_half.text.features"] - golden["text.features"]
    assert rounding.abs().max() > 2e-5  # so the two tests do tell the two apart


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("main", {}), ("last_only", {"layers": (24,)}), ("no_half", {"half_prompts": False})],
)
def test_training_trace(build, golden, about, name, arguments):
    """Five steps; gradients rounded to half precision jump, so deep prompts of faithful implementations differ."""
    trace = about["training"]["traces"][name]
    module = build(**arguments).train()
    optimizer = module.configure_optimizers()
    parameters = {name: value for name, value in module.model.named_parameters() if value.requires_grad}
    images = {
        "A": golden["input.image"],
        "B": deterministic.tensor("input.image_b", tuple(golden["input.image"].shape)),
    }
    for step, letter in enumerate("ABABA"):
        labels, masks = torch.tensor(about["training"]["labels"][letter]), masks_of(about, letter)
        features = module.model.image_features(images[letter])
        logits, patches = module.model.compare(features, module.model.encode_text())
        maps = module.model.layer_maps(patches)
        expected = trace["steps"][step]
        loss = module.loss(logits, maps, labels, masks)
        local = 4 * map_loss(maps, masks, normal_too=True)
        assert loss.item() == pytest.approx(expected["total"], abs=1e-4)
        assert local.item() == pytest.approx(expected["local_loss_times_lambda"], abs=1e-4)
        assert (loss - local).item() == pytest.approx(expected["image_loss"], abs=1e-4)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            check_gradients(parameters, golden, trace, name)
        optimizer.step()
    check_trained_parameters(parameters, golden, trace, name)
    assert all(value.grad is None for value in module.model.backbone.parameters())
    assert {id(value) for group in optimizer.param_groups for value in group["params"]} == {
        id(value) for value in parameters.values()
    }


def masks_of(about: dict, letter: str) -> torch.Tensor:
    masks = torch.zeros(3, 70, 70)
    for image, top, bottom, left, right in about["training"]["masks"][letter]:
        masks[image, top:bottom, left:right] = 1
    return masks


def check_gradients(parameters, golden, trace, name) -> None:
    for key, norm in trace["l2_norms_of_first_gradient"].items():
        gradient = parameters[ours(key)].grad
        rounded = key.startswith("compound") and name != "no_half"
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-3 if rounded else 1e-4), key
        if f"train.{name}.grad1.{key}" in golden:
            close(gradient, golden[f"train.{name}.grad1.{key}"], atol=5e-4 if rounded else 1e-5)


def check_trained_parameters(parameters, golden, trace, name) -> None:
    for key, norm in trace["l2_norms_after_5_steps"].items():
        value = parameters[ours(key)]
        assert value.norm().item() == pytest.approx(norm, rel=1e-5), key
        if f"train.{name}.after5.{key}" in golden:
            rounded = key.startswith("compound") and name != "no_half"
            close(value, golden[f"train.{name}.after5.{key}"], atol=1e-4 if rounded else 1e-5)


@pytest.mark.parametrize(("layers", "suffix"), [(LAYERS, ""), (None, "_last_only")])
@torch.no_grad()
def test_reference_checkpoint(build, golden, layers, suffix):
    expected = load_file(FOLDER / "checkpoint_expected.safetensors")
    module = build(weights=FOLDER / "checkpoint_sample.pth", layers=layers)
    close(module.model.prompts.normal, expected["ctx_pos"], atol=0)
    close(module.model.encode_text(), expected["text.features"][0])
    output = module.model(golden["input.image"])
    close(output.anomaly_map * len(layers or [24]), expected[f"map{suffix}"])
    close(output.pred_score, expected[f"score{suffix}"])
    assert (module.hparams.n_ctx, module.hparams.depth, module.hparams.t_n_ctx) == (12, 9, 4)


def test_losses():
    extras = load_file(FOLDER / "extras.safetensors")
    abnormal, masks = extras["loss.prob"][:, 1], extras["loss.gt"]
    close(focal_loss(abnormal, masks), extras["loss.focal"])
    close(dice_loss(abnormal, masks), extras["loss.dice_abnormal"])
    close(dice_loss(extras["loss.prob"][:, 0], 1 - masks), extras["loss.dice_normal"])


def test_preprocessing_equals_pillow():
    extras = load_file(FOLDER / "extras.safetensors")
    image = extras["preprocess.image_u8"].permute(2, 0, 1).float() / 255
    close(normalize(resize_images(image, (42, 42))), extras["preprocess.image"])
    masks = resize_masks(extras["preprocess.mask_u8"], (42, 42))
    assert torch.equal(masks, extras["preprocess.mask_binary"][0] > 0.5)
