# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Tests of the figures against exact metrics, other packages and the papers' own code."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.metrics import AUPRO, AUROC, F1Max, F1Score
from maps import make_batch
from pyaupro import PerRegionOverlap
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, roc_auc_score

from anomalib_clipzoo.metrics.figures import (
    _draws,
    even_thresholds,
    image_figures,
    interval,
    pixel_figures,
    resampled_image_figures,
    resampled_pixel_figures,
)
from anomalib_clipzoo.metrics.observations import ImageObservations, Observations, PixelObservations

GOLDEN = Path(__file__).parents[2] / "parity" / "golden"
FIELDS = ["anomaly_map", "gt_mask"]
BATCHES = [make_batch(seed) for seed in range(3)]


def seen(batches) -> Observations:
    observations = Observations()
    for batch in batches:
        observations.add(batch, list(range(len(batch.gt_label))))
    return observations


def pixels_of(maps, masks) -> PixelObservations:
    pixels = PixelObservations()
    pixels.add([""] * len(maps), torch.as_tensor(maps), torch.as_tensor(masks), None)
    return pixels


def value(figures, name: str) -> float:
    (number,) = figures[name].tolist()
    return number


# ---- against exact metrics ----


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("pixel_AUROC", AUROC(FIELDS)),
        ("pixel_F1Max", F1Max(FIELDS)),
        ("pixel_AUPRO", AUPRO(FIELDS)),
        ("pixel_F1Score", F1Score(["pred_mask", "gt_mask"])),
        ("image_AUROC", AUROC(["pred_score", "gt_label"])),
        ("image_F1Max", F1Max(["pred_score", "gt_label"])),
        ("image_F1Score", F1Score(["pred_label", "gt_label"])),
    ],
)
def test_agrees_with_anomalibs_exact_metric(name, exact):
    observations = seen(BATCHES)
    for batch in BATCHES:
        exact.update(batch)
    figures = {**image_figures(observations.images), **pixel_figures(observations.pixels)}
    assert value(figures, name) == pytest.approx(float(exact.compute()), abs=2e-5 if "pixel" in name else 1e-6)


def test_average_precision_is_scikit_learns():
    observations = seen(BATCHES)
    maps, masks = (np.concatenate([getattr(batch, name).numpy().ravel() for batch in BATCHES]) for name in FIELDS)
    assert value(pixel_figures(observations.pixels), "pixel_AP") == pytest.approx(
        average_precision_score(masks, maps), abs=2e-5
    )
    scores, labels = observations.images.scores, observations.images.labels
    assert value(image_figures(observations.images), "image_AP") == pytest.approx(
        average_precision_score(labels, scores), abs=1e-12
    )


def test_images_with_equal_scores_are_ties():
    images = ImageObservations([""] * 6, [0.1, 0.5, 0.5, 0.5, 0.7, 0.9], [0, 0, 1, 1, 0, 1])
    figures = image_figures(images)
    assert value(figures, "image_AUROC") == pytest.approx(roc_auc_score(images.labels, images.scores), abs=1e-12)
    assert value(figures, "image_AP") == pytest.approx(average_precision_score(images.labels, images.scores), abs=1e-12)


def test_ranks_that_only_double_precision_tells_apart_are_kept_for_images():
    images = ImageObservations([""] * 2, [0.5, 0.5 + 1e-12], [0, 1])
    assert value(image_figures(images), "image_AUROC") == 1


def test_perfect_and_undecided_maps():
    masks = BATCHES[0].gt_mask
    perfect = pixel_figures(pixels_of(masks.float(), masks))
    for name in ("pixel_AUROC", "pixel_AP", "pixel_F1Max", "pixel_AUPRO"):
        assert value(perfect, name) == pytest.approx(1)
    assert value(pixel_figures(pixels_of(torch.full(masks.shape, 0.5), masks)), "pixel_AUROC") == pytest.approx(0.5)


@pytest.mark.parametrize("label", [False, True])
def test_one_label_alone_has_no_figures(label):
    batch = make_batch(0)
    masks = torch.full_like(batch.gt_mask, label)
    batch.update(gt_label=torch.full_like(batch.gt_label, label), gt_mask=masks)
    observations = seen([batch])
    figures = {**image_figures(observations.images), **pixel_figures(observations.pixels)}
    assert len(figures) == 10
    assert all(number.isnan().all() for number in figures.values())


def test_without_masks_there_are_no_pixel_figures():
    observations = seen([make_batch(0).update(gt_mask=None)])
    assert pixel_figures(observations.pixels) == {}
    assert set(image_figures(observations.images)) == {"image_AUROC", "image_AP", "image_F1Max", "image_F1Score"}


# ---- against the papers' code ----


def test_figures_of_anomalyclips_code():
    golden = json.loads((GOLDEN / "anomaly_clip" / "extras.json").read_text())["metrics"]
    tensors = load_file(GOLDEN / "anomaly_clip" / "extras.safetensors")
    maps = tensors["metrics.maps"]
    pixels = pixels_of((maps - maps.min()) / (maps.max() - maps.min()), tensors["metrics.masks"])
    images = ImageObservations([""] * 4, tensors["metrics.scores"].tolist(), tensors["metrics.labels"].tolist())
    assert value(pixel_figures(pixels), "pixel_AUROC") == pytest.approx(golden["pixel-auroc"], abs=2e-5)
    one_pixel = 1 / (0.3 * float((1 - tensors["metrics.masks"]).sum()))  # on the axis of false positive rates
    assert value(pixel_figures(pixels), "pixel_PRO200") == pytest.approx(golden["pixel-aupro"], abs=one_pixel)
    assert value(image_figures(images), "image_AUROC") == pytest.approx(golden["image-auroc"], abs=1e-9)
    assert value(image_figures(images), "image_AP") == pytest.approx(golden["image-ap"], abs=1e-9)


