# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Crane against figures measured on its reference code (QuickGELU, fp32, deterministic weights, no DINO)."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from anomalib_clipzoo.anomaly.losses import dice_loss, focal_loss, map_loss
from anomalib_clipzoo.models.crane import Crane
from tests.parity import deterministic
from tests.parity.files import GOLDEN, write_backbone

FOLDER = GOLDEN / "crane"
LAYERS = (6, 12, 18, 24)
LEARNED = "prompt_learner."


def close(given: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(given.detach(), expected, atol=atol, rtol=0)


def ours(key: str) -> str:
    """Return what a key of the reference's prompt learner is called here."""
    prefix = max((prefix for prefix in Crane.REFERENCE_KEYS if (LEARNED + key).startswith(prefix)), key=len)
    return Crane.REFERENCE_KEYS[prefix] + (LEARNED + key).removeprefix(prefix)


@pytest.fixture(scope="module")
def about() -> dict:
    return json.loads((FOLDER / "golden.json").read_text())


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "golden.safetensors")


@pytest.fixture(scope="module")
def images(golden) -> dict[str, torch.Tensor]:
    shape = tuple(golden["input.image"].shape)
    second = deterministic.tensor("input.image_b", shape) * (3 * 70 * 70) ** 0.5
    return {"A": golden["input.image"], "B": second}


@pytest.fixture(scope="module")
def build(about, tmp_path_factory):
    """How to build the model that was measured."""
    config = {**about["config"]["cfg"]}
    config["vision_cfg"] = {**config["vision_cfg"], "head_width": about["config"]["head_width"]}
    folder = tmp_path_factory.mktemp("crane")
    sample = torch.load(FOLDER / "checkpoint_sample.pth", weights_only=True)["prompt_learner"]
    learned = {key: deterministic.tensor(key, tuple(value.shape)) for key, value in sample.items()}
    torch.save({"prompt_learner": learned}, folder / "learned.pth")
    settings = {**write_backbone(folder, config), "weights": folder / "learned.pth", "image_size": 70, "sigma": 4}

    def build(**arguments) -> Crane:
        return Crane(**{**settings, **arguments}).eval()

    return build


@torch.no_grad()
def test_text(build, golden, about):
    model = build().model
    text = model.backbone.text
    close(model.prompts.encode(text)[0], golden["text.features_raw"])
    close(model.encode_text(), golden["text.features"][0])
    assert model.prompts.end.tolist() == about["eot_index"]["without the image"]
    features = model.image_features(golden["input.image"])
    tokens = model.prompts.tokens(features.image)
    length = tokens.shape[2]
    close(tokens[0], golden["cond.text.prompts.image0"][:, :length], atol=1e-6)
    assert (model.prompts.end + 1).tolist() == golden["cond.text.tokenized"].argmax(dim=1).tolist()
    close(model.encode_text_for(features), golden["cond.text.features"])


@torch.no_grad()
def test_every_step_of_the_image_tower(build, golden):
    model = build(layers=(5, *LAYERS)).model
    vision = model.backbone.vision
    close(vision.position, golden["visual.position"])
    class_token, (before, *local), _ = model.dual_path(vision, golden["input.image"])
    # The streams are not normalised (values up to 50).
    close(before[:1], golden["visual.block5_out"], atol=3e-5)
    close(class_token[:1], golden["visual.own_last"][:, 0], atol=3e-5)
    close(vision.project(class_token), golden["visual.image_features_raw"])
    features = model.image_features(golden["input.image"])
    close(features.image, functional.normalize(golden["visual.image_features_raw"], dim=-1))
    for index, (layer, stream) in enumerate(zip(LAYERS, local, strict=True), start=1):
        close(stream[:1], golden[f"visual.local_{layer}"], atol=3e-5)
        close(vision.project(stream[:, 1:]), golden[f"visual.patch_{layer}"])
        close(features.patches[index], functional.normalize(golden[f"visual.patch_{layer}"], dim=-1))


