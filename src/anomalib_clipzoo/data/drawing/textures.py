# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Surfaces that fill the picture. Each function draws a square canvas of `side` pixels, `width` pixels a unit."""

import math

import numpy as np
from numpy.random import Generator

from anomalib_clipzoo.data.drawing.canvas import (
    Array,
    blur,
    borders,
    cells,
    fractal,
    grain,
    hsv,
    mix,
    noise,
    plane,
    relief,
    step,
    turned,
)


def draw_texture(name: str, rng: Generator, width: int) -> Array:
    """Draw a surface at a random angle, ``(width, width, 3)``."""
    return turned(TEXTURES[name], rng, width, rng.uniform(0, 2 * math.pi))


def wood(rng: Generator, side: int, width: int) -> Array:
    """Long wavy grain, now and then a knot."""
    shape = (side, side)
    x, y = plane(shape, width)
    rings = y + 0.12 * noise(rng, shape, (2, 2)) + 0.02 * noise(rng, shape, (6, 3))
    if rng.random() < 0.3:
        column, row = rng.uniform(-0.4, 0.4, 2)
        rings += 0.12 * np.exp(-(((x - column) / 0.16) ** 2) - ((y - row) / 0.08) ** 2)
    lines = 0.5 + 0.5 * np.sin(2 * math.pi * rings * rng.uniform(6, 14))
    fibres = noise(rng, shape, (side / 2, 6))
    light, hue = rng.uniform(0.55, 0.85), rng.uniform(0.05, 0.1)
    saturation = rng.uniform(0.35, 0.65)
    image = mix(hsv(hue, saturation, light), hsv(hue - 0.015, saturation + 0.12, light * 0.72), lines**2)
    return image * (1 + 0.07 * fibres)[..., None]


def mortar(x: Array, y: Array, size: tuple[float, float], bond: float, joint: float) -> tuple[Array, Array]:
    """Lay stones of `size` in rows, every second row shifted by `bond` of a stone.

    Returns:
        Height of the surface (0 in the joints, 1 on the stones) and each stone's number.
    """
    row = np.floor(y / size[1])
    along = x / size[0] + bond * np.mod(row, 2)
    edge_x = (0.5 - np.abs(np.mod(along, 1) - 0.5)) * size[0]
    edge_y = (0.5 - np.abs(np.mod(y / size[1], 1) - 0.5)) * size[1]
    height = step(np.minimum(edge_x, edge_y), joint, 0.015)
    return height, (np.floor(along) * 7 + row * 31).astype(np.int64)


def paving(
    rng: Generator, shape: tuple[int, int], height: Array, number: Array, colours: tuple[Array, Array], spread: float
) -> Array:
    """Colour stones one by one around `colours[0]`, the joints in `colours[1]`."""
    tones = 1 + spread * rng.uniform(-1, 1, 64).astype(np.float32)
    stones = colours[0] * (tones[number % 64] + 0.05 * fractal(rng, shape, 8))[..., None]
    shade = 1 + 0.25 * relief(height, rng.uniform(0, 2 * math.pi))
    return mix(colours[1] * (1 + 0.05 * grain(rng, shape))[..., None], stones, height) * shade[..., None]


def tile(rng: Generator, side: int, width: int) -> Array:
    """Square glazed tiles with joints."""
    shape = (side, side)
    x, y = plane(shape, width)
    size = rng.uniform(0.28, 0.42)
    x, y = x + rng.uniform(0, size), y + rng.uniform(0, size)
    height, number = mortar(x, y, (size, size), 0.0, rng.uniform(0.008, 0.014))
    colours = hsv(rng.random(), rng.uniform(0.05, 0.45), rng.uniform(0.55, 0.9)), hsv(0.1, 0.08, rng.uniform(0.3, 0.8))
    return paving(rng, shape, height, number, colours, 0.05)


def brick(rng: Generator, side: int, width: int) -> Array:
    """A brick wall in running bond."""
    shape = (side, side)
    x, y = plane(shape, width)
    length = rng.uniform(0.26, 0.36)
    x, y = x + rng.uniform(0, 1) + 0.006 * noise(rng, shape, (12, 12)), y + rng.uniform(0, 1)
    height, number = mortar(x, y, (length, length * 0.42), 0.5, rng.uniform(0.01, 0.016))
    colour = hsv(rng.uniform(0.0, 0.05), rng.uniform(0.45, 0.7), rng.uniform(0.45, 0.7))
    image = paving(rng, shape, height, number, (colour, hsv(0.1, 0.1, rng.uniform(0.55, 0.8))), 0.14)
    return image * (1 + 0.06 * grain(rng, shape))[..., None]


