# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AdaCLIP's training loss."""

import torch
from torch import nn

from anomalib_clipzoo.anomaly.losses import dice_loss, focal_loss

from .torch_model import Probabilities


class AdaClipLoss(nn.Module):
    """Focal loss of the image, and focal and two dice losses of every layer's map, all weighted 1.

    Args:
        dice_per_row: Whether dice compares rows of pixels instead of whole maps. The reference code does so by the way
            that it squeezes masks at batch size 1, the only one that it allows.
    """

    def __init__(self, dice_per_row: bool = False) -> None:
        super().__init__()
        self.dice_per_row = dice_per_row

    def forward(self, probabilities: Probabilities, masks: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            probabilities: The model's, per layer and pixel, and per image.
            masks: Binary masks, ``(B, H, W)``.
            labels: Whether an image is anomalous, ``(B,)``.
        """
        masks = masks.to(probabilities.maps.dtype)
        layers = [focal_loss(layer, masks) + self._dice(layer, masks) for layer in probabilities.maps]
        return focal_loss(probabilities.image, labels) + torch.stack(layers).sum()

    def _dice(self, maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Dice loss of the abnormal map and of the normal one."""
        if self.dice_per_row:
            maps, masks = maps[..., None, :], masks[..., None, :]
        return dice_loss(maps, masks) + dice_loss(1 - maps, 1 - masks)