def test_figures_of_adaclips_code():
    golden = json.loads((GOLDEN / "ada_clip" / "golden.json").read_text())["metrics_check"]
    tensors = load_file(GOLDEN / "ada_clip" / "golden.safetensors")
    for category in ("a", "b"):
        rows = [row for row, name in enumerate(golden["class_of_image"]) if name == category]
        pixels = pixels_of(tensors["metrics.maps"][rows], tensors["metrics.masks"][rows])
        labels = [golden["labels"][row] for row in rows]
        images = ImageObservations([""] * len(rows), tensors["metrics.scores"][rows].tolist(), labels)
        expected = golden["result"][category]
        for level, figures, tolerance in (("im", image_figures(images), 1e-9), ("px", pixel_figures(pixels), 2e-5)):
            prefix = "image" if level == "im" else "pixel"
            for theirs, ours in (("auroc", "AUROC"), ("f1", "F1Max"), ("ap", "AP")):
                assert 100 * value(figures, f"{prefix}_{ours}") == pytest.approx(
                    expected[f"{theirs}_{level}"], abs=100 * tolerance
                )


@pytest.mark.parametrize("seed", range(2))
def test_pro_of_200_thresholds_agrees_with_pyaupro(seed):
    batch = make_batch(seed, count=6, size=150)
    maps = batch.anomaly_map**2  # most scores next to 0, as maps are
    pixels = pixels_of(maps, batch.gt_mask)
    thresholds = even_thresholds(pixels.lowest, pixels.highest)
    oracle = PerRegionOverlap(thresholds=torch.nextafter(thresholds, torch.ones(())))  # above, not at, the threshold
    oracle.update(maps, batch.gt_mask.int())
    rates, overlaps = (curve.flip(0) for curve in oracle.compute())
    kept = rates < 0.3
    rates, overlaps = rates[kept], overlaps[kept]
    expected = torch.trapezoid(overlaps, (rates - rates.min()) / (rates.max() - rates.min()))
    assert value(pixel_figures(pixels), "pixel_PRO200") == pytest.approx(float(expected), abs=1e-4)
    assert value(pixel_figures(pixels), "pixel_PRO200") != pytest.approx(
        value(pixel_figures(pixels), "pixel_AUPRO"), abs=1e-3
    )


# ---- intervals ----


def test_resamples_have_the_figures_of_the_drawn_images():
    observations = seen(BATCHES)
    maps, masks = (torch.cat([getattr(batch, name) for batch in BATCHES]) for name in FIELDS)
    images, labels = observations.images, torch.tensor(observations.images.labels)
    resampled = {
        **resampled_image_figures(images, 10, seed=0),
        **resampled_pixel_figures(observations.pixels, 10, seed=0),
    }
    (draws,) = _draws(images.paths, images.labels, 10, seed=0)
    assert torch.equal(draws @ labels.float(), torch.full((10,), 9.0))
    assert torch.equal(draws @ (1 - labels).float(), torch.full((10,), 9.0))
    for number, draw in enumerate(draws):
        rows = torch.arange(len(labels)).repeat_interleave(draw.long())
        drawn = ImageObservations([""] * len(rows), torch.tensor(images.scores)[rows].tolist(), labels[rows].tolist())
        figures = {**image_figures(drawn), **pixel_figures(pixels_of(maps[rows], masks[rows]))}
        for name in ("image_AUROC", "image_AP", "image_F1Max"):
            assert float(resampled[name][number]) == pytest.approx(value(figures, name), abs=1e-6), name
        for name in ("pixel_AUROC", "pixel_AP", "pixel_F1Max", "pixel_AUPRO"):
            assert float(resampled[name][number]) == pytest.approx(value(figures, name), abs=2e-3), name  # coarse bins


def test_an_interval_is_as_wide_as_theory_says():
    batch = make_batch(0, count=80, size=8)
    batch.pred_score[:] = torch.rand(80, generator=torch.Generator().manual_seed(1))
    images = seen([batch]).images
    low, high = interval(resampled_image_figures(images, 1000, seed=0)["image_AUROC"])
    undecided = 2 * 1.96 * math.sqrt((40 + 40 + 1) / (12 * 40 * 40))  # Mann-Whitney, no difference between labels
    assert high - low == pytest.approx(undecided, rel=0.15)
    assert low < value(image_figures(images), "image_AUROC") < high


def test_intervals_depend_on_the_seed_alone():
    images = seen(BATCHES).images
    shuffled = ImageObservations()
    for row in np.random.default_rng(0).permutation(len(images.scores)):
        for name in ("paths", "scores", "labels", "predictions"):
            getattr(shuffled, name).append(getattr(images, name)[row])
    first, again, other = (resampled_image_figures(images, 300, seed) for seed in (1, 1, 2))
    assert torch.equal(first["image_AUROC"], again["image_AUROC"])
    assert not torch.equal(first["image_AUROC"], other["image_AUROC"])
    torch.testing.assert_close(resampled_image_figures(shuffled, 300, 1)["image_AUROC"], first["image_AUROC"])


def test_memory_of_an_image_does_not_depend_on_its_size():
    small, large = (seen([make_batch(0, size=size)]).pixels.images[0] for size in (48, 480))
    assert small.nbytes == large.nbytes <= 12 * 1024
