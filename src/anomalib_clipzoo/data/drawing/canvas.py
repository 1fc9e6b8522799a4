# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Noise, coordinates and light: what every drawn texture, object and defect is made of.

Images are float arrays ``(H, W, 3)`` in RGB, 0..1; maps are ``(H, W)``. Lengths are in widths of the picture.
"""

import colorsys
import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator

Array = np.ndarray
"""A float32 picture ``(H, W, 3)`` or map ``(H, W)``."""


def hsv(hue: float, saturation: float, value: float) -> Array:
    """Colour ``(3,)`` from hue (wrapped into 0..1), saturation and value (clipped to 0..1)."""
    clipped = (min(max(x, 0.0), 1.0) for x in (saturation, value))
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, *clipped), np.float32)


def mix(first: Array, second: Array, amount: Array | float) -> Array:
    """Go from `first` to `second` by `amount` in 0..1; a map is spread over the colour channels."""
    if isinstance(amount, np.ndarray) and amount.ndim == 2:
        amount = amount[..., None]
    return (first + (second - first) * amount).astype(np.float32)


def step(field: Array, edge: float, softness: float) -> Array:
    """0 where `field` lies below `edge`, 1 above, a smooth ramp of width `softness` between."""
    ramp = np.clip((field - edge) / softness + 0.5, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def noise(rng: Generator, shape: tuple[int, int], cells: tuple[float, float]) -> Array:
    """Smooth noise of about unit amplitude with `cells` bumps down and across."""
    rows, columns = (max(2, round(count) + 1) for count in cells)
    coarse = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def fractal(rng: Generator, shape: tuple[int, int], cells: float, octaves: int = 4) -> Array:
    """Noise summed over octaves, each twice as fine and half as strong."""
    layers = [noise(rng, shape, (cells * 2**k, cells * 2**k)) / 2**k for k in range(octaves)]
    return np.asarray(np.sum(layers, axis=0, dtype=np.float32)) / 1.5


def grain(rng: Generator, shape: tuple[int, int]) -> Array:
    """Independent noise per pixel, standard deviation 1."""
    return rng.standard_normal(shape, dtype=np.float32)


def plane(shape: tuple[int, int], width: int) -> tuple[Array, Array]:
    """Coordinates x (right) and y (down) of a canvas, 0 at its centre, in units of `width` pixels."""
    rows, columns = shape
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    return (x - (columns - 1) / 2) / width, (y - (rows - 1) / 2) / width


def cells(rng: Generator, shape: tuple[int, int], count: int) -> tuple[Array, Array]:
    """Voronoi cells of `count` random points.

    Returns:
        The cell's number of each pixel (int32, 1..count) and the distance in pixels to the cell's point.
    """
    seeds = np.full(shape, 255, np.uint8)
    seeds[rng.integers(0, shape[0], count), rng.integers(0, shape[1], count)] = 0
    distance, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    return labels, distance


def borders(labels: Array) -> Array:
    """1 where two cells meet, 0 elsewhere."""
    numbers = labels.astype(np.float32)
    return (cv2.dilate(numbers, np.ones((2, 2))) != numbers).astype(np.float32)


def blur(image: Array, sigma: float) -> Array:
    """Gaussian blur with reflected borders, `sigma` in pixels."""
    return cv2.GaussianBlur(image, (0, 0), sigma)


def relief(height: Array, angle: float) -> Array:
    """How much more light a slope turned towards `angle` (radians) gets: the slope along the light, per pixel."""
    down, right = np.gradient(height)
    return math.cos(angle) * right + math.sin(angle) * down


def turned(draw: Callable[[Generator, int, int], Array], rng: Generator, width: int, angle: float) -> Array:
    """Draw on a larger canvas, turn it by `angle` (radians) and cut the picture out of its middle.

    Args:
        draw: Called with `rng`, the canvas' side in pixels and `width`, the pixels of one unit of length.
        rng: Source of randomness.
        width: Side of the picture in pixels.
        angle: Angle in radians.
    """
    side = math.ceil(width * math.sqrt(2)) + 2
    middle = (side - 1) / 2
    turn = np.asarray(cv2.getRotationMatrix2D((middle, middle), math.degrees(angle), 1.0), np.float64)
    turn[:, 2] -= (side - width) / 2
    return cv2.warpAffine(draw(rng, side, width), turn, (width, width), flags=cv2.INTER_LINEAR)
