# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""WinClipPlus against figures measured on two reproductions and on anomalib's WinClip (fp32, deterministic weights)."""

import copy
import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from anomalib_clipzoo.anomaly.maps import upsample
from anomalib_clipzoo.anomaly.references import Reference
from anomalib_clipzoo.models.win_clip_plus import WinClipPlus
from anomalib_clipzoo.models.win_clip_plus.windows import harmonic_mean, window_patches
from tests.parity.files import GOLDEN, write_backbone

FOLDER = GOLDEN / "win_clip"
GRID = (5, 5)
SIZE = 80
INPUTS = {"raw": 1.0, "unit": math.sqrt(3 * SIZE * SIZE)}  # factors on the deterministic images
MIXED = ["bottle", "metal_nut", "metal_nut"]


def close(given: torch.Tensor, expected: torch.Tensor, atol: float = 2e-6) -> None:
    torch.testing.assert_close(given.float(), expected, atol=atol, rtol=0)


@pytest.fixture(scope="module")
def golden():
    return load_file(FOLDER / "golden.safetensors")


@pytest.fixture(scope="module")
def about():
    return json.loads((FOLDER / "golden.json").read_text())


@pytest.fixture(scope="module")
def images():
    return load_file(FOLDER / "golden_inputs.safetensors")


@pytest.fixture(scope="module")
def models(tmp_path_factory, about):
    """One model per variant."""
    architecture = {key: value for key, value in about["architecture"].items() if key != "quick_gelu"}
    backbone = write_backbone(tmp_path_factory.mktemp("clip"), architecture)
    return {name: WinClipPlus(**backbone, variant=name).eval().model for name in ("zqhang", "caoyunkang", "anomalib")}


@pytest.fixture
def case(request, models, images, golden):
    """A variant's model, without references, test and reference images, and the variant's golden figures."""
    variant, inputs = request.param
    model = copy.deepcopy(models[variant])
    tests, references = (images[f"{name}.image"] * INPUTS[inputs] for name in ("input", "reference"))
    prefix = f"{variant}.{inputs}."
    figures = {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}
    return model, tests, references, figures


def each(variant: str):
    return pytest.mark.parametrize("case", [(variant, inputs) for inputs in INPUTS], indirect=True, ids=str)


def remember(model, images: torch.Tensor, categories: list[str]) -> None:
    model.references.precision = torch.float32  # as in the reproductions
    model.remember(images, [Reference(category, str(number)) for number, category in enumerate(categories)])


def on_grid(values: torch.Tensor) -> torch.Tensor:
    return values.unflatten(-1, GRID)


