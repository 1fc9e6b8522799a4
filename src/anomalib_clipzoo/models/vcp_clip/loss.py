# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""VCP-CLIP's training loss."""

import torch
from torch import nn

from anomalib_clipzoo.anomaly.losses import map_loss

from .torch_model import LayerMaps


class VcpClipLoss(nn.Module):
    """Focal and dice loss of every layer's map of both branches, all weighted 1 (Sec. 3.5 of the paper)."""

    def forward(self, maps: LayerMaps, masks: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            maps: Probability of an anomaly per layer, ``(K, B, H, W)`` for each branch.
            masks: Binary masks, ``(B, H, W)``.
        """
        return map_loss(torch.cat([branch for branch in maps if branch is not None]), masks)