@torch.no_grad()
def test_pooling_score_and_map(build, golden):
    model = build().model
    features = model.image_features(golden["input.image"])
    image, patches = model.compare(features, model.encode_text())
    expected = golden["sim.logits_24"]
    close(patches[0], expected[..., 1] - expected[..., 0])
    close(patches[0].sigmoid(), golden["pool.weights"])
    close(model.image_embedding(features, patches), golden["pool.fused"])
    close(model.pool(features, patches), golden["pool.feature"])
    close(image, golden["score.logits"])
    close(model.maps.upsample(patches.sigmoid())[0, 0], golden["map.unsmoothed.image0"])
    output = model(golden["input.image"])
    close(output.pred_score, golden["score"])
    close(output.anomaly_map, golden["map.final"])


@torch.no_grad()
def test_images_of_a_batch_do_not_influence_each_other(build, golden):
    for arguments, prefix in (({}, ""), ({"image_token_at_test": True}, "cond.")):
        output = build(**arguments).model(golden["input.image"][1:2])
        close(output.pred_score, golden[f"{prefix}score"][1:2])
        close(output.anomaly_map, golden[f"{prefix}map.final"][1:2])


@torch.no_grad()
def test_prompts_that_see_the_image(build, golden):
    model = build(image_token_at_test=True).model
    output = model(golden["input.image"])
    close(output.pred_score, golden["cond.score"])
    close(output.anomaly_map, golden["cond.map.final"])
    features = model.image_features(golden["input.image"])
    patches = model.compare(features, model.text_features_for(features)).patches
    close(model.pool(features, patches), golden["cond.pool.feature"])


@pytest.mark.parametrize("image_token", ["replace_prefix", "replace_suffix", "pad_prefix"])
@torch.no_grad()
def test_where_the_image_goes(build, golden, image_token):
    model = build(image_token=image_token, image_token_at_test=True).model
    close(
        model.encode_text_for(model.image_features(golden["input.image"])),
        golden[f"variant.cond_{image_token}.text.features"],
    )
    close(model(golden["input.image"]).pred_score, golden[f"variant.cond_{image_token}.score"])
    close(model.encode_text(), golden["text.features"][0])  # without the image all are the same


@torch.no_grad()
def test_no_image_token(build, golden):
    output = build(image_token="none", image_token_at_test=True).model(golden["input.image"])
    close(output.anomaly_map, golden["map.final"])


@torch.no_grad()
def test_genuine_layers(build, golden):
    model = build(layers=LAYERS).model
    output = model(golden["input.image"])
    close(output.pred_score, golden["variant.true_layers.score"])
    close(output.anomaly_map, golden["variant.true_layers.map.final"])
    features = model.image_features(golden["input.image"])
    patches = model.compare(features, model.encode_text()).patches
    close(patches.mean(dim=0).sigmoid(), golden["variant.true_layers.pool.weights"])
    close(model.pool(features, patches), golden["variant.true_layers.pool.feature"])


@pytest.mark.parametrize(("layers", "name"), [(None, "soft_mean_false"), (LAYERS, "true_layers_soft_mean_false")])
@torch.no_grad()
def test_mean_of_logits(build, golden, layers, name):
    output = build(layers=layers, soft_mean=False).model(golden["input.image"])
    close(output.anomaly_map[0], golden[f"variant.{name}.map.final.image0"])


@torch.no_grad()
def test_without_pooling(build, golden):
    close(build(scorebase_pooling=False).model(golden["input.image"]).pred_score, golden["variant.no_pooling.score"])


@pytest.mark.parametrize(
    ("local_attention", "name"),
    [("vv", "vv"), ("kk", "kk"), ("qq", "qq"), ("qq+kk", "qq_kk"), ("(q+k+v)^2", "qkv_concat")],
)
@torch.no_grad()
def test_attentions(build, golden, local_attention, name):
    model = build(local_attention=local_attention).model
    vision = model.backbone.vision
    (local,) = model.dual_path(vision, golden["input.image"]).local
    close(vision.project(local[:1, 1:]), golden[f"variant.attn_{name}.patch_last.image0"])
    close(model(golden["input.image"]).pred_score, golden[f"variant.attn_{name}.score"])


@torch.no_grad()
def test_without_half_rounding(build, golden):
    model = build(half_prompts=False).model
    close(model.encode_text(), golden["variant.no_half.text.features"][0])
    close(
        model.encode_text_for(model.image_features(golden["input.image"])), golden["variant.no_half.cond.text.features"]
    )
    close(model(golden["input.image"]).pred_score, golden["variant.no_half.score"])


# ---- training ----


