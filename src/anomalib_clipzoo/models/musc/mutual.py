# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""MSM, mutual scoring: a patch with a near twin in many other images is normal (paper, section 3.3).

Features have unit length, so the nearest patch is the one with the largest product, and only the few products that are
averaged in the end become distances. Each pair of images is multiplied once: the largest product in each row belongs
to one image's patch, the largest in each column to the other's.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch

from anomalib_clipzoo.anomaly.text_cache import is_exporting

from .interval import Interval

DistancePrecision = Literal["float32", "float16", "int8"]

PRODUCTS = 2**25  # products of patches in memory at once
CACHED = 2**22  # on a processor, whose cache holds so many
TABLE = 2**28  # largest products: of all images up to 440 of 518 pixels, beyond that of some images at a time
FARTHEST = -1.0  # the smallest product of two vectors of unit length
LEVELS = 127  # of 8 bits, either side of zero
REACH = 6  # standard deviations that the levels span, either side of zero


def mutual_scores(features: torch.Tensor, interval: Interval) -> torch.Tensor:
    """Score the patches of a set's images by how far they are from the set's other images.

    Args:
        features: Patch features of unit length, at any precision of :func:`compress`, ``(N, L, D)``.
        interval: Which of the other images count.

    Returns:
        Mean distance of each patch to the nearest patch of each image in the interval, ``(N, L)``, 0..2.
    """
    count, patches = features.shape[:2]
    products = CACHED if features.device.type == "cpu" else PRODUCTS
    side = max(1, math.isqrt(products // patches**2))
    at_once = max(1, TABLE // (patches * count * side)) * side
    scores = []
    for start in range(0, count, at_once):
        table = _fill_table(features, range(start, min(start + at_once, count)), side)
        table.diagonal(start, dim1=0, dim2=2).fill_(FARTHEST)  # an image does not vouch for itself
        scores += [interval.mean_distance(images, count - 1) for images in table.split(side)]
    return torch.cat(scores)


def _fill_table(features: torch.Tensor, queries: range, side: int) -> torch.Tensor:
    """Compare some images of a set with all of it; what is multiplied among the queries serves both images.

    Args:
        features: Features of the whole set, ``(N, L, D)``.
        queries: Which images are asked for, Q of them.
        side: So many images are multiplied with as many others at once.

    Returns:
        The largest product of each patch with the patches of each image, ``(Q, L, N)``.
    """
    count, patches = features.shape[:2]
    table = torch.empty(len(queries), patches, count, device=features.device, dtype=torch.float32)
    for row in queries[::side]:
        rows, mine = slice(row, row + side), slice(row - queries.start, row - queries.start + side)
        for column in (*range(0, queries.start, side), *range(row, count, side)):
            columns, theirs = (slice(begin, begin + side) for begin in (column, column - queries.start))
            found = _products(features[rows], features[columns])
            table[mine, :, columns] = found.amax(dim=3)
            if row < column < queries.stop:
                table[theirs, :, rows] = found.amax(dim=1).permute(1, 2, 0)
    return table.mul_(_unit(features))


def pool_scores(
    features: torch.Tensor,
    pool: torch.Tensor,
    interval: Interval,
    own: torch.Tensor | None = None,
) -> torch.Tensor:
    """Score the patches of images by how far they are from the images of a pool.

    Args:
        features: Patch features of unit length, ``(B, L, D)``.
        pool: Patch features of the pool's images, ``(P, L, D)``.
        interval: Which of the pool's images count.
        own: Where an image of the pool is the very image that is scored, which does not vouch for itself: ``(B, P)``,
            one in a row at most. ``None`` where there is none.

    Returns:
        Mean distance, ``(B, L)``, 0..2.
    """
    at_once = max(1, PRODUCTS // (len(pool) * pool.shape[1] ** 2))
    table = torch.cat([_products(images, pool).amax(dim=3) for images in in_batches(features, at_once)])
    scores = interval.mean_distance(table, len(pool))
    if own is None:
        return scores
    without = interval.mean_distance(table.masked_fill(own[:, None], FARTHEST), len(pool) - 1)
    return torch.where(own.any(dim=1, keepdim=True), without, scores)


def in_batches(images: torch.Tensor, at_once: int) -> Sequence[torch.Tensor]:
    """Split images ``(B, ...)`` so that memory is bounded; an exported graph takes them as they come."""
    return (images,) if is_exporting() else images.split(at_once)


def compress(features: torch.Tensor, precision: DistancePrecision) -> torch.Tensor:
    """Bring features to the precision in which they are multiplied.

    Half precision is for accelerators: few processors multiply it fast. 8 bits are for processors. All channels share
    their levels; so that none stands out, a random rotation, which leaves products as they are, mixes them first.

    Args:
        features: Features of unit length, ``(N, L, D)``, float32.
        precision: "float32"; "float16", which changes distances by some 2e-4; "int8", by some 1e-3.
    """
    if precision != "int8":
        return features.to(getattr(torch, precision))
    width = features.shape[-1]
    mixed = features @ _rotation(width).to(features.device)
    return (mixed / _step(width)).round().clamp(-LEVELS, LEVELS).to(torch.int8)


@cache
def _rotation(width: int) -> torch.Tensor:
    noise = torch.randn(width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    return torch.linalg.qr(noise).Q


def _step(width: int) -> float:
    """Return the distance between levels: a channel of a rotated vector of unit length deviates by 1 / sqrt(D)."""
    return REACH / math.sqrt(width) / LEVELS


def _unit(features: torch.Tensor) -> float:
    """Return what products of compressed features are counted in."""
    return _step(features.shape[-1]) ** 2 if features.dtype == torch.int8 else 1.0


def _products(features: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Multiply all patches of images ``(A, L, D)`` with all patches of others ``(B, L, D)``: ``(A, L, B, L)``."""
    rows, columns = features.flatten(0, 1), others.flatten(0, 1).T
    found = torch._int_mm(rows, columns) if rows.dtype == torch.int8 else rows @ columns
    return found.unflatten(1, others.shape[:2]).unflatten(0, features.shape[:2])
