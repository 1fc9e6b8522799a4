# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Crane's training loss."""

import torch
from torch import nn
from torch.nn import functional

from anomalib_clipzoo.anomaly.losses import map_loss
from anomalib_clipzoo.anomaly.precision import full_precision
from anomalib_clipzoo.models.anomaly_clip.torch_model import TEMPERATURE

LOCAL_WEIGHT = 8.0  # the reference code: 2 for each of four taps, which are one and the same in its runs
IMAGE_WEIGHT = 0.2
IMAGE_TEMPERATURE = 0.01  # in training alone; elsewhere it is that of the patches


class CraneLoss(nn.Module):
    """Cross-entropy of images, focal and dice loss of maps.

    Args:
        local_weight: Weight of the maps' losses, averaged over layers.
        image_weight: Weight of the images' loss.
    """

    def __init__(self, local_weight: float = LOCAL_WEIGHT, image_weight: float = IMAGE_WEIGHT) -> None:
        super().__init__()
        self.local_weight = local_weight
        self.image_weight = image_weight

    @full_precision
    def forward(
        self,
        logits: torch.Tensor,
        maps: torch.Tensor,
        labels: torch.Tensor,
        masks: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the loss.

        Args:
            logits: Logits of (normal, abnormal) for each image, ``(B, 2)``.
            maps: Probability of an anomaly for each layer and pixel, ``(K, B, H, W)``, 0..1.
            labels: 1 for anomalous images, 0 for normal ones, ``(B,)``.
            masks: Binary masks, ``(B, H, W)``.
        """
        image_loss = functional.cross_entropy(logits * (TEMPERATURE / IMAGE_TEMPERATURE), labels.long())
        return self.local_weight * map_loss(maps, masks) / len(maps) + self.image_weight * image_loss