@pytest.mark.parametrize(
    ("name", "arguments", "local_weight"),
    [
        ("main", {}, 8),
        ("last_only", {}, 2),
        ("true_layers", {"layers": LAYERS}, 8),
        ("unconditioned", {}, 8),
        ("bilinear", {"upsampling": "bilinear"}, 8),
        ("no_half", {"half_prompts": False}, 8),
    ],
)
def test_training_trace(build, golden, about, images, name, arguments, local_weight):
    """Five steps; gradients rounded to half precision jump, so deep prompts of faithful implementations differ."""
    trace = about["training"]["traces"][name]
    module = build(**arguments, local_weight=local_weight).train()
    model = module.model
    optimizer = module.configure_optimizers()
    parameters = dict(model.named_parameters())
    for step, letter in enumerate("ABABA"):
        labels, masks = torch.tensor(about["training"]["labels"][letter]), masks_of(about, letter)
        features = model.image_features(images[letter])
        text = model.encode_text_for(features) if trace["conditioned"] else model.encode_text()
        logits, patches = model.compare(features, text)
        maps = model.layer_maps(patches)
        expected = trace["steps"][step]
        for layer, (focal, dice) in zip(maps, expected["parts_focal_dice_per_tap"], strict=False):
            assert focal_loss(layer, masks).item() == pytest.approx(focal, abs=1e-4)
            assert dice_loss(layer, masks).item() == pytest.approx(dice, abs=1e-4)
        total = module.loss(logits, maps, labels, masks)
        assert total.item() == pytest.approx(expected["total"], abs=1e-4)
        image_loss = total - local_weight * map_loss(maps, masks) / len(maps)
        assert image_loss.item() / 0.2 == pytest.approx(expected["image_ce"], abs=1e-4)
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            check_gradients(parameters, golden, trace, name)
        optimizer.step()
    check_trained_parameters(parameters, golden, trace, name)
    assert all(value.grad is None for value in model.backbone.parameters())


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


def test_loss_of_a_batch_of_one(build, about, images):
    """Dice is per image, where the reference's squeeze makes it an average over rows."""
    expected = about["training"]["batch_of_one"]
    module = build()
    model = module.model
    features = model.image_features(images["A"][expected["image"]][None])
    logits, patches = model.compare(features, model.encode_text_for(features))
    mask = masks_of(about, "A")[expected["image"]][None]
    loss = module.loss(logits, model.layer_maps(patches), torch.tensor([expected["label"]]), mask)
    assert loss.item() == pytest.approx(expected["loss_per_image_dice"], abs=1e-4)


# ---- checkpoints ----


@torch.no_grad()
def test_reference_checkpoint(build, golden):
    expected = load_file(FOLDER / "checkpoint_expected.safetensors")
    for arguments, prefix in (({}, ""), ({"image_token_at_test": True}, "cond.")):
        model = build(weights=FOLDER / "checkpoint_sample.pth", **arguments).model
        output = model(golden["input.image"])
        close(output.pred_score, expected[f"{prefix}score"])
        close(output.anomaly_map, expected[f"{prefix}map.final"])
    close(model.encode_text(), expected["text.features"][0])


@pytest.mark.slow
@torch.no_grad()
def test_published_checkpoint(build, golden, about, tmp_path):
    """The authors' own file, on a CLIP made from names that is as wide as the one it was learned on."""
    config = json.loads(json.dumps(about["config"]["cfg"]))
    config["embed_dim"] = config["text_cfg"]["width"] = 768
    config["text_cfg"]["heads"] = 12
    config["vision_cfg"]["head_width"] = about["config"]["head_width"]
    weights = FOLDER / "trained_on_mvtec_crane_epoch_5.pth"
    model = build(**write_backbone(tmp_path, config), weights=weights).model
    expected = load_file(FOLDER / "real_checkpoint_expected.safetensors")
    prefix = "mvtec.own_embeddings."
    close(model.encode_text(), expected[f"{prefix}text.features"])
    output = model(golden["input.image"])
    close(output.pred_score, expected[f"{prefix}score"])
    close(output.anomaly_map, expected[f"{prefix}map.final"])
    model.image_token_at_test = True
    close(model.encode_text_for(model.image_features(golden["input.image"])), expected[f"{prefix}cond.text.features"])
    close(model(golden["input.image"]).pred_score, expected[f"{prefix}cond.score"])
