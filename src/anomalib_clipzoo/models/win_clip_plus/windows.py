# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Sliding windows: which patches each one covers, and their features from the image tower.

A window is s x s patches and the class token, which go through the transformer alone. Windows share no attention, so
each one costs as many tokens as it has; what they do share is computed once:

* everything before the first attention (embedding, norms, queries, keys, values) is per token: once for the image;
* after the last attention only the class token is read: the last block runs for it alone.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from anomalib_clipzoo.anomaly.maps import weighted_mean
from anomalib_clipzoo.anomaly.precision import FullPrecision, full_precision
from anomalib_clipzoo.anomaly.text_cache import is_exporting
from anomalib_clipzoo.clip import VisionTower
from anomalib_clipzoo.clip.attention import (
    attend,
    feed_forward,
    prepare,
    project_qkv,
    residual_block,
    single_token_block,
)

SMALLEST = 1e-30  # stands for zero in harmonic means: its inverse is finite, so that nothing becomes NaN


def check_scales(scales: Sequence[int], stride: int, grid: tuple[int, int]) -> tuple[int, ...]:
    """Return the scales in ascending order, or say why windows of these scales do not work on a grid.

    Args:
        scales: Sides of the windows in patches.
        stride: Steps between windows in patches.
        grid: Rows and columns of patches.

    Raises:
        ValueError: If there is no scale, one is larger than the grid, or the stride leaves gaps between windows.
    """
    scales = tuple(sorted(set(scales)))
    if not scales or scales[0] < 1 or scales[-1] > min(grid):
        msg = (
            f"scales {list(scales)} must be one or more window sides of 1 to {min(grid)} patches: an image has "
            f"{grid[0]}x{grid[1]} patches."
        )
        raise ValueError(msg)
    if not 1 <= stride <= scales[0]:
        msg = f"stride {stride} must be at least 1 and at most the smallest scale, {scales[0]}: every patch is seen."
        raise ValueError(msg)
    return scales


def window_patches(grid: tuple[int, int], scale: int, stride: int = 1) -> torch.Tensor:
    """List the patches of all windows of one scale.

    Args:
        grid: Rows and columns of patches.
        scale: Side of a window in patches.
        stride: Steps between windows; the last row and column of windows always end at the grid's edge.

    Returns:
        Patch numbers ``(W, scale * scale)``; windows and the patches within go row by row.
    """
    tops, lefts = (_starts(length, scale, stride) for length in grid)
    corners = tops[:, None] * grid[1] + lefts
    side = torch.arange(scale)
    inside = side[:, None] * grid[1] + side
    return corners.flatten()[:, None] + inside.flatten()


def _starts(length: int, scale: int, stride: int) -> torch.Tensor:
    last = length - scale
    return torch.tensor(sorted({*range(0, last + 1, stride), last}))


