# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What is read off counts: how many normal and how many anomalous samples have each score.

Counts are ``(..., S)`` along ascending scores: distinct scores for exact figures, bins for pixels. Leading axes hold
several data sets at once, such as the resamples of a bootstrap. Everything is computed in double precision on the CPU;
a figure that the counts do not have, as the AUROC of normal samples alone, is not a number.
"""

from __future__ import annotations

import torch
from torch import Tensor

FALSE_POSITIVE_LIMIT = 0.3
"""AUPRO is the area up to this false positive rate (Bergmann et al., "MVTec AD", IJCV 2021, section 4.2)."""


def at_or_above(counts: Tensor) -> Tensor:
    """Count the samples at or above each score, from the highest score to the lowest, beginning with none.

    Args:
        counts: ``(..., S)``.

    Returns:
        ``(..., S + 1)``, from 0 up to the number of samples.
    """
    return torch.nn.functional.pad(counts.double().flip(-1).cumsum(-1), (1, 0))


def auroc(normal: Tensor, anomalous: Tensor) -> Tensor:
    """Area under the receiver operating characteristic, in 0..1."""
    false, true = at_or_above(normal), at_or_above(anomalous)
    return torch.trapezoid(true / true[..., -1:], false / false[..., -1:])


def average_precision(normal: Tensor, anomalous: Tensor) -> Tensor:
    """Precision weighted by the gain in recall, in 0..1; scikit-learn's average precision."""
    false, true = at_or_above(normal), at_or_above(anomalous)
    precision = true[..., 1:] / (true[..., 1:] + false[..., 1:]).clamp(min=1)
    return (precision * true.diff() / true[..., -1:]).sum(-1)


def f1_max(normal: Tensor, anomalous: Tensor) -> Tensor:
    """Largest F1 score over all thresholds, in 0..1."""
    false, true = at_or_above(normal), at_or_above(anomalous)
    return (2 * true / (true + false + true[..., -1:])).amax(-1)


def f1_score(true: Tensor, predicted: Tensor, anomalous: Tensor) -> Tensor:
    """F1 score of labels: from the number of true positives, of predicted and of actual anomalies."""
    return 2 * true.double() / (predicted + anomalous)


def aupro(normal: Tensor, overlap: Tensor, regions: Tensor) -> Tensor:
    """Area under the per-region overlap curve up to a false positive rate of 0.3, divided by 0.3.

    Args:
        normal: Normal pixels of each score ``(..., S)``.
        overlap: Sum over the anomalous regions of the part of a region that has each score ``(..., S)``.
        regions: Number of regions ``(...)``.
    """
    false, overlap = at_or_above(normal), at_or_above(overlap)
    rates, overlaps = false / false[..., -1:], overlap / regions[..., None]
    widths = rates.clamp(max=FALSE_POSITIVE_LIMIT).diff()
    slopes = overlaps.diff() / rates.diff().clamp(min=1e-30)
    areas = widths * (overlaps[..., :-1] + slopes * widths / 2)
    return areas.sum(-1) / FALSE_POSITIVE_LIMIT


def pro_of_200_thresholds(normal: Tensor, overlap: Tensor, regions: Tensor, thresholds: Tensor) -> Tensor:
    """Area under the per-region overlap curve as the papers' code computes it.

    A pixel counts as anomalous above the threshold. Of the points at the thresholds, those with a false positive rate
    below 0.3 are kept; their rates are stretched over 0..1, and the area below them is taken.

    Args:
        normal: Normal pixels of each score ``(S,)``.
        overlap: Sum over the anomalous regions of the part of a region that has each score ``(S,)``.
        regions: Number of regions, a single number.
        thresholds: Position of each threshold among the scores, ascending; the papers' code has 200 of them, evenly
            spaced from the lowest score (included) to the highest (not included).

    Returns:
        The area in 0..1; not a number where fewer than two different rates are below 0.3.
    """
    above = len(normal) - 1 - thresholds.flip(0)
    false, overlaps = at_or_above(normal)[above], at_or_above(overlap)[above] / regions
    rates = false / normal.sum()
    kept = rates < FALSE_POSITIVE_LIMIT
    rates, overlaps = rates[kept], overlaps[kept]
    if not len(rates) or rates[0] == rates[-1]:
        return torch.tensor(torch.nan, dtype=torch.double)
    return torch.trapezoid(overlaps, (rates - rates[0]) / (rates[-1] - rates[0]))
