# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""MuSc against figures recorded while the paper's code ran (fp32, deterministic weights)."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.ndimage import label
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from anomalib_clipzoo.anomaly.references import Reference
from anomalib_clipzoo.clip import Backbone
from anomalib_clipzoo.models.musc import MuScModel
from anomalib_clipzoo.models.musc.features import batches_of
from anomalib_clipzoo.models.musc.interval import Interval
from anomalib_clipzoo.models.musc.mutual import mutual_scores
from anomalib_clipzoo.models.musc.neighborhood import standardize
from anomalib_clipzoo.models.musc.rescoring import rescore
from anomalib_clipzoo.models.musc.sets import divide
from anomalib_clipzoo.models.musc.torch_model import Scores
from tests.parity import deterministic
from tests.parity.files import GOLDEN, write_backbone

FOLDER = GOLDEN / "musc"
LAYERS = (6, 12, 18, 24)
SIDES = (1, 3, 5)
SIZE, NATIVE = 70, 56
COUNT = 6  # images of the main set


@pytest.fixture(scope="module")
def golden():
    return load_file(FOLDER / "golden.safetensors")


@pytest.fixture(scope="module")
def about():
    return json.loads((FOLDER / "golden.json").read_text())


def draw(count: int, size: int, about: dict, rects: list) -> torch.Tensor:
    """Images of unit variance with one scene in common and some defects."""

    def unit(name: str, number: int) -> torch.Tensor:
        return deterministic.tensor(name, (number, 3, size, size), about["seed"]) * math.sqrt(3 * size * size)

    share, strength = about["images"]["share"], about["images"]["strength"]
    images = (share * unit("input.base", 1) + unit("input.image", count)) / math.sqrt(share**2 + 1)
    defect = unit("input.defect", count)
    for row, top, bottom, left, right in rects:
        images[row, :, top:bottom, left:right] = strength * defect[row, :, top:bottom, left:right]
    return images


@pytest.fixture(scope="module")
def images(about):
    return draw(about["images"]["N"], SIZE, about, about["images"]["rects"])


@pytest.fixture(scope="module")
def clip(tmp_path_factory, about):
    """What names the CLIP with its deterministic weights."""
    architecture = {key: value for key, value in about["architecture"].items() if key != "quick_gelu"}
    return write_backbone(tmp_path_factory.mktemp("clip"), architecture)


@pytest.fixture(scope="module")
def tower(clip):
    return Backbone(clip["backbone"], clip["pretrained"], image_size=SIZE, antialias=False)


@pytest.fixture(scope="module")
def build(tower):
    return lambda **arguments: MuScModel(tower, **{"layers": LAYERS, **arguments}).eval()


@pytest.fixture(scope="module")
def features(build, images):
    with torch.no_grad():
        return build().encode(images)


