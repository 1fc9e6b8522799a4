# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Scores in bins: what counts pixels instead of keeping them.

Half of the resolution goes to even steps of the score, half to even steps of its logit: a model that is sure of most
pixels has nearly all its scores next to 0, where even steps would tie them. Nothing here is in double precision, which
some devices lack, except what runs on the CPU by intention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

BINS = 2**16
LARGEST_LOGIT = 16.0  # beyond it, at about 1e-7 from 0 or 1, single precision has no more steps near 1
TOLERANCE = 1e-4  # sums and smoothing overshoot 0 or 1 by rounding; more than this is no rounding


def bin_numbers(scores: Tensor) -> Tensor:
    """Bin of each score, in 0..``BINS - 1``.

    Args:
        scores: Scores, any shape; what lies outside 0..1 is counted as 0 or 1.
    """
    return _position(scores.float().clamp(0, 1)).round().long()


@cache
def lower_edges() -> Tensor:
    """Return the lowest score of each bin, and 1 at the end; ``(BINS + 1,)`` in double precision, on the CPU."""
    wanted = torch.arange(BINS, dtype=torch.double) - 0.5
    low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
    for _ in range(60):
        middle = (low + high) / 2
        above = _position(middle) >= wanted
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    high[0] = 0
    return torch.cat([high, torch.ones(1, dtype=torch.double)])


def _position(scores: Tensor) -> Tensor:
    """Place of scores in 0..1 on the scale of bins, not rounded."""
    smallest = math.exp(-LARGEST_LOGIT)
    logits = (scores.clamp(min=smallest) / (1 - scores).clamp(min=smallest)).log()
    return (scores + (logits / LARGEST_LOGIT + 1) / 2) / 2 * (BINS - 1)


def check_probabilities(values: Tensor, what: str, paths: Sequence[str | None] | None = None) -> tuple[float, float]:
    """Make sure that all values are numbers in 0..1.

    Args:
        values: Scores ``(B, ...)``.
        what: What they are, for the message.
        paths: The file of each image.

    Returns:
        The lowest and the highest of them.

    Raises:
        ValueError: If one is not a number or further outside than rounding explains; it names the image.
    """
    low, high = (float(value) for value in values.aminmax())
    if low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return low, high
    rows = values.reshape(len(values), -1)
    image = int(((rows >= -TOLERANCE) & (rows <= 1 + TOLERANCE)).all(1).int().argmin())
    name = paths[image] if paths and paths[image] else f"image {image} of its batch"
    if rows[image].isnan().any():
        msg = f"The {what} of {name} is not a number (NaN)."
    else:
        msg = f"The {what} of {name} lies outside 0..1; use anomalib's own metrics and post-processor for such a model."
    raise ValueError(msg)
