# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""A few of many features that stand for all of them, as in PatchCore."""

import math

import numpy as np
import torch
from anomalib.models.components.sampling import KCenterGreedy

SEED = 0  # of the first feature and of the random projection in which distances are measured


def coreset_size(positions: int, ratio: float | None) -> int:
    """Return how many of an image's positions are kept: a share of them, rounded up."""
    return positions if ratio is None else math.ceil(positions * ratio)


def coreset(features: torch.Tensor, ratio: float) -> torch.Tensor:
    """Choose features so that each one left out has a chosen one near it (k-center greedy).

    The choice depends on the features alone, and does not touch the global random numbers.

    Args:
        features: Features of K images, ``(K, N, D)``.
        ratio: Share of the positions that is kept, above 0, to 1.

    Returns:
        Those chosen of all images together, ``(K, ceil(ratio * N), D)``: rows belong to no image of their own.
    """
    kept = coreset_size(features.shape[1], ratio)
    positions = features.flatten(0, 1)
    count = kept * len(features)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        sampler = KCenterGreedy(positions.float().cpu(), (count + 0.5) / len(positions))  # it rounds down
        # A plain number would choose the same columns for every row of the projection.
        sampler.model.random_state = np.random.RandomState(SEED)  # type: ignore[assignment]
        chosen = sampler.select_coreset_idxs()
    return positions[chosen].unflatten(0, (len(features), kept))
