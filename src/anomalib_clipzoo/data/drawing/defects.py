# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Damage. Each function paints one kind on a surface and says where.

A function gets the clean picture ``(H, W, 3)``, the middle of the damage ``(column, row)`` in pixels and its strength
in 0..1, and returns the damaged surface ``(H, W, 3)`` and the coverage ``(H, W)`` in 0..1.
"""

import math

import cv2
import numpy as np
from numpy.random import Generator

from anomalib_clipzoo.data.drawing.canvas import Array, blur, fractal, grain, hsv, mix, noise, plane, relief, step

FINE = 4
"""Lines are drawn at this many times the resolution and averaged down, which makes coverage antialiased."""


def strokes(paths: list[tuple[Array, Array]], shape: tuple[int, int]) -> Array:
    """Coverage of polylines.

    Args:
        paths: Points ``(N, 2)`` as (column, row) and thickness ``(N - 1,)`` of each piece, all in pixels.
        shape: Rows and columns of the picture.
    """
    fine = np.zeros((shape[0] * FINE, shape[1] * FINE), np.uint8)
    for points, thickness in paths:
        corners = np.round((points + 0.5) * FINE).astype(int).tolist()
        for start, end, thick in zip(corners[:-1], corners[1:], thickness, strict=True):
            cv2.line(fine, start, end, 255, max(1, round(float(thick) * FINE)))
    return cv2.resize(fine, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def bent_line(rng: Generator, middle: Array, length: float, bend: float, pieces: int = 12) -> Array:
    """Points ``(pieces + 1, 2)`` of an arc through `middle` in a random direction."""
    angle, along = rng.uniform(0, 2 * math.pi), np.linspace(-0.5, 0.5, pieces + 1)
    direction, normal = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
    return middle + length * (along[:, None] * direction + bend * (along**2)[:, None] * normal)


def walk(rng: Generator, start: Array, heading: float, length: float, jitter: float) -> Array:
    """Points of a jagged walk of about `length` pixels."""
    pieces = max(3, round(length / 3))
    headings = heading + rng.normal(0, jitter, pieces)
    steps = np.stack([np.cos(headings), np.sin(headings)], 1) * (length / pieces) * rng.uniform(0.6, 1.4, (pieces, 1))
    return start + np.vstack([np.zeros(2), np.cumsum(steps, 0)])


def blob(rng: Generator, shape: tuple[int, int], middle: Array, radius: float, roughness: float) -> Array:
    """Signed distance in pixels (roughly; negative inside) to an uneven ellipse."""
    x, y = plane(shape, 1)
    x, y = x + (shape[1] - 1) / 2 - middle[0], y + (shape[0] - 1) / 2 - middle[1]
    angle, squeeze = rng.uniform(0, math.pi), rng.uniform(0.6, 1.0)
    u, v = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    uneven = noise(rng, shape, (shape[0] / radius, shape[1] / radius))
    return np.hypot(u, v / squeeze) - radius * (1 + roughness * uneven)


def inside(distance: Array) -> Array:
    """Coverage of a shape given by its signed distance in pixels."""
    return 1 - step(distance, 0.0, 1.0)


def brightness(image: Array, middle: Array) -> float:
    """Mean brightness of the surface around a place."""
    column, row = (int(value) for value in middle)
    return float(image[max(0, row - 8) : row + 9, max(0, column - 8) : column + 9].mean())


def scratch(rng: Generator, image: Array, middle: Array, strength: float) -> tuple[Array, Array]:
    """One to three long thin lines, lighter or darker than the surface."""
    width = image.shape[1]
    first = bent_line(rng, middle, width * rng.uniform(0.2, 0.6), rng.uniform(-0.5, 0.5))
    count = rng.integers(1, 4)
    lines = [first + rng.normal(0, 2.5, 2) * (k > 0) for k in range(count)]
    thickness = rng.uniform(0.7, 1.1) + 0.6 * strength
    coverage = strokes([(points, np.full(len(points) - 1, thickness)) for points in lines], image.shape[:2])
    lighter = brightness(image, middle) < rng.uniform(0.4, 0.8)
    return mix(image, np.full(3, 0.95 if lighter else 0.08, np.float32), 0.25 + 0.55 * strength), coverage


def crack(rng: Generator, image: Array, middle: Array, strength: float) -> tuple[Array, Array]:
    """A jagged dark line with branches."""
    length, heading = image.shape[1] * rng.uniform(0.25, 0.6), rng.uniform(0, 2 * math.pi)
    back = 0.5 * length * np.array([math.cos(heading), math.sin(heading)])
    trunk = walk(rng, middle - back, heading, length, 0.5)
    paths = [trunk]
    for _ in range(rng.integers(0, 4)):
        start = trunk[rng.integers(1, len(trunk) - 1)]
        paths.append(walk(rng, start, heading + rng.choice([-1, 1]) * rng.uniform(0.5, 1.2), length * 0.3, 0.5))
    thickness = 0.9 + 0.8 * strength
    tapered = [(points, thickness * np.linspace(1.2, 0.6, len(points) - 1)) for points in paths]
    return image * (0.75 - 0.6 * strength), strokes(tapered, image.shape[:2])


def hole(rng: Generator, image: Array, middle: Array, strength: float) -> tuple[Array, Array]:
    """A dark uneven opening with a lit edge on one side."""
    distance = blob(rng, image.shape[:2], middle, image.shape[1] * rng.uniform(0.03, 0.085), 0.2)
    floor = np.full(3, rng.uniform(0.02, 0.12), np.float32)
    depth = step(-distance, 1.0, 2.5) * (0.4 + 0.6 * strength)
    edge = relief(np.clip(-distance, 0, 3), rng.uniform(0, 2 * math.pi))
    return mix(image * (0.85 + 0.3 * edge)[..., None], floor, depth), inside(distance)


def stain(rng: Generator, image: Array, middle: Array, strength: float) -> tuple[Array, Array]:
    """A translucent blot of another tint, darker towards its border."""
    shape = image.shape[:2]
    distance = blob(rng, shape, middle, shape[1] * rng.uniform(0.07, 0.2), 0.3)
    tint = hsv(rng.choice([0.07, 0.12, 0.55, rng.random()]), rng.uniform(0.3, 0.9), rng.uniform(0.1, 0.5))
    ring = np.exp(-((distance / 2.0) ** 2))
    amount = (0.18 + 0.4 * strength) * (1 + 0.2 * fractal(rng, shape, 6) + 0.3 * ring)
    return mix(image, tint, np.clip(amount, 0, 1)), inside(distance)


def dent(rng: Generator, image: Array, middle: Array, strength: float) -> tuple[Array, Array]:
    """A smooth hollow: light on one side, shade on the other, the surface's own colour."""
    radius = image.shape[1] * rng.uniform(0.06, 0.14)
    distance = blob(rng, image.shape[:2], middle, radius, 0.12)
    hollow = np.clip(-distance / radius, 0, 1)
    hollow = hollow * hollow * (3 - 2 * hollow)
    shade = relief(hollow, rng.uniform(0, 2 * math.pi)) * radius
    return image * np.clip(1 + (0.2 + 0.45 * strength) * shade, 0.1, 2.0)[..., None], inside(distance)