def carpet(rng: Generator, side: int, width: int) -> Array:
    """Looped pile with a soft two-tone pattern."""
    shape = (side, side)
    x, y = plane(shape, width)
    pitch = rng.uniform(22, 30)
    loops = np.sin(2 * math.pi * pitch * x) * np.sin(2 * math.pi * pitch * y)
    hue, value = rng.random(), rng.uniform(0.35, 0.7)
    first = hsv(hue, rng.uniform(0.3, 0.7), value)
    second = hsv(hue + rng.uniform(-0.08, 0.08), 0.4, value * rng.uniform(0.75, 1.2))
    image = mix(first, second, step(fractal(rng, shape, 10), 0.0, 0.5))
    return image * (1 + 0.12 * loops + 0.1 * blur(grain(rng, shape), 0.7))[..., None]


def leather(rng: Generator, side: int, width: int) -> Array:
    """Small irregular cells with creases between them."""
    shape = (side, side)
    labels, _ = cells(rng, shape, int(rng.uniform(350, 800) * (side / width) ** 2))
    creases = blur(borders(labels), 0.7)
    colour = hsv(rng.choice([0.02, 0.05, 0.08, 0.6]), rng.uniform(0.3, 0.75), rng.uniform(0.25, 0.65))
    shade = 1 - 0.45 * creases - 0.6 * relief(creases, rng.uniform(0, 2 * math.pi))
    return colour * (shade + 0.07 * fractal(rng, shape, 4))[..., None]


def grid(rng: Generator, side: int, width: int) -> Array:
    """Two layers of crossing wires before a dark ground."""
    shape = (side, side)
    x, y = plane(shape, width)
    pitch, thickness = rng.uniform(0.1, 0.15), rng.uniform(0.015, 0.024)
    colour = hsv(rng.uniform(0.5, 0.65), rng.uniform(0.02, 0.15), rng.uniform(0.6, 0.85))
    image = hsv(0.6, 0.1, rng.uniform(0.08, 0.25)) * (1 + 0.05 * grain(rng, shape))[..., None]
    for across in (x + rng.uniform(0, 1), y + rng.uniform(0, 1)):
        offset = (np.mod(across / pitch, 1) - 0.5) * pitch
        shade = np.sqrt(np.clip(1 - (offset / thickness) ** 2, 0.05, 1))
        wire = 1 - step(np.abs(offset), thickness, 0.012)
        image = mix(image, colour * shade[..., None], wire)
    return image


def fabric(rng: Generator, side: int, width: int) -> Array:
    """Plain weave: warp and weft threads that pass over each other in turn."""
    shape = (side, side)
    x, y = plane(shape, width)
    pitch = rng.uniform(14, 20)
    warp, weft = np.sin(2 * math.pi * pitch * x), np.sin(2 * math.pi * pitch * y)
    hue = rng.random()
    colours = hsv(hue, rng.uniform(0.1, 0.6), rng.uniform(0.5, 0.85)), hsv(hue, rng.uniform(0.1, 0.6), 0.6)
    image = mix(*colours, step(warp * weft, 0.0, 0.8))
    threads = noise(rng, shape, (side / 3, 3)) + noise(rng, shape, (3, side / 3))
    return image * (1 + 0.1 * np.abs(warp) - 0.1 * np.abs(weft) + 0.06 * threads)[..., None]


def knit(rng: Generator, side: int, width: int) -> Array:
    """Columns of V-shaped stitches."""
    shape = (side, side)
    x, y = plane(shape, width)
    pitch = rng.uniform(0.075, 0.11)
    column = np.abs(np.mod(x / pitch, 1) - 0.5)
    stitch = np.sin(2 * math.pi * (y / (0.8 * pitch) + 1.3 * column))
    gap = step(column, 0.44, 0.14)
    colour = hsv(rng.random(), rng.uniform(0.2, 0.65), rng.uniform(0.45, 0.85))
    shade = 0.92 + 0.16 * stitch - 0.3 * gap + 0.08 * blur(grain(rng, shape), 0.8)
    return colour * shade[..., None]


def marble(rng: Generator, side: int, _width: int) -> Array:
    """Pale stone with soft branching veins."""
    shape = (side, side)
    veins = np.exp(-np.abs(fractal(rng, shape, 2, 5)) * rng.uniform(9, 16))
    cloud = fractal(rng, shape, 3)
    value, hue = rng.uniform(0.7, 0.92), rng.random()
    image = mix(hsv(hue, 0.05, value), hsv(hue, 0.12, value * 0.85), step(cloud, 0.0, 1.2))
    return mix(image, hsv(hue + 0.1, 0.2, value * 0.55), veins * rng.uniform(0.3, 0.6))


