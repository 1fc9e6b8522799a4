# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""VCP-CLIP against figures measured on its reference code (erf GELU, fp32, deterministic weights)."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from anomalib_clipzoo.clip.preprocess import normalize, resize_images, resize_masks
from anomalib_clipzoo.models.vcp_clip import VcpClip
from tests.parity import deterministic
from tests.parity.files import GOLDEN, flatten, write_backbone

FOLDER = GOLDEN / "vcp_clip"
LAYERS = (6, 12, 18, 24)
# Their true gradient is zero, so Adam turns round-off into steps; no output depends on them.
WITHOUT_GRADIENT = {"Zero_try.k_proj_pre_1.bias", "New_Lan_Embed.prompt_linear1.fc.bias"}


def close(given: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(given.detach(), expected, atol=atol, rtol=0)


@pytest.fixture(scope="module", params=["golden", "golden_strong"])
def case(request, tmp_path_factory):
    """A golden file, its description, and how to build the model that it was measured on."""
    folder = tmp_path_factory.mktemp(request.param)
    about = json.loads((FOLDER / f"{request.param}.json").read_text())
    golden = load_file(FOLDER / f"{request.param}.safetensors")
    backbone = write_backbone(folder, about["config"]["cfg"])
    sample = flatten(torch.load(FOLDER / "checkpoint_sample.pth", weights_only=True))

    def build(multipliers=None, **arguments) -> VcpClip:
        learned = {key: deterministic.tensor(key, tuple(value.shape)) for key, value in sample.items()}
        for key, factor in (multipliers or about["config"]["weight_multipliers"]).items():
            learned[key] = learned[key] * factor
        torch.save(learned, folder / "learned.pth")
        settings = {"weights": folder / "learned.pth", "image_size": 70, "sigma": 8, "top_pixels": 2000}
        return VcpClip(**backbone, **settings, **arguments).eval()

    images = golden.get("input.image", deterministic.tensor("input.image", (3, 3, 70, 70)))
    if about["config"]["unit_variance_image"] and images.std() < 0.1:
        images = images * math.sqrt(3 * 70 * 70)
    return about, golden, images, build


def masks() -> torch.Tensor:
    masks = torch.zeros(3, 70, 70)
    masks[0, 10:30, 20:45] = 1
    masks[1, 40:62, 5:25] = 1
    return masks


@torch.no_grad()
def test_every_step_of_inference(case):
    _, golden, images, build = case
    model = build().model
    features, tokens = model.backbone.vision(images, LAYERS)
    close(features, golden["image_features"])
    close(model.pre_vcp(features), golden["visual_context"])
    text = model.encode_text(features)
    close(text, golden["text_features"])
    patches = torch.stack(tokens)[:, :, 1:]
    base, post = model.base_logits(patches, text), model.post_logits(patches, text)
    adapted = model.post_vcp.adapt(text, torch.nn.functional.normalize(patches, dim=-1))
    for index, layer in enumerate(LAYERS):
        # The residual stream is not normalised (values up to 12): 1e-5 of its size.
        expected = golden[f"patch_tokens.layer{layer}"]
        close(tokens[index] / expected.abs().max(), expected / expected.abs().max())
        close(adapted[index], golden[f"post.text.layer{layer}"])
        close(base[index], golden[f"base.logits.layer{layer}"])
        close(post[index], golden[f"post.logits.layer{layer}"])
    maps = model.layer_maps(images)
    for index, layer in enumerate(LAYERS):
        close(maps.base[index, 0, ::2, ::2], golden[f"base.prob.layer{layer}.image0"])
        close(maps.post[index, 0, ::2, ::2], golden[f"post.prob.layer{layer}.image0"])
    close(maps.base.mean(0), golden["map_raw"])
    close(maps.post.mean(0), golden["map_new"])


@torch.no_grad()
def test_map_and_score(case):
    _, golden, images, build = case
    output = build().model(images)
    close(output.anomaly_map, golden["map_final"])
    close(2 * output.pred_score, golden["image_score"])  # the reference sums the branches, we average


@torch.no_grad()
def test_images_of_a_batch_do_not_influence_each_other(case):
    _, golden, images, build = case
    close(build().model(images[1:2]).anomaly_map, golden["map_final"][1:2])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("no_global", {"use_global": False}),
        ("no_deep_prompt", {"deep_prompt_len": 0}),
        ("no_global_no_deep_prompt", {"use_global": False, "deep_prompt_len": 0}),
        (
            "two_templates",
            {
                "normal_prompts": ["a photo of a good {}", "a photo of a {} without defect"],
                "abnormal_prompts": ["a photo of a damaged {}", "a photo of a {} with defect"],
            },
        ),
        (
            "state_perfect_flawed",
            {"normal_prompts": ["a photo of a perfect {}"], "abnormal_prompts": ["a photo of a flawed {}"]},
        ),
        ("sharp_attention", {"multipliers": {"Zero_try.q_proj_pre.weight": 100.0}}),
    ],
)
@pytest.mark.parametrize("case", ["golden"], indirect=True)
@torch.no_grad()
def test_variants(case, name, arguments):
    _, golden, images, build = case
    model = build(**arguments).model
    close(model.encode_text(model.backbone.vision(images).image), golden[f"variant.{name}.text_features"])
    maps = model.layer_maps(images)
    close(maps.base.mean(0)[0], golden[f"variant.{name}.map_raw.image0"])
    close(maps.post.mean(0)[0], golden[f"variant.{name}.map_new.image0"])