def close(given: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(given.double(), expected.double(), atol=atol, rtol=0)


def distances(scores: torch.Tensor) -> torch.Tensor:
    """Ours are half of the reference's distances, so that they are in 0..1."""
    return 2 * scores


def test_positions(tower, golden):
    close(tower.vision.position, golden["visual.pos_embed"])


def test_tokens_and_image_features(tower, features, images, golden):
    with torch.no_grad():
        _, tokens = tower.vision(images[:COUNT], LAYERS)
    for layer, given in zip(LAYERS, tokens, strict=True):
        close(given, golden[f"tokens.layer_{layer}"], atol=3e-5)
    close(features.image[:COUNT], golden["image_features"])
    close(features.image, golden["set.image_features"])
    close(features.image[:COUNT] @ features.image[:COUNT].T, golden["rscin.similarity"])


@pytest.mark.parametrize("side", SIDES)
def test_neighborhoods(build, features, golden, side):
    for layer, tokens in zip(LAYERS, features.patches, strict=True):
        close(build().scoring.aggregate(tokens[:COUNT], side), golden[f"lnamd.r{side}.layer_{layer}"])


def test_neighborhoods_before_their_length_is_one(features, golden):
    for number, tokens in enumerate(features.patches):
        maps = standardize(tokens[:1]).transpose(1, 2).unflatten(2, (5, 5))
        mean = torch.nn.functional.avg_pool2d(maps, 3, stride=1, padding=1).flatten(2).transpose(1, 2)[0]
        close(mean, golden["lnamd.r3.unnormalised"][:, number])


@pytest.mark.parametrize("side", SIDES)
def test_mutual_scores(build, features, golden, side):
    for layer, tokens in zip(LAYERS, features.patches, strict=True):
        scores = mutual_scores(build().scoring.aggregate(tokens[:COUNT], side), Interval())
        close(scores, golden[f"msm.r{side}.layer_{layer}"])


def test_each_place_of_the_interval(build, features, golden):
    aggregated = build().scoring.aggregate(features.patches[1][:COUNT], 3)
    for place in range(COUNT - 1):
        close(mutual_scores(aggregated, Interval(place, place + 1)), golden["msm.sorted.r3.layer_12"][..., place])


@pytest.fixture(scope="module")
def score(build, images):
    """Score the first images as one set, or as the arguments say."""

    @torch.no_grad()
    def score(count: int = COUNT, kinds=None, **arguments) -> Scores:
        return build(**arguments).score_sets(batches_of(images), [None] * count, kinds)

    return score


def check(score, golden, prefix: str = "", windows: str = "", order=slice(None), **arguments) -> None:
    """Compare patch maps and scores, before and after rescoring, with golden figures."""
    raw = score(**arguments, rescore_windows=())
    close(distances(raw.patch_maps)[order], golden[f"{prefix}patch_map"])
    if f"{prefix}score.raw" in golden:
        close(distances(raw.images)[order], golden[f"{prefix}score.raw"])
    if f"{prefix}score.rscin{windows}" in golden:
        rescored = as_min_max(score(**arguments).images, raw.images)
        close(rescored[order], golden[f"{prefix}score.rscin{windows}"])


def as_min_max(rescored: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
    """Bring rescored values to the reference's range, in which the raw scores go from 0 to 1."""
    return (rescored - raw.min()) / (raw.max() - raw.min())


VARIANTS = {
    "": {},
    "variant.r_1.": {"r_list": [1]},
    "variant.r_1_3.": {"r_list": [1, 3]},
    "variant.r_5.": {"r_list": [5]},
    "variant.first_release.": {"release": "first"},
    "variant.interval_0_0.6.": {"interval": (0, 0.6)},
    "variant.interval_0.2_0.6.": {"interval": (0.2, 0.6)},
    "variant.interval_0.6_0.2.": {"interval": (0.6, 0.2)},
    "variant.interval_0_2.": {"interval": (0, 2)},
    "variant.layers.": {"layers": (12, 24)},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_set(score, golden, variant):
    check(score, golden, variant, **VARIANTS[variant])


@pytest.mark.parametrize("windows", [(1, 2, 3), (2, 3), (1, 4, 5)])
def test_rescoring(score, features, golden, windows):
    name = "_".join(map(str, windows))
    reference = golden["score.raw"].float()
    close(as_min_max(rescore(reference, features.image[:COUNT], windows), reference), golden[f"score.rscin.k_{name}"])


def test_a_larger_set(score, golden):
    check(score, golden, "set.", ".k_1_2_3", count=12)


def test_a_larger_set_with_windows_for_visa(score, golden):
    raw, rescored = (score(count=12, rescore_windows=windows).images for windows in ((), (1, 8, 9)))
    close(as_min_max(rescored, raw), golden["set.score.rscin.k_1_8_9"])


def test_a_divided_set(score, golden, about):
    folders = ["bad" if label else "good" for label in about["labels"]]
    order = golden["divided_2.order"]
    assert [number for part in divide(folders, 6, seed=42) for number in part] == order.tolist()
    check(score, golden, "divided_2.", ".k_1_2_3", order, count=12, kinds=folders, set_size=6, seed=42)


@torch.no_grad()
def test_the_map(build, images, golden):
    output = build(rescore_windows=())(images[:COUNT])
    close(distances(output.anomaly_map), golden["map"])
    close(output.pred_score, output.anomaly_map.amax(dim=(1, 2)))


@torch.no_grad()
def test_native_size_with_quick_gelu(clip, golden, about):
    tower = Backbone(clip["backbone"], clip["pretrained"], quick_gelu=True, antialias=False)
    images = draw(COUNT, NATIVE, about, about["images"]["rects_native"])
    close(tower.vision(images[:1], LAYERS).tokens[-1], golden["native.tokens.layer_24"], atol=3e-5)

    def score(**arguments) -> Scores:
        model = MuScModel(tower, layers=LAYERS, **arguments)
        return model.score_sets(batches_of(images), [None] * COUNT)

    check(score, golden, "native.")


@torch.no_grad()
def test_a_pool(build, images, golden):
    raw, rescored = build(rescore_windows=()), build()
    pool = [Reference(None, str(number)) for number in range(COUNT)]
    for model in raw, rescored:
        model.remember(images[:COUNT], pool)
    close(distances(raw.pool.features("score", None)[:, 0, 0]), golden["score.raw"])
    found = raw.score_by_pool(raw.encode(images[COUNT:]), [None] * COUNT)
    close(distances(found.patch_maps), golden["pool.patch_map"])
    for number, image in enumerate(images[COUNT:]):  # each alone
        score = raw(image[None]).pred_score
        close(distances(score), golden["pool.score.raw"][number, None])
        against = torch.cat([golden["score.raw"].float() / 2, score])
        close(as_min_max(rescored(image[None]).pred_score, against), golden["pool.score.rscin.k_1_2_3"][number, None])


def best_f1(labels, values) -> float:
    precision, recall, _ = precision_recall_curve(labels, values)
    return max(2 * precision * recall / (precision + recall).clip(min=1e-12))


def aupro(masks, maps) -> float:
    """Mean overlap with regions against the false positive rate up to 0.3, at 200 thresholds, as the paper's code."""
    regions = [label(mask, np.ones((3, 3))) for mask in masks]
    rates, overlaps = [], []
    for threshold in np.arange(maps.min(), maps.max(), (maps.max() - maps.min()) / 200):
        found = maps > threshold
        overlaps.append(
            np.mean(
                [
                    found[row][numbers == n].mean()
                    for row, (numbers, count) in enumerate(regions)
                    for n in range(1, count + 1)
                ]
            )
        )
        rates.append(found[masks == 0].mean())
    rates, overlaps = np.array(rates), np.array(overlaps)
    kept = rates < 0.3
    low, high = rates[kept].min(), rates[kept].max()
    return auc((rates[kept] - low) / (high - low), overlaps[kept])


@pytest.mark.parametrize(
    ("name", "count", "arguments"), [("main", 6, {}), ("set", 12, {}), ("divided_2", 12, {"set_size": 6, "seed": 42})]
)
def test_metrics(build, score, about, name, count, arguments):
    labels = np.array(about["labels"][:count])
    masks = np.zeros((count, SIZE, SIZE), dtype=int)
    for row, top, bottom, left, right in about["images"]["rects"]:
        if row < count:
            masks[row, top:bottom, left:right] = 1
    found = score(count, ["bad" if label else "good" for label in labels], **arguments)
    images, pixels = found.images.numpy(), build().maps(found.patch_maps).numpy()
    image, pixel = about["metrics"][name]
    for expected, truth, values in ((image, labels, images), (pixel, masks.ravel(), pixels.ravel())):
        measured = [roc_auc_score(truth, values), best_f1(truth, values), average_precision_score(truth, values)]
        assert measured == pytest.approx(expected[:3], abs=1e-4)  # two pixels of nearly one value changing places
    assert aupro(masks, pixels) == pytest.approx(pixel[3], abs=1e-3)
