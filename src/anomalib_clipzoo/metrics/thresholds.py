# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds from validation data: by the best F1 score, or so that a given share of normal images is above.

A false alarm rate is kept by split conformal prediction (Angelopoulos and Bates, "A gentle introduction to conformal
prediction", 2021): of ``n`` normal images the ``ceil((n + 1)(1 - rate))``-th smallest score is the threshold. If a new
normal image is like those, its score is above with a probability of at most ``rate``, whatever the model.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from anomalib.metrics import AnomalibMetric
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from anomalib_clipzoo.metrics.bins import BINS, bin_numbers, lower_edges
from anomalib_clipzoo.metrics.curves import at_or_above


def images_needed(rate: float) -> int:
    """Return how many normal images a false alarm rate needs: ``ceil(1 / rate) - 1``."""
    return math.ceil(1 / _exact(rate)) - 1


def check_rate(rate: float | None) -> None:
    """Make sure that a false alarm rate is one.

    Raises:
        ValueError: If it is not between 0 and 1.
    """
    if rate is not None and not 0 < rate < 1:
        msg = f"false_alarm_rate is a share of normal images, above 0 and below 1: {rate} is none."
        raise ValueError(msg)


def check_enough(images: int, rate: float) -> None:
    """Make sure that there are enough normal images for a false alarm rate.

    Raises:
        ValueError: If not; it says how many are needed.
    """
    needed = images_needed(rate)
    if images < needed:
        msg = (
            f"A false alarm rate of {rate} needs at least {needed} normal validation images, and there are {images}. "
            f"Add normal images{f', or allow a rate of at least {1 / (images + 1):.4f}' if images else ''}."
        )
        raise ValueError(msg)


def rank(images: int, rate: float, samples: Fraction | int = 1) -> int:
    """Return which of the ascending scores of normal images is the threshold, counted from 1.

    Args:
        images: Number of normal images.
        rate: False alarm rate.
        samples: Number of scores of each image. With several, as pixels, the share of a new image's scores above the
            threshold is at most ``rate`` on average: the rank allows for the new ones being the highest of all.
    """
    return math.ceil((images + 1) * samples * (1 - _exact(rate)))


def _exact(rate: float) -> Fraction:
    """Return the rate as it is written: (1 - 0.05) * 20 is 19 and no hair more."""
    return Fraction(str(rate))


# ---- metrics that anomalib's post-processor updates with validation batches ----


class _BinnedF1Threshold(Metric):
    """Counts of normal and anomalous scores."""

    full_state_update = False
    counts: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", default=torch.zeros(2 * BINS, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("lowest", default=torch.tensor(torch.inf), dist_reduce_fx="min")
        self.add_state("highest", default=torch.tensor(-torch.inf), dist_reduce_fx="max")

    def update(self, scores: Tensor, truth: Tensor) -> None:
        """Count scores in 0..1, of any shape, whose truth has as many values."""
        for image, mask in zip(scores, truth.reshape(scores.shape).bool(), strict=True):  # one at a time bounds memory
            self.counts += torch.bincount((bin_numbers(image) + BINS * mask).flatten(), minlength=2 * BINS)
        low, high = scores.float().aminmax()
        self.lowest, self.highest = torch.minimum(self.lowest, low), torch.maximum(self.highest, high)

    def compute(self) -> Tensor:
        """Return the threshold; without anomalies the highest score, with nothing else the lowest, as anomalib does."""
        normal, anomalous = self.counts.cpu().reshape(2, BINS)
        if not anomalous.any():
            return self.highest
        if not normal.any():
            return self.lowest
        false, true = at_or_above(normal)[1:].flip(0), at_or_above(anomalous)[1:].flip(0)
        f1_scores = 2 * true / (true + false + true[0])
        best = torch.where(normal + anomalous > 0, f1_scores, -1.0).argmax()
        return lower_edges()[best].float()


class _ConformalThreshold(Metric):
    """Scores of normal images."""

    full_state_update = False
    scores: list[Tensor]

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.add_state("scores", default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Take in images: scores and labels ``(B,)`` or ``(B, 1)``."""
        self.scores.append(scores.flatten()[~labels.flatten().bool()].float())

    def compute(self) -> Tensor:
        """Return the threshold.

        Raises:
            ValueError: If there are too few normal images.
        """
        scores = dim_zero_cat(self.scores).sort().values
        check_enough(len(scores), self.rate)
        return scores[rank(len(scores), self.rate) - 1]


class _BinnedConformalThreshold(Metric):
    """Counts of the pixels of normal images."""

    full_state_update = False
    counts: Tensor
    images: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.add_state("counts", default=torch.zeros(BINS, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("images", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, maps: Tensor, labels: Tensor) -> None:
        """Count the pixels of images: maps in 0..1 ``(B, H, W)`` or ``(B, 1, H, W)``, labels ``(B,)`` or ``(B, 1)``."""
        normal = maps[~labels.flatten().bool()]
        for image in normal:  # one at a time bounds memory
            self.counts += torch.bincount(bin_numbers(image).flatten(), minlength=BINS)
        self.images += len(normal)

    def compute(self) -> Tensor:
        """Return the threshold: the upper edge of the bin of the score that keeps the rate.

        Raises:
            ValueError: If there are too few normal images.
        """
        images, counts = int(self.images), self.counts.cpu()
        check_enough(images, self.rate)
        below = counts.cumsum(0)
        place = int(torch.searchsorted(below, rank(images, self.rate, Fraction(int(below[-1]), images))))
        return lower_edges()[place + 1].float()


class BinnedF1Threshold(AnomalibMetric, _BinnedF1Threshold):  # type: ignore[misc]
    """Threshold with the best F1 score, in constant memory: anomalib's within one bin. For scores in 0..1."""


class ConformalThreshold(AnomalibMetric, _ConformalThreshold):  # type: ignore[misc]
    """Threshold of image scores above which at most the share ``rate`` of new normal images lies, on average."""


class BinnedConformalThreshold(AnomalibMetric, _BinnedConformalThreshold):  # type: ignore[misc]
    """Threshold of maps above which at most the share ``rate`` of a new normal image's pixels lies, on average."""
