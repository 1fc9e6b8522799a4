# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AnomalyCLIP's training loss."""

import torch
from torch import nn
from torch.nn import functional

from anomalib_clipzoo.anomaly.losses import map_loss
from anomalib_clipzoo.anomaly.precision import full_precision

LOCAL_WEIGHT = 4.0  # the reference code


class AnomalyClipLoss(nn.Module):
    """Global and local loss (Sec. 3.3 of the paper): cross-entropy of images, focal and two dice losses of maps.

    Args:
        local_weight: Weight of the local loss; the global loss has weight 1.
    """

    def __init__(self, local_weight: float = LOCAL_WEIGHT) -> None:
        super().__init__()
        self.local_weight = local_weight

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
        image_loss = functional.cross_entropy(logits, labels.long())
        return image_loss + self.local_weight * map_loss(maps, masks, normal_too=True)