def cut(rng: Generator, image: Array, middle: Array, strength: float) -> tuple[Array, Array]:
    """A straight slit, widest in its middle, with one lifted lip."""
    points = bent_line(rng, middle, image.shape[1] * rng.uniform(0.14, 0.4), rng.uniform(-0.25, 0.25))
    taper = np.sin(np.linspace(0.15, math.pi - 0.15, len(points) - 1))
    breadth = image.shape[1] * rng.uniform(0.02, 0.04)
    slit = strokes([(points, 0.55 * breadth * taper)], image.shape[:2])
    lips = strokes([(points + rng.uniform(-0.7, 0.7, 2), breadth * taper)], image.shape[:2])
    opened = mix(image, image * 0.4 + 0.6, 0.2 + 0.4 * strength)
    return mix(opened, image * 0.15, slit * (0.35 + 0.6 * strength)), np.maximum(slit, lips)


def contamination(rng: Generator, image: Array, middle: Array, strength: float) -> tuple[Array, Array]:
    """Foreign matter: a fibre, or crumbs of one colour."""
    shape, colour = image.shape[:2], hsv(rng.random(), rng.uniform(0.0, 0.9), rng.uniform(0.1, 0.95))
    if rng.random() < 0.4:
        fibre = walk(rng, middle, rng.uniform(0, 2 * math.pi), shape[1] * rng.uniform(0.2, 0.5), 0.25)
        fibre += np.cumsum(rng.normal(0, 0.6, fibre.shape), 0)
        coverage = strokes([(fibre, np.full(len(fibre) - 1, 1.1 + 0.5 * strength))], shape)
    else:
        crumbs = [
            blob(rng, shape, middle + rng.normal(0, 5, 2), rng.uniform(1.2, 2.2 + 2 * strength), 0.3)
            for _ in range(rng.integers(2, 8))
        ]
        coverage = inside(np.minimum.reduce(crumbs))
    shade = 1 + 0.15 * blur(grain(rng, shape), 0.8)
    return mix(image, colour * shade[..., None], 0.45 + 0.5 * strength), coverage


DEFECTS = {draw.__name__: draw for draw in (contamination, crack, cut, dent, hole, scratch, stain)}
"""Painting function of each kind of defect by its name."""
