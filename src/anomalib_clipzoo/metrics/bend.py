# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""A scale of probabilities on which a threshold lies at 0.5, and the way back."""

import torch
from torch import Tensor


def bend(scores: Tensor, threshold: Tensor) -> Tensor:
    """Stretch 0 to the threshold over 0 to 0.5, and the threshold to 1 over 0.5 to 1; the ranking stays as it is.

    Args:
        scores: Scores in 0..1, any shape; those that rounding took a hair beyond are brought back.
        threshold: Threshold in 0..1; not a number where there is none, and scores stay as they are.
    """
    return bend_around(middle_of(threshold).to(scores.device), scores)


def bend_around(middle: Tensor, scores: Tensor) -> Tensor:
    """Stretch scores as :func:`bend`, around a middle within 0..1 that :func:`middle_of` gave."""
    scores = scores.clamp(0, 1)
    return torch.where(scores < middle, scores / (2 * middle), 1 - (1 - scores) / (2 * (1 - middle)))


def unbend(scores: Tensor, threshold: Tensor) -> Tensor:
    """Bring scores that :func:`bend` stretched back to the model's own scale."""
    middle = middle_of(threshold).to(scores.device)
    return torch.where(scores < 0.5, scores * 2 * middle, 1 - (1 - scores) * 2 * (1 - middle))


def middle_of(threshold: Tensor) -> Tensor:
    """Return the score that comes to 0.5: the threshold, a hair within 0..1; 0.5 where there is none."""
    tiny = torch.finfo(threshold.dtype).eps
    return torch.where(threshold.isnan(), 0.5, threshold).clamp(tiny, 1 - tiny)
