# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Pixel metrics whose memory does not grow with the number of images: scores are counted in bins.

anomalib's exact metrics keep every pixel: at 518x518 pixels, two thousand images take several gigabytes. Here a metric
keeps two histograms of half a megabyte each. Half of the resolution goes to even steps of the score, half to even steps
of its logit: a model that is sure of most pixels has nearly all its scores next to 0, where even steps would tie them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from anomalib.metrics import AnomalibMetric
from torch import Tensor
from torchmetrics import Metric

BINS = 2**16
LARGEST_LOGIT = 16.0  # beyond it, at about 1e-7 from 0 or 1, single precision has no more steps near 1
# AUPRO is the area up to this false positive rate (Bergmann et al., "MVTec AD", IJCV 2021, section 4.2).
FALSE_POSITIVE_LIMIT = 0.3


def bin_numbers(scores: Tensor) -> Tensor:
    """Bin of each score.

    Args:
        scores: Scores in 0..1, any shape.

    Returns:
        Flat numbers in 0..``BINS - 1``.

    Raises:
        ValueError: If a score is outside 0..1 or not a number.
    """
    if not bool(((scores >= 0) & (scores <= 1)).all()):
        msg = "Binned metrics need scores in 0..1; use anomalib's exact metrics for others."
        raise ValueError(msg)
    scores = scores.flatten().double()
    odds = torch.logit(scores, eps=math.exp(-LARGEST_LOGIT)) / LARGEST_LOGIT
    return ((scores + (odds + 1) / 2) / 2 * (BINS - 1)).round().long()


class ScoreHistogram(Metric):
    """Counts of normal and of anomalous pixels per score."""

    full_state_update = False
    normal: Tensor
    anomalous: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("normal", "anomalous"):
            self.add_state(name, default=torch.zeros(BINS, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count the pixels.

        Args:
            preds: Scores in 0..1, any shape.
            target: Truth, 0 or 1, same shape.
        """
        numbers = bin_numbers(preds) + BINS * target.flatten().long()
        counts = torch.bincount(numbers, minlength=2 * BINS).to(self.normal.device)
        self.normal += counts[:BINS]
        self.anomalous += counts[BINS:]

    def curve(self) -> tuple[Tensor, Tensor]:
        """Count false and true positives at each threshold, from the highest to the lowest.

        Returns:
            Two tensors ``(BINS + 1,)``, both from 0 up to the number of normal and anomalous pixels.
        """
        return _accumulated(self.normal), _accumulated(self.anomalous)


class _AUROC(ScoreHistogram):
    """Area under the receiver operating characteristic."""

    def compute(self) -> Tensor:
        """Area in 0..1."""
        false, true = self.curve()
        return torch.trapezoid(true / true[-1], false / false[-1]).float()


class _AP(ScoreHistogram):
    """Average precision: precision weighted by the gain in recall."""

    def compute(self) -> Tensor:
        """Average precision in 0..1."""
        false, true = self.curve()
        precision = true[1:] / (true[1:] + false[1:]).clamp(min=1)
        return (precision * true.diff() / true[-1]).sum().float()


class _F1Max(ScoreHistogram):
    """Largest F1 score over all thresholds."""

    def compute(self) -> Tensor:
        """F1 score in 0..1."""
        false, true = self.curve()
        return (2 * true / (true + false + true[-1])).max().float()


class RegionHistogram(Metric):
    """Counts of normal pixels per score, and of the part of each anomalous region that has a score."""

    full_state_update = False
    normal: Tensor
    overlap: Tensor
    regions: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("normal", default=torch.zeros(BINS, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("overlap", default=torch.zeros(BINS, dtype=torch.double), dist_reduce_fx="sum")
        self.add_state("regions", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count the pixels; connected regions are found on the CPU, each image for itself.

        Args:
            preds: Scores in 0..1, ``(B, H, W)``.
            target: Truth, 0 or 1, ``(B, H, W)``.
        """
        numbers = bin_numbers(preds).reshape(len(preds), -1)
        for image_numbers, mask in zip(numbers, target.cpu().numpy().astype(np.uint8), strict=True):
            count, labels = cv2.connectedComponents(mask)
            regions = torch.from_numpy(labels).flatten().long().to(numbers.device)
            parts = regions.bincount(minlength=count).double().reciprocal()[regions]
            inside = regions > 0
            self.normal += image_numbers[~inside].bincount(minlength=BINS).to(self.normal.device)
            overlap = image_numbers[inside].bincount(weights=parts[inside], minlength=BINS)
            self.overlap += overlap.to(self.overlap.device)
            self.regions += count - 1


class _AUPRO(RegionHistogram):
    """Area under the per-region overlap curve up to a false positive rate of 0.3."""

    def compute(self) -> Tensor:
        """Area in 0..1, divided by the limit."""
        false, overlap = _accumulated(self.normal), _accumulated(self.overlap)
        rate, overlap = false / false[-1], overlap / self.regions
        below = int((rate <= FALSE_POSITIVE_LIMIT).sum())
        rate, overlap = rate[: below + 1], overlap[: below + 1].clone()
        excess = (rate[-1] - FALSE_POSITIVE_LIMIT) / (rate[-1] - rate[-2])
        overlap[-1] -= excess * (overlap[-1] - overlap[-2])
        rate[-1] = FALSE_POSITIVE_LIMIT
        return (torch.trapezoid(overlap, rate) / FALSE_POSITIVE_LIMIT).float()


class Binned(AnomalibMetric, Metric):
    """Base of binned metrics: they are updated with batches and reported under their exact counterpart's name.

    Args:
        fields: Fields of the batch: scores in 0..1 and truth.
        prefix: Put before the name, such as ``"pixel_"``.
        strict: Whether a batch without these fields is an error; else it is passed over.
    """

    def __init__(self, fields: Sequence[str], prefix: str = "", strict: bool = True) -> None:
        super().__init__(fields=fields, prefix=prefix, strict=strict)
        self.name = prefix + type(self).__name__.removeprefix("Binned")


class BinnedAUROC(Binned, _AUROC):  # type: ignore[misc]
    """Area under the receiver operating characteristic, reported as ``AUROC``."""


class BinnedAP(Binned, _AP):  # type: ignore[misc]
    """Average precision: precision weighted by the gain in recall, reported as ``AP``."""


class BinnedF1Max(Binned, _F1Max):  # type: ignore[misc]
    """Largest F1 score over all thresholds, reported as ``F1Max``."""


class BinnedAUPRO(Binned, _AUPRO):  # type: ignore[misc]
    """Area under the per-region overlap curve up to a false positive rate of 0.3, reported as ``AUPRO``."""


def _accumulated(histogram: Tensor) -> Tensor:
    """Sums from the highest bin downwards, in double precision, with a leading 0."""
    return torch.nn.functional.pad(histogram.flip(0).cumsum(0).double(), (1, 0))
