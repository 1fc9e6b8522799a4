# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Weights of Pillow's resizing filters in its fixed-point precision, in double precision and without.

Each output pixel is a weighted mean of the input pixels around it; the kernel widens when shrinking. Distances are
fractions of whole numbers, exact in either way.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from PIL.Image import Resampling

HALF = 2.0**11
FIXED_POINT = HALF**2  # Pillow rounds filter weights to this fraction
REACH = 2  # of the widest kernel, in pixels of the coarser grid

# Cubic polynomials of the distance below 1 and from 1 to 2: Keys' kernel with Pillow's a = -0.5, and the triangle.
KERNELS = {
    Resampling.BICUBIC: ((1.5, -2.5, 0.0, 1.0), (-0.5, 2.5, -4.0, 2.0)),
    Resampling.BILINEAR: ((0.0, 0.0, -1.0, 1.0), (0.0, 0.0, 0.0, 0.0)),
}

STEPS = 2**13  # of the table, between distances of whole pixels
COARSE, FINE = 2.0**7, 2.0**18  # fractions that a weight's first and second part are rounded to


def filter_weights(
    outputs: torch.Tensor, pixels: torch.Tensor, length: int, target: int, kernel: Resampling, axis: int
) -> torch.Tensor:
    """Compute weights of input pixels in output pixels, whole numbers that sum to ``FIXED_POINT`` along an axis."""
    numerators, denominator = _distances(outputs, pixels, length, target)
    distances = numerators.double() / denominator
    near, far = (_polynomial(coefficients, distances) for coefficients in KERNELS[kernel])
    weights = torch.where(distances < 1, near, far)
    return (weights / weights.sum(dim=axis, keepdim=True) * FIXED_POINT).round()


def split(weights: torch.Tensor) -> list[torch.Tensor]:
    """Split weights into two halves of 11 bits, whose products with 8-bit levels add up exactly in single precision.

    The first half counts in steps of ``HALF``.
    """
    high = (weights / HALF).round()
    return [high.float(), (weights - high * HALF).float()]


def filter_weights_in_single(length: int, target: int, kernel: Resampling, device: torch.device) -> list[torch.Tensor]:
    """Compute the weights of a whole axis, ``(length, target)``, split in halves, in single precision all the way.

    For runtimes that have no double precision, and compute in single where a graph asks for it: OpenVINO. A weight is
    kept as a sum of parts, each with so few bits that adding and multiplying them loses none: the kernel's value at the
    next lower distance in a table, and what its polynomial adds to that.
    """
    outputs, pixels = torch.arange(target, device=device), torch.arange(length, device=device)[:, None]
    numerators, denominator = _distances(outputs, pixels, length, target)
    places = (numerators * STEPS / denominator).floor().long()
    beyond = (numerators * STEPS - places * denominator).float() / STEPS / denominator
    table = torch.from_numpy(_table(kernel)).to(device)
    coarse, fine, rest, slope, curve, bend = table[places].unbind(dim=-1)
    added = ((bend * beyond + curve) * beyond + slope) * beyond
    added_fine = (added * FINE).floor() / FINE
    parts = [coarse, fine + added_fine, rest + (added - added_fine)]

    sums = [part.sum(dim=0) for part in parts]
    whole = ((sums[0] + sums[1]) * COARSE).floor() / COARSE
    sums = [whole, sums[0] - whole + sums[1], sums[2]]

    nearly = sums[0] + sums[1]
    high = ((parts[0] + parts[1]) / nearly * HALF).round()
    share = high / HALF
    left = [part - share * total for part, total in zip(parts, sums, strict=True)]
    return [high, ((left[0] + left[1] + left[2]) / nearly * FIXED_POINT).round()]


def _distances(outputs: torch.Tensor, pixels: torch.Tensor, length: int, target: int) -> tuple[torch.Tensor, Any]:
    """Return distances of input from output pixels, up to the kernel's reach: whole numbers, and what divides them."""
    denominator: Any = 2 * torch.sym_max(length, target)
    numerators = ((2 * pixels + 1) * target - (2 * outputs + 1) * length).abs()
    return numerators.clamp(max=REACH * denominator), denominator


def _polynomial(coefficients: tuple[float, ...], distances: torch.Tensor) -> torch.Tensor:
    cubic, square, linear, constant = coefficients
    return ((cubic * distances + square) * distances + linear) * distances + constant


@cache  # no tensor: one that is made while a graph is traced belongs to that graph
def _table(kernel: Resampling) -> np.ndarray:
    """Tabulate a kernel: its value in three parts, and the coefficients of its polynomial from there on, ``(K, 6)``."""
    distances = np.arange(REACH * STEPS + 1) / STEPS
    pieces = [np.poly1d(coefficients) for coefficients in KERNELS[kernel]]

    def order(number: int) -> np.ndarray:
        near, far = (piece.deriv(number)(distances) for piece in pieces)
        return np.where(distances < 1, near, np.where(distances < REACH, far, 0.0))

    values = order(0)
    coarse = np.floor(values * COARSE) / COARSE
    fine = np.floor((values - coarse) * FINE) / FINE
    columns = [coarse, fine, values - coarse - fine, order(1), order(2) / 2, order(3) / 6]
    return np.stack(columns, axis=-1).astype(np.float32)
