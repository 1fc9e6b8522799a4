# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Tests of thresholds from validation data."""

import math

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import F1AdaptiveThreshold
from maps import make_batch
from scipy.stats import binom

from anomalib_clipzoo.metrics.bins import bin_numbers
from anomalib_clipzoo.metrics.thresholds import (
    BinnedConformalThreshold,
    BinnedF1Threshold,
    ConformalThreshold,
    check_rate,
    images_needed,
    rank,
)

MAPS, SCORES, LABELLED_MAPS = ["anomaly_map", "gt_mask"], ["pred_score", "gt_label"], ["anomaly_map", "gt_label"]


# ---- best F1 score ----


@pytest.mark.parametrize("seed", range(4))
def test_best_f1_score_is_where_anomalib_finds_it(seed):
    ours, exact = BinnedF1Threshold(MAPS, strict=False), F1AdaptiveThreshold(MAPS, strict=False)
    for batch in (make_batch(seed, size=24), make_batch(seed + 10, size=24)):
        batch.update(anomaly_map=batch.anomaly_map**3)
        ours.update(batch)
        exact.update(batch)
    numbers = bin_numbers(torch.stack([ours.compute(), exact.compute()]))
    assert abs(int(numbers.diff())) <= 1


@pytest.mark.parametrize("label", [False, True])
def test_with_one_label_alone_it_is_anomalibs_too(label):
    batch = make_batch(0)
    batch.update(gt_mask=torch.full_like(batch.gt_mask, label))
    ours, exact = BinnedF1Threshold(MAPS, strict=False), F1AdaptiveThreshold(MAPS, strict=False)
    ours.update(batch)
    exact.update(batch)
    assert ours.compute() == exact.compute() == (batch.anomaly_map.min() if label else batch.anomaly_map.max())


def test_memory_does_not_grow():
    metrics = [BinnedF1Threshold(MAPS), BinnedConformalThreshold(LABELLED_MAPS, rate=0.5)]

    def size() -> int:
        return sum(state.numel() for metric in metrics for state in metric.metric_state.values())

    before = size()
    for metric in metrics:
        for seed in range(3):
            metric.update(make_batch(seed))
    assert size() == before


def test_without_masks_nothing_is_counted():
    metric = BinnedF1Threshold(MAPS, strict=False)
    metric.update(make_batch(0).update(gt_mask=None))
    assert not metric.update_called


# ---- false alarm rate ----


@pytest.mark.parametrize(
    ("rate", "needed"), [(0.5, 1), (0.1, 9), (0.07, 14), (0.05, 19), (0.01, 99), (0.001, 999), (0.3, 3), (0.9, 1)]
)
def test_images_needed_are_the_fewest_that_have_such_a_rank(rate, needed):
    assert images_needed(rate) == needed
    assert rank(needed, rate) <= needed
    assert rank(needed - 1, rate) > needed - 1


@pytest.mark.parametrize(("images", "rate", "expected"), [(19, 0.05, 19), (39, 0.05, 38), (99, 0.07, 93), (9, 0.1, 9)])
def test_rank_is_that_of_split_conformal_prediction_without_rounding_errors(images, rate, expected):
    assert rank(images, rate) == expected == math.ceil(round((images + 1) * (1 - rate), 9))


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, float("nan")])
def test_a_rate_outside_0_and_1_is_refused(rate):
    with pytest.raises(ValueError, match="share of normal images, above 0 and below 1"):
        check_rate(rate)


def normal_batch(scores: np.ndarray, anomalous: int = 0, size: int = 4) -> ImageBatch:
    """Images with these scores and noisy maps; the last ones are anomalous."""
    count = len(scores)
    labels = torch.arange(count) >= count - anomalous
    values, generator = torch.from_numpy(scores).float(), torch.Generator().manual_seed(int(1e6 * scores[0]))
    maps = values[:, None, None] * torch.rand(count, size, size, generator=generator)
    return ImageBatch(image=torch.zeros(count, 3, 1, 1), gt_label=labels, pred_score=values, anomaly_map=maps)


def test_threshold_is_a_score_of_a_normal_image():
    metric = ConformalThreshold(SCORES, strict=False, rate=0.25)
    metric.update(normal_batch(np.array([0.1, 0.5, 0.3, 0.99, 0.9]), anomalous=2))
    assert float(metric.compute()) == pytest.approx(0.5)  # ceil(4 * 0.75) = 3 of 3


def test_too_few_images_are_an_error_that_says_how_many_are_needed():
    for metric in (ConformalThreshold(SCORES, rate=0.1), BinnedConformalThreshold(LABELLED_MAPS, rate=0.1)):
        metric.update(normal_batch(np.linspace(0.1, 0.5, 12), anomalous=4))
        with pytest.raises(ValueError, match=r"needs at least 9 normal validation images, and there are 8.*0\.1111"):
            metric.compute()


def test_pixels_have_the_threshold_that_sorting_them_gives():
    metric = BinnedConformalThreshold(LABELLED_MAPS, rate=0.1)
    batch = normal_batch(np.linspace(0.2, 1, 40), size=16)
    metric.update(batch)
    pixels = batch.anomaly_map.flatten().sort().values
    exact = pixels[math.ceil(41 / 40 * len(pixels) * 0.9) - 1]
    threshold = metric.compute()
    assert threshold >= exact
    assert abs(int(bin_numbers(torch.stack([threshold, exact])).diff())) <= 1


@pytest.mark.parametrize("rate", [0.05, 0.1])
def test_false_alarms_on_new_images_are_as_rare_as_promised(rate):
    """One new image for each of many sets of validation images: the number of false alarms is binomial."""
    generator, splits, images = np.random.default_rng(int(1000 * rate)), 300, images_needed(rate) + 11
    alarms, share = 0, []
    for _ in range(splits):
        scores = generator.beta(2, 5, images + 1)
        validation, new = normal_batch(scores[:-1]), normal_batch(scores[-1:])
        image, pixel = ConformalThreshold(SCORES, rate=rate), BinnedConformalThreshold(LABELLED_MAPS, rate=rate)
        image.update(validation)
        pixel.update(validation)
        alarms += int(new.pred_score > image.compute())
        share.append(float((new.anomaly_map > pixel.compute()).float().mean()))
    probability = 1 - rank(images, rate) / (images + 1)
    assert rate - 1 / (images + 1) <= probability <= rate
    low, high = binom.interval(0.999, splits, probability)
    assert low <= alarms <= high
    assert np.mean(share) <= rate + 3 * np.std(share) / math.sqrt(splits)
    assert np.mean(share) >= rate - 1 / images - 3 * np.std(share) / math.sqrt(splits)
