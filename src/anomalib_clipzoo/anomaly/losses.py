# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Losses on anomaly probabilities, as VCP-CLIP, AnomalyCLIP and AdaCLIP share them."""

import torch

from .precision import full_precision

EPSILON = 1e-5  # keeps targets and probabilities off 0 and 1, as the reference codes do
GAMMA = 2.0


@full_precision
def focal_loss(probability: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Focal loss of Lin et al. (2017) on two-class probabilities, with gamma 2 and no class weight.

    Args:
        probability: Probability of an anomaly, any shape, 0..1.
        target: 1 where there is an anomaly, 0 elsewhere; broadcasts to ``probability``.

    Returns:
        The mean over all elements.
    """
    target = target.to(probability.dtype).clamp(EPSILON, 1 - EPSILON)
    correct = target * probability + (1 - target) * (1 - probability) + EPSILON
    return (-((1 - correct) ** GAMMA) * correct.log()).mean()


@full_precision
def dice_loss(probability: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Soft dice loss per map, smoothed by 1.

    Args:
        probability: Probability maps, ``(..., H, W)``, 0..1.
        target: Binary masks that broadcast to ``probability``.

    Returns:
        The mean over all maps of ``1 - (2 |p g| + 1) / (|p| + |g| + 1)``.
    """
    target = target.to(probability.dtype)
    overlap = (probability * target).sum(dim=(-2, -1))
    total = probability.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1))
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


@full_precision
def map_loss(maps: torch.Tensor, masks: torch.Tensor, *, normal_too: bool = False) -> torch.Tensor:
    """Sum over layers of the focal and the dice loss, weighted alike, as the papers' codes have it.

    Args:
        maps: Probability of an anomaly for each layer and pixel, ``(K, B, H, W)``, 0..1.
        masks: Binary masks, ``(B, H, W)``.
        normal_too: Whether the dice loss of the normal map is a third.
    """
    mean = focal_loss(maps, masks) + dice_loss(maps, masks)
    if normal_too:
        mean = mean + dice_loss(1 - maps, 1 - masks.to(maps.dtype))
    return len(maps) * mean