@pytest.mark.parametrize("case", ["golden"], indirect=True)
@torch.no_grad()
def test_one_branch_alone_is_that_branch_of_the_whole(case):
    _, golden, images, build = case
    for branch, expected in (("base", "map_raw"), ("post", "map_new")):
        model = build(branch=branch).model
        close(model.branch_maps(model.layer_maps(images))[0][1], golden[expected])


def test_training_trace(case):
    about, golden, images, build = case
    module = build()
    module.model.train()
    module.model.deep_prompts.dropout.p = 0.0  # as in the measured run
    optimizer = module.configure_optimizers()
    names = {id(value): key for key, value in module.model.named_parameters()}
    start = {key: value.detach().clone() for key, value in module.model.named_parameters()}
    for step in range(5):
        maps = module.model.layer_maps(images)
        loss = module.loss(maps, masks())
        close(loss, golden["train.loss"][step], atol=1e-4)
        close(module.loss(maps._replace(post=None), masks()), golden["train.loss_base"][step], atol=1e-4)
        close(module.loss(maps._replace(base=None), masks()), golden["train.loss_new"][step], atol=1e-4)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            close(module.model.pre_vcp.query.grad, golden["train.grad1.New_Lan_Embed.prompt_query"])
            close(module.model.deep_prompts.deep.grad, golden["train.grad1.deep_prompt_embeddings"])
        optimizer.step()
        # 1e-5 of their size, which is 2.7
        close(module.model.temperature, golden["train.prompt_temp"][step], atol=3e-5)
        close(module.model.post_vcp.temperature, golden["train.prompt_temp_l1"][step], atol=3e-5)
    _check_trained_parameters(module, about, golden, start)
    if "after_training.map_final" in golden:
        with torch.no_grad():
            output = module.eval().model(images)
        close(output.anomaly_map, golden["after_training.map_final"])
        close(2 * output.pred_score, golden["after_training.image_score"])
    assert all(value.grad is None for value in module.model.backbone.parameters())
    assert {names[id(value)] for group in optimizer.param_groups for value in group["params"]} == {
        key for key in start if not key.startswith("backbone.")
    }


def _check_trained_parameters(module, about, golden, start) -> None:
    """Compare values after five steps, and of the large matrices the norms and how far they moved."""
    for key, expected in about["training"]["params"].items():
        if key in WITHOUT_GRADIENT or key == "prompt_text_projection":
            continue
        name = ours(key)
        value = dict(module.model.named_parameters())[name].detach()
        moved = (value - start[name]).norm().item()
        assert value.norm().item() == pytest.approx(expected["l2_after"], rel=1e-5), key
        # 1e-4 of the change, on top of how far the reference itself is from its own float64 run.
        tolerance = 1e-4 * expected["l2_change"] + expected["max_abs_diff_to_float64_run"]
        assert moved == pytest.approx(expected["l2_change"], rel=0, abs=tolerance), key
        if f"train.after.{key}" in golden:
            # Adam turns the round-off of a tiny gradient into a step of its own, which differs between processors: so
            # the whole tensor counts, beside how far the reference is from its own float64 run.
            difference = (
                (value.reshape(golden[f"train.after.{key}"].shape) - golden[f"train.after.{key}"]).norm().item()
            )
            noise = expected["max_abs_diff_to_float64_run"] * value.numel() ** 0.5
            assert difference <= 5e-3 * expected["l2_change"] + noise, key


def ours(key: str) -> str:
    """Return what a reference key is called here."""
    prefix = max((prefix for prefix in VcpClip.REFERENCE_KEYS if key.startswith(prefix)), key=len)
    return VcpClip.REFERENCE_KEYS[prefix] + key.removeprefix(prefix)


@pytest.mark.parametrize("case", ["golden"], indirect=True)
@torch.no_grad()
def test_reference_checkpoint(case):
    _, _, images, build = case
    expected = load_file(FOLDER / "checkpoint_expected.safetensors")
    module = VcpClip(**{**_arguments(build), "weights": FOLDER / "checkpoint_sample.pth"}).eval()
    output = module.model(images)
    close(output.anomaly_map, expected["map_final"])
    close(2 * output.pred_score, expected["image_score"])
    assert module.hparams.prompt_len == 2
    assert module.hparams.deep_prompt_len == 1


def _arguments(build) -> dict:
    hparams = build().hparams
    return {key: hparams[key] for key in ("backbone", "pretrained", "image_size", "sigma", "top_pixels")}


def test_preprocessing_equals_pillow():
    golden = load_file(FOLDER / "preprocess.safetensors")
    for size in ("small", "big"):
        image = golden[f"preprocess.in_{size}_hwc_u8"].permute(2, 0, 1).float() / 255
        close(normalize(resize_images(image, (70, 70))), golden[f"preprocess.out_{size}"])
    mask = golden["preprocess.in_mask_hw_u8"]
    assert torch.equal(resize_masks(mask, (70, 70)), golden["preprocess.out_mask"][0] > 0.5)