def grid_maps(model, images: torch.Tensor, categories: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Window probabilities of all scales, and the text's and the references' map on the grid."""
    features = model.encode(images, with_patches=True)
    text = model.text_features(categories)
    windows = [model.probabilities(scale, text) for scale in features.windows]
    text_map = model.text_map(windows, model.probabilities(features.image[:, None], text))
    few = model.reference_map(features, categories) if len(model.references) else torch.zeros_like(text_map)
    return windows, on_grid(text_map), on_grid(few)


def check_output(model, images, categories, grid_map, score) -> None:
    """Compare what the model returns with a golden map on the grid and the golden scores."""
    output = model(images, categories, categories)
    expected = upsample(grid_map[:, None].flatten(2), GRID, (SIZE, SIZE), align_corners=False)[:, 0]
    close(output.anomaly_map, expected)
    close(output.pred_score, score)


def test_windows_are_those_of_the_reference(golden):
    for scale in (2, 3):
        assert torch.equal(window_patches(GRID, scale).int(), golden[f"common.masks.window{scale}"])


@torch.no_grad()
def test_features(models, images, golden):
    for name, inputs in (("input", images["input.image"]), ("reference", images["reference.image"])):
        for variant, kind in (("zqhang", "raw"), ("anomalib", "ln_post")):
            features = models[variant].encode(inputs * INPUTS["unit"], with_patches=True)
            close(features.image, golden[f"common.unit.{name}.image_features"], atol=1e-5)
            close(features.windows[0], golden[f"common.unit.{name}.window2_features"], atol=1e-5)
            close(features.windows[1], golden[f"common.unit.{name}.window3_features"], atol=1e-5)
            close(features.patches, golden[f"common.unit.{name}.patch_tokens_{kind}"], atol=1e-5)
        raw = models["zqhang"].encode(inputs, with_patches=False)
        close(raw.image, golden[f"common.raw.{name}.image_features"], atol=1e-5)
        assert raw.patches is None
    windows = models["caoyunkang"].encode(images["input.image"] * INPUTS["unit"], with_patches=False).windows
    close(functional.normalize(torch.cat(windows, 1), dim=-1), golden["caoyunkang.unit.window_features_normalized"])


@torch.no_grad()
def test_text(models, golden, about):
    prompts = about["prompts"]
    for variant, reference in (("zqhang", "zqhang"), ("caoyunkang", "caoyunkang")):
        for sentences, side in zip(models[variant].prompts.sentences("bottle"), ("normal", "abnormal"), strict=True):
            assert sorted(sentences) == sorted(prompts[f"{reference}.prompts.{side}"])
    model = models["zqhang"]
    for sentences, side in zip(model.prompts.sentences("bottle"), ("normal", "abnormal"), strict=True):
        assert sentences == prompts[f"zqhang.prompts.{side}"]
        text = model.backbone.text
        close(text(text.tokenize(sentences)), golden[f"zqhang.text.{side}_prompt_features"], atol=1e-5)
        for row, name in enumerate(about["class_names"]["zqhang_rows"]):
            mean = model.prompts._mean(text, model.prompts.sentences(name)[side == "abnormal"])
            close(mean, golden[f"zqhang.text.{side}_mean"][row], atol=1e-5)
    close(models["caoyunkang"].text_features(["bottle"])[0], golden["caoyunkang.text_features"])
    expected = functional.normalize(golden["anomalib.text_embeddings"], dim=-1)
    close(models["anomalib"].text_features(["bottle"])[0], expected)


@each("zqhang")
@torch.no_grad()
def test_zqhang_zero_shot(case):
    model, images, _, figures = case
    windows, text_map, _ = grid_maps(model, images, ["bottle"])
    for pooling, values, scale in zip(model.pooling, windows, (2, 3), strict=True):
        close(values, figures[f"zero_shot.window{scale}_abnormal_prob"])
        close(on_grid(pooling.harmonic_mean(values)), figures[f"zero_shot.window{scale}_map"])
    close(text_map, figures["zero_shot.map_grid"])
    check_output(model, images, ["bottle"] * 3, figures["zero_shot.map_grid"], figures["zero_shot.image_score"])
    if "zero_shot.map_image0" in figures:
        close(model(images, ["bottle"], ["bottle"]).anomaly_map[0], figures["zero_shot.map_image0"])


@each("zqhang")
@pytest.mark.parametrize("k", [1, 4])
@torch.no_grad()
def test_zqhang_few_shot(case, k):
    model, images, references, figures = case
    remember(model, references[:k], ["bottle"] * k)
    features = model.encode(images, with_patches=True)
    for pooling, values, scale in zip(model.pooling, features.windows, (2, 3), strict=True):
        distances = model.references.distances(f"windows_{scale}", values, ["bottle"])
        close(on_grid(pooling.harmonic_mean(distances)), figures[f"k{k}.few_window{scale}_map"])
    patches = model.references.distances("patches", features.patches, ["bottle"])
    close(on_grid(patches), figures[f"k{k}.few_patch_map"])
    close(grid_maps(model, images, ["bottle"])[2], figures[f"k{k}.few_map"])
    # The reference sums the two maps, we average them.
    check_output(model, images, ["bottle"] * 3, figures[f"k{k}.map_grid"] / 2, figures[f"k{k}.image_score"])
    if f"k{k}.map_image0" in figures:
        close(2 * model(images, ["bottle"], ["bottle"]).anomaly_map[0], figures[f"k{k}.map_image0"])


@pytest.mark.parametrize("case", [("zqhang", "unit")], indirect=True)
@torch.no_grad()
def test_zqhang_mixed_classes_in_a_batch(case):
    model, images, references, figures = case
    windows, text_map, _ = grid_maps(model, images, MIXED)
    for pooling, values, scale in zip(model.pooling, windows, (2, 3), strict=True):
        close(values, figures[f"mixed_zero_shot.window{scale}_abnormal_prob"])
        close(on_grid(pooling.harmonic_mean(values)), figures[f"mixed_zero_shot.window{scale}_map"])
    close(text_map, figures["mixed_zero_shot.map_grid"])
    check_output(model, images, MIXED, figures["mixed_zero_shot.map_grid"], figures["mixed_zero_shot.image_score"])
    remember(model, references[:2], ["bottle", "metal_nut"])
    close(grid_maps(model, images, MIXED)[2], figures["mixed_k1.few_map"])
    patches = model.encode(images, with_patches=True).patches
    close(on_grid(model.references.distances("patches", patches, MIXED)), figures["mixed_k1.few_patch_map"])
    check_output(model, images, MIXED, figures["mixed_k1.map_grid"] / 2, figures["mixed_k1.image_score"])


@each("anomalib")
@torch.no_grad()
def test_anomalib(case):
    model, images, references, figures = case
    check_output(model, images, ["bottle"], figures["zero_shot.map_grid"], figures["zero_shot.image_score"])
    for k in (1, 4):
        remember(model, references[:k], ["bottle"] * k)
        close(grid_maps(model, images, ["bottle"])[2], figures[f"k{k}.few_map"])
        check_output(model, images, ["bottle"], figures[f"k{k}.map_grid"], figures[f"k{k}.image_score"])
        if f"k{k}.map_image0" in figures:
            close(model(images, ["bottle"], ["bottle"]).anomaly_map[0], figures[f"k{k}.map_image0"])


def as_coded(model, images: torch.Tensor) -> torch.Tensor:
    """The visual map with the reference's slip: the first window of scale 3 is compared with those of scale 2."""
    features = model.encode(images, with_patches=False)
    small, large = (
        model.references.distances(kind, values, ["bottle"])
        for kind, values in zip(model.window_kinds, features.windows, strict=True)
    )
    large[:, 0] = model.references.distances(model.window_kinds[0], features.windows[1][:, :1], ["bottle"])[:, 0]
    maps = [pooling.mean(values) for pooling, values in zip(model.pooling, (small, large), strict=True)]
    return on_grid(torch.stack(maps).mean(0))


def check_caoyunkang(text_map, visual_map, figures, stage) -> None:
    """Compare the fused map and the scores at both output sizes; the reference has half the harmonic mean."""
    grid_map = harmonic_mean(torch.stack([text_map, visual_map]))
    close(grid_map / 2, figures[f"{stage}.map_grid"])
    for size in (SIZE, 400):
        large = upsample(grid_map[:, None].flatten(2), GRID, (size, size), align_corners=False)
        close(large.amax((1, 2, 3)) / 2, figures[f"{stage}.image_score_out{size}"])


@each("caoyunkang")
@torch.no_grad()
def test_caoyunkang_zero_shot(case):
    model, images, _, figures = case
    windows, text_map, _ = grid_maps(model, images, ["bottle"])
    close(1 - torch.cat(windows, 1), figures["normality_prob"], atol=1e-5)  # a temperature of 0.01: rounding times 100
    close(text_map, figures["text_map"])
    check_caoyunkang(text_map, text_map, figures, "zero_shot")
    check_output(
        model, images, ["bottle"], 2 * figures["zero_shot.map_grid"], 2 * figures["zero_shot.image_score_out80"]
    )


@each("caoyunkang")
@pytest.mark.parametrize("k", [1, 4])
@torch.no_grad()
def test_caoyunkang_few_shot(case, k):
    model, images, references, figures = case
    remember(model, references[:k], ["bottle"] * k)
    _, text_map, visual_map = grid_maps(model, images, ["bottle"])
    close(visual_map, figures[f"k{k}.visual_map_gallery_bug_fixed"])
    close(as_coded(model, images), figures[f"k{k}.visual_map"])
    check_caoyunkang(text_map, as_coded(model, images), figures, f"k{k}")
    fused = harmonic_mean(torch.stack([figures["text_map"], figures[f"k{k}.visual_map_gallery_bug_fixed"]]))
    score = upsample(fused[:, None].flatten(2), GRID, (SIZE, SIZE), align_corners=False).amax((1, 2, 3))
    check_output(model, images, ["bottle"], fused, score)
