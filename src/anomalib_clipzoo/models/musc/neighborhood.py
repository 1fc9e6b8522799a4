# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""LNAMD: what a patch and its neighbourhoods of several sizes look like (paper, section 3.2)."""

from collections.abc import Sequence

import torch
from torch.nn import functional


def check_neighborhoods(r_list: Sequence[int], grid: tuple[int, int]) -> tuple[int, ...]:
    """Return the neighbourhoods' sides in ascending order, or say why they do not work on a grid.

    Raises:
        ValueError: If there is none, one is even, or one reaches beyond the grid from everywhere.
    """
    sides = tuple(sorted(set(r_list)))
    largest = 2 * min(grid) - 1
    if not sides or any(side not in range(1, largest + 1, 2) for side in sides):
        msg = (
            f"r_list {list(r_list)} must be one or more odd sides of 1 to {largest} patches, such as [1, 3, 5]: a "
            f"neighbourhood has a patch in its middle, and an image has {grid[0]}x{grid[1]} patches."
        )
        raise ValueError(msg)
    return sides


def standardize(tokens: torch.Tensor) -> torch.Tensor:
    """Standardise all numbers of an image's layer together, ``(..., N, D)``; not each patch by itself."""
    return functional.layer_norm(tokens, tokens.shape[-2:])


def aggregate(tokens: torch.Tensor, side: int, grid: tuple[int, int]) -> torch.Tensor:
    """Average each patch with its neighbours and bring it to unit length.

    Args:
        tokens: Standardised patch tokens, ``(B, N, D)``, row by row.
        side: Side r of the neighbourhood in patches, odd; what lies beyond the grid counts as zero.
        grid: Rows and columns of patches.

    Returns:
        ``(B, N, D)``.
    """
    if side > 1:
        maps = tokens.transpose(1, 2).unflatten(2, grid)
        tokens = functional.avg_pool2d(maps, side, stride=1, padding=side // 2).flatten(2).transpose(1, 2)
    return functional.normalize(tokens, dim=-1)
