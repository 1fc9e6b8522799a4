# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""One picture: a texture or an object, perhaps damaged, seen by a camera."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from anomalib_clipzoo.data.drawing.canvas import Array, grain, hsv, mix, plane
from anomalib_clipzoo.data.drawing.defects import DEFECTS
from anomalib_clipzoo.data.drawing.objects import draw_object
from anomalib_clipzoo.data.drawing.textures import TEXTURES, draw_texture

IMAGE_SIZE = 96
"""Side of a picture in pixels."""

MIN_COVERAGE = 0.35
"""A pixel belongs to a defect, and is painted at all, where the defect covers at least this part of it."""


@dataclass(frozen=True)
class Visibility:
    """How faint and how small defects may be; one that stays below is drawn again.

    Args:
        strengths: Range of the strength, 0 the faintest and 1 the most obvious of a kind.
        min_pixels: Least number of pixels.
        min_contrast: Least mean change of the pixels, of 1.
    """

    strengths: tuple[float, float] = (0.6, 1.0)
    min_pixels: int = 45
    min_contrast: float = 0.11


DEFAULT_VISIBILITY = Visibility()

MOST_TRIES = 1000
"""After so many tries a defect that is not visible enough is taken as it is."""


def draw(
    category: str, defect: str | None, rng: Generator, visibility: Visibility = DEFAULT_VISIBILITY
) -> tuple[Array, Array]:
    """Draw one picture.

    The defect is drawn last from `rng`, so that equal generators give the same scene with and without it; the two
    differ nowhere outside the mask.

    Args:
        category: A name in ``TEXTURES`` or ``OBJECTS``.
        defect: A name in ``DEFECTS``, or None for a flawless picture.
        rng: Source of randomness.
        visibility: How faint and how small the defect may be.

    Returns:
        The picture ``(S, S, 3)``, uint8 RGB, and the defect's mask ``(S, S)``, bool, of S = ``IMAGE_SIZE`` pixels.
    """
    if category in TEXTURES:
        scene, support = draw_texture(category, rng, IMAGE_SIZE), np.ones((IMAGE_SIZE, IMAGE_SIZE), np.float32)
    else:
        scene, support = draw_object(category, rng, IMAGE_SIZE)
    scene, (gain, offset) = np.clip(scene, 0, 1), camera(rng)
    mask = np.zeros(support.shape, bool)
    if defect is not None:
        scene, mask = damage(scene, support, defect, rng, visibility)
    return np.round(255 * np.clip(scene * gain + offset, 0, 1)).astype(np.uint8), mask


def camera(rng: Generator) -> tuple[Array, Array]:
    """Light that falls off to one side, a colour cast, and sensor noise, as a gain and an offset."""
    shape = (IMAGE_SIZE, IMAGE_SIZE)
    x, y = plane(shape, IMAGE_SIZE)
    angle = rng.uniform(0, 2 * math.pi)
    falloff = 1 + rng.uniform(0, 0.35) * (math.cos(angle) * x + math.sin(angle) * y)
    cast = mix(np.ones(3, np.float32), hsv(rng.random(), 0.3, 1.0), rng.uniform(0, 0.25))
    noise = rng.uniform(0.004, 0.02) * np.stack([grain(rng, shape) for _ in range(3)], -1)
    return rng.uniform(0.75, 1.15) * falloff[..., None] * cast, noise


def damage(scene: Array, support: Array, defect: str, rng: Generator, visibility: Visibility) -> tuple[Array, Array]:
    """Paint a defect of random strength somewhere on the support, until it can be seen.

    On a very dark surface some kinds hardly can; there the most visible of many tries is taken.

    Raises:
        ValueError: If no try was large enough.
    """
    rows, columns = np.nonzero(support > 0.99)
    highest, best = 0.0, None
    for _ in range(MOST_TRIES):
        place = rng.integers(len(rows))
        middle = np.array([columns[place], rows[place]], float)
        damaged, coverage = DEFECTS[defect](rng, scene, middle, rng.uniform(*visibility.strengths))
        coverage = coverage * support
        mask = coverage >= MIN_COVERAGE
        painted = np.clip(mix(scene, damaged, np.where(mask, coverage, 0)), 0, 1)
        if mask.sum() < visibility.min_pixels:
            continue
        contrast = float(np.abs(painted - scene)[mask].mean())
        if contrast > highest:
            highest, best = contrast, (painted, mask)
        if contrast >= visibility.min_contrast:
            break
    if best is None:
        msg = f"A {defect} of {visibility.min_pixels} pixels does not fit on this surface."
        raise ValueError(msg)
    return best
