# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Patch tokens of several layers into the joint space, where they meet the texts."""

from collections.abc import Iterable

import torch
from torch import nn

from .precision import like_weights, unit


class PatchProjections(nn.ModuleList):
    """A learned linear layer for each tapped layer's patch tokens: APRIL-GAN, VCP-CLIP's base branch, AdaCLIP.

    Args:
        layers: Number K of tapped layers.
        width: Width D of patch tokens.
        joint: Width E of the joint space.
    """

    def __init__(self, layers: int, width: int, joint: int) -> None:
        super().__init__(nn.Linear(width, joint) for _ in range(layers))

    def forward(self, patches: Iterable[torch.Tensor]) -> torch.Tensor:
        """Project each layer's patches ``(B, N, D)`` to unit length: ``(K, B, N, E)``."""
        projected = [like_weights(project, layer) for project, layer in zip(self, patches, strict=True)]
        return unit(torch.stack(projected))