def concrete(rng: Generator, side: int, _width: int) -> Array:
    """Grey cast surface with small pores."""
    shape = (side, side)
    value = rng.uniform(0.45, 0.75)
    image = (
        hsv(rng.uniform(0.05, 0.6), 0.05, value)
        * (1 + 0.1 * fractal(rng, shape, 4, 5) + 0.05 * grain(rng, shape))[..., None]
    )
    _, distance = cells(rng, shape, int(rng.uniform(25, 60)))
    pores = 1 - step(distance + 0.6 * noise(rng, shape, (30, 30)), rng.uniform(0.8, 1.6), 1.2)
    return mix(image, image * 0.6, pores)


def cork(rng: Generator, side: int, _width: int) -> Array:
    """Pressed brown granules with dark gaps."""
    shape = (side, side)
    labels, _ = cells(rng, shape, int(rng.uniform(250, 450)))
    tones = rng.uniform(0.8, 1.15, 1024).astype(np.float32)[labels % 1024]
    gaps = blur(borders(labels), 0.7) * step(fractal(rng, shape, 12), 0.1, 0.5)
    colour = hsv(rng.uniform(0.06, 0.1), rng.uniform(0.4, 0.6), rng.uniform(0.55, 0.78))
    return colour * (blur(tones, 0.7) - 0.5 * gaps + 0.05 * grain(rng, shape))[..., None]


def granite(rng: Generator, side: int, _width: int) -> Array:
    """Fine crystals of three minerals."""
    shape = (side, side)
    labels, _ = cells(rng, shape, int(rng.uniform(1500, 2800)))
    hue, value = rng.choice([0.02, 0.08, 0.6]), rng.uniform(0.5, 0.75)
    minerals = np.stack([hsv(hue, 0.2, value), hsv(hue, 0.06, value * 1.2), hsv(hue, 0.1, value * 0.6)])
    choice = rng.choice(3, 4096, p=[0.5, 0.3, 0.2])
    return blur(minerals[choice[labels % 4096]], 0.6) * (1 + 0.06 * fractal(rng, shape, 3))[..., None]


def cardboard(rng: Generator, side: int, width: int) -> Array:
    """Brown board, the flutes showing through."""
    shape = (side, side)
    _, y = plane(shape, width)
    flutes = np.sin(2 * math.pi * y * rng.uniform(9, 16))
    colour = hsv(rng.uniform(0.07, 0.1), rng.uniform(0.3, 0.48), rng.uniform(0.55, 0.78))
    fibres = noise(rng, shape, (side / 2, side / 8))
    return colour * (1 + 0.04 * flutes + 0.04 * fibres + 0.05 * fractal(rng, shape, 5))[..., None]


def metal(rng: Generator, side: int, width: int) -> Array:
    """Brushed sheet with a broad soft reflection."""
    shape = (side, side)
    x, _ = plane(shape, width)
    brush = noise(rng, shape, (side, 5)) + 0.5 * noise(rng, shape, (side, 20))
    glare = np.exp(-(((x - rng.uniform(-0.4, 0.4)) / rng.uniform(0.15, 0.35)) ** 2))
    colour = hsv(rng.choice([0.08, 0.6]), rng.uniform(0.0, 0.15), rng.uniform(0.45, 0.7))
    return colour * (0.95 + 0.07 * brush + rng.uniform(0.1, 0.3) * glare)[..., None]


def terrazzo(rng: Generator, side: int, _width: int) -> Array:
    """Stone chips of several colours cast in a pale ground."""
    shape = (side, side)
    labels, distance = cells(rng, shape, int(rng.uniform(160, 260)))
    sizes = rng.uniform(0.5, 4.5, 512)[labels % 512]
    chips = step(sizes - distance + 0.8 * noise(rng, shape, (40, 40)), 0.0, 1.2)
    palette = np.stack([hsv(rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.4, 0.8)) for _ in range(4)])
    ground = hsv(rng.random(), 0.06, rng.uniform(0.7, 0.9)) * (1 + 0.03 * grain(rng, shape))[..., None]
    return mix(ground, palette[rng.integers(0, 4, 512)[labels % 512]], chips)


TEXTURES = {
    draw.__name__: draw
    for draw in (
        brick,
        cardboard,
        carpet,
        concrete,
        cork,
        fabric,
        granite,
        grid,
        knit,
        leather,
        marble,
        metal,
        terrazzo,
        tile,
        wood,
    )
}
"""Drawing function of each texture by the name of its category."""