class WindowPooling(FullPrecision):
    """From values per window to values per patch: the mean over the windows that cover it.

    Args:
        patches: Patch numbers of each window, ``(W, s * s)``, see :func:`window_patches`.
        count: Number of patches in the grid.
    """

    share: torch.Tensor

    def __init__(self, patches: torch.Tensor, count: int) -> None:
        super().__init__()
        covers = torch.zeros(len(patches), count).scatter_(1, patches, 1.0)
        self.register_buffer("share", covers / covers.sum(dim=0), persistent=False)

    @full_precision
    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Arithmetic mean, ``(B, W)`` to ``(B, N)``."""
        return values @ self.share

    @full_precision
    def harmonic_mean(self, values: torch.Tensor) -> torch.Tensor:
        """Harmonic mean of values of 0..1, ``(B, W)`` to ``(B, N)``; a window of 0 makes it 0 (paper, section 4.2)."""
        return (1 / self.mean(1 / values.clamp(min=SMALLEST))).clamp(max=1)


@full_precision
def harmonic_mean(values: torch.Tensor) -> torch.Tensor:
    """Harmonic mean over the first axis of values of 0..1; one 0 makes it 0."""
    return (1 / (1 / values.clamp(min=SMALLEST)).mean(dim=0)).clamp(max=1)


@full_precision
def weighted_harmonic_mean(some: torch.Tensor, others: torch.Tensor, weight: float) -> torch.Tensor:
    """Harmonic mean of values of 0..1 and of others, which have so much of the weight."""
    some, others = some.clamp(min=SMALLEST), others.clamp(min=SMALLEST)
    return (1 / weighted_mean(1 / some, 1 / others, weight)).clamp(max=1)


class WindowEncoder(nn.Module):
    """The image tower on the whole image and on all windows of all scales.

    Args:
        scales: Sides of the windows in patches, see :func:`check_scales`.
        stride: Steps between windows in patches.
        grid: Rows and columns of patches.
        window_batch: At most this many windows go through the transformer at once, which bounds the memory.

    Raises:
        ValueError: If ``window_batch`` is not positive.
    """

    def __init__(self, scales: Sequence[int], stride: int, grid: tuple[int, int], window_batch: int) -> None:
        super().__init__()
        if window_batch < 1:
            msg = f"window_batch {window_batch} must be at least 1."
            raise ValueError(msg)
        self.window_batch = window_batch
        self.scales = tuple(scales)
        for scale in self.scales:
            tokens = functional.pad(window_patches(grid, scale, stride) + 1, (1, 0))  # number 0 is the class token
            self.register_buffer(f"tokens_{scale}", tokens, persistent=False)

    def forward(
        self,
        vision: VisionTower,
        images: torch.Tensor,
        *,
        with_patches: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None, list[torch.Tensor]]:
        """Encode images ``(B, 3, H, W)``.

        Args:
            vision: The frozen image tower.
            images: Normalised images.
            with_patches: Whether the patch tokens of the last block are wanted.

        Returns:
            The image features ``(B, E)``, the patch tokens ``(B, N, D)`` or ``None``, and the window features of each
            scale ``(B, W, E)``; nothing is normalised.
        """
        tokens = vision.embed(images)
        first: Any = vision.blocks[0]
        shared = (tokens, *project_qkv(first.attn, prepare(first.ln_1, tokens)))
        whole = self._run(vision, *shared, read_patches=with_patches)
        windows = [self._encode_windows(vision, shared, scale) for scale in self.scales]
        return vision.project(whole[:, 0]), whole[:, 1:] if with_patches else None, windows

    def _encode_windows(self, vision: VisionTower, shared: tuple[torch.Tensor, ...], scale: int) -> torch.Tensor:
        """Encode all windows of one scale: ``(B, W, E)``."""
        chunks = [
            self._run(vision, *(_gather(part, members) for part in shared)).unflatten(0, (-1, len(members)))
            for members in self._chunks(self.get_buffer(f"tokens_{scale}"), shared[0].shape[0])
        ]
        return vision.project(torch.cat(chunks, dim=1)[:, :, 0])

    def _chunks(self, members: torch.Tensor, images: int) -> Iterator[torch.Tensor]:
        """Split the windows ``(W, L)`` so that those of all images together stay within ``window_batch``."""
        if is_exporting():  # an exported graph takes batches of any size
            return iter((members,))
        per_chunk = max(1, self.window_batch // images)
        return iter(members.chunk(-(-len(members) // per_chunk)))

    @staticmethod
    def _run(
        vision: VisionTower,
        tokens: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        read_patches: bool = False,
    ) -> torch.Tensor:
        """Run all blocks on sequences ``(S, L, D)`` whose first projections are known.

        Returns:
            The last block's class tokens ``(S, 1, D)``, or all its tokens ``(S, L, D)`` with ``read_patches``.
        """
        first: Any = vision.blocks[0]
        last = vision.blocks[-1]
        tokens = feed_forward(first, tokens + first.ls_1(attend(first.attn, query, key, value)))
        for block in vision.blocks[1:-1]:
            tokens = residual_block(block, tokens)
        if vision.depth == 1:
            return tokens if read_patches else tokens[:, :1]
        return residual_block(last, tokens) if read_patches else single_token_block(last, tokens)


def _gather(part: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    """Pick the tokens ``(W, L)`` of each window from ``(B, [heads,] 1 + N, D)``, as ``(B * W, [heads,] L, D)``."""
    picked = part[..., members, :]
    return (picked if picked.dim() == 4 else picked.transpose(1, 2)).flatten(0, 1)
