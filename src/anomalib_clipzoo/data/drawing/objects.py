# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Things on a plain ground.

Each function gets the object's own coordinates u (right) and v (down), in widths of the picture, and returns its
colours ``(H, W, 3)`` and its signed distance ``(H, W)`` to the outline, negative inside.
"""

import math

import numpy as np
from numpy.random import Generator

from anomalib_clipzoo.data.drawing.canvas import Array, blur, fractal, grain, hsv, mix, noise, plane, relief, step

SHARP = 0.012
"""Width of an antialiased edge in widths of the picture: about a pixel."""


def draw_object(name: str, rng: Generator, width: int) -> tuple[Array, Array]:
    """Draw an object at a random place, size and angle.

    Returns:
        The picture ``(width, width, 3)`` and the object's silhouette ``(width, width)``, 0..1.
    """
    shape = (width, width)
    x, y = plane(shape, width)
    x, y = x - rng.uniform(-0.06, 0.06), y - rng.uniform(-0.06, 0.06)
    angle, scale = rng.uniform(0, 2 * math.pi), rng.uniform(0.85, 1.1)
    u = (math.cos(angle) * x + math.sin(angle) * y) / scale
    v = (math.cos(angle) * y - math.sin(angle) * x) / scale
    colours, outline = OBJECTS[name](rng, u.astype(np.float32), v.astype(np.float32))
    silhouette = (1 - step(outline, 0.0, SHARP)).astype(np.float32)
    return mix(ground(rng, silhouette), colours, silhouette), silhouette


def ground(rng: Generator, silhouette: Array) -> Array:
    """A plain ground that the object throws a soft shadow on."""
    shape = silhouette.shape
    colour = hsv(rng.random(), rng.uniform(0, 0.25), rng.choice([rng.uniform(0.1, 0.3), rng.uniform(0.6, 0.95)]))
    image = colour * (1 + 0.03 * fractal(rng, shape, 3) + 0.02 * grain(rng, shape))[..., None]
    shift = tuple(rng.integers(-4, 5, 2))
    shadow = blur(np.roll(silhouette, shift, (0, 1)), 3)
    return image * (1 - rng.uniform(0.2, 0.5) * shadow)[..., None]


def steel(rng: Generator, shape: tuple[int, int]) -> Array:
    """Metal with a tint from steel to brass and fine unevenness."""
    hue, saturation = [(0.6, 0.06), (0.58, 0.15), (0.11, 0.45), (0.06, 0.35)][rng.integers(4)]
    colour = hsv(hue, saturation, rng.uniform(0.5, 0.8))
    return colour * (1 + 0.06 * fractal(rng, shape, 4) + 0.04 * grain(rng, shape))[..., None]


def rounded(rng: Generator, colours: Array, depth: Array, strength: float) -> Array:
    """Shade `colours` as if the surface had the height `depth` (0..1), under light from a random side."""
    return colours * (1 + strength * relief(blur(depth, 1.0), rng.uniform(0, 2 * math.pi)))[..., None]


def rise(outline: Array, breadth: float) -> Array:
    """Height that rises from 0 at the outline to 1 at `breadth` inside."""
    return np.sqrt(1 - (1 - np.clip(-outline / breadth, 0, 1)) ** 2)


def polar(u: Array, v: Array) -> tuple[Array, Array]:
    """Radius and angle."""
    return np.hypot(u, v), np.arctan2(v, u)


def box(u: Array, v: Array, half_width: float, half_height: float, corner: float = 0.0) -> Array:
    """Signed distance to a rectangle with rounded corners."""
    across, down = np.abs(u) - half_width + corner, np.abs(v) - half_height + corner
    outside = np.hypot(np.maximum(across, 0), np.maximum(down, 0))
    return outside + np.minimum(np.maximum(across, down), 0) - corner


def nut(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """Hexagonal nut with a threaded bore."""
    radius, angle = polar(u, v)
    sector = np.mod(angle, math.pi / 3) - math.pi / 6
    bore = rng.uniform(0.15, 0.19)
    outline = np.maximum(radius * np.cos(sector) - 0.32, bore - radius)
    thread = 1 - step(np.abs(radius - bore - 0.025), 0.01, SHARP)
    colours = rounded(rng, steel(rng, u.shape), rise(outline, 0.06), 0.9)
    return colours * (1 - 0.3 * thread)[..., None], outline


def washer(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """Flat ring of sheet metal."""
    radius, _ = polar(u, v)
    outline = np.maximum(radius - 0.36, rng.uniform(0.14, 0.2) - radius)
    colours = rounded(rng, steel(rng, u.shape), rise(outline, 0.03), 0.5)
    turning = np.sin(radius * rng.uniform(150, 220))
    return colours * (1 + 0.04 * turning)[..., None], outline


def gear(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """Toothed wheel with a hub."""
    radius, angle = polar(u, v)
    teeth = rng.integers(10, 19)
    profile = np.tanh(3 * np.sin(teeth * angle))
    outline = np.maximum(radius - 0.33 - 0.035 * profile, rng.uniform(0.06, 0.1) - radius)
    web = step(np.abs(radius - 0.19), 0.065, 0.02)
    height = rise(outline, 0.03) * 0.6 + 0.4 * web
    return rounded(rng, steel(rng, u.shape), height, 0.8) * (0.86 + 0.14 * web)[..., None], outline


def bearing(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """Two rings with balls between them."""
    radius, angle = polar(u, v)
    outline = np.maximum(radius - 0.37, 0.13 - radius)
    balls = rng.integers(8, 12)
    sector = (np.mod(angle * balls / (2 * math.pi), 1) - 0.5) * 2 * math.pi / balls
    ball = np.hypot(radius * np.cos(sector) - 0.25, radius * np.sin(sector)) - 0.05
    race = 1 - step(np.abs(radius - 0.25), 0.06, SHARP)
    metal = steel(rng, u.shape)
    image = mix(rounded(rng, metal, rise(outline, 0.03), 0.6), metal * 0.3, race)
    return mix(image, rounded(rng, metal * 1.15, rise(ball, 0.05), 0.9), 1 - step(ball, 0.0, SHARP)), outline


def coin(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """Struck disc with a raised rim, beads and a star."""
    radius, angle = polar(u, v)
    outline = radius - 0.36
    star = radius - rng.uniform(0.13, 0.18) * (1 + 0.35 * np.cos(rng.integers(5, 9) * angle))
    beads = np.cos(angle * 36) * np.exp(-(((radius - 0.28) / 0.02) ** 2))
    height = step(radius, 0.315, 0.03) * rise(outline, 0.02) + 0.8 * (1 - step(star, 0, 0.03)) + 0.4 * beads
    return rounded(rng, steel(rng, u.shape), height, 0.6), outline


def button(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """Round button with two or four holes and a rim."""
    radius, angle = polar(u, v)
    count = rng.choice([2, 4])
    sector = np.mod(angle, 2 * math.pi / count) - math.pi / count
    holes = np.hypot(radius * np.cos(sector) - 0.1, radius * np.sin(sector)) - 0.038
    outline = np.maximum(radius - 0.35, -holes)
    rim = np.exp(-(((radius - 0.28) / 0.03) ** 2))
    colour = hsv(rng.random(), rng.uniform(0.1, 0.75), rng.uniform(0.3, 0.85))
    colours = colour * (1 + 0.04 * fractal(rng, u.shape, 4))[..., None]
    return rounded(rng, colours, rise(radius - 0.35, 0.05) - 0.5 * rim, 1.0), outline


def pill(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """Round tablet with a score line."""
    outline = box(u, v, 0.35, rng.choice([0.35, 0.25]), 0.25) if rng.random() < 0.5 else np.hypot(u, v) - 0.33
    groove = np.exp(-((u / 0.018) ** 2)) * step(-outline, 0.03, 0.02)
    colour = hsv(rng.random(), rng.choice([0.05, 0.35]), rng.uniform(0.7, 0.95))
    speckle = 1 + 0.04 * blur(grain(rng, u.shape), 0.8) + 0.03 * fractal(rng, u.shape, 6)
    return rounded(rng, colour * speckle[..., None], rise(outline, 0.1) - 0.35 * groove, 0.9), outline


def capsule(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """Glossy capsule of two colours."""
    outline = box(u, v, 0.38, 0.15, 0.149)
    halves = [hsv(rng.random(), rng.uniform(0.3, 0.8), rng.uniform(0.5, 0.9)), hsv(rng.random(), 0.1, 0.9)]
    seam = np.exp(-(((u - 0.03) / 0.012) ** 2))
    image = mix(halves[0], halves[1], step(u, 0.03, SHARP)) * (1 - 0.25 * seam)[..., None]
    gloss = np.exp(-(((v + 0.06) / 0.025) ** 2)) * (1 - step(np.abs(u), 0.27, 0.06))
    image = image * (1 - 0.45 * (v / 0.15) ** 2)[..., None]
    return mix(image, np.ones(3, np.float32), 0.6 * gloss), outline


def screw(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """Screw seen from the side: head, thread and tip."""
    pitch = rng.uniform(0.03, 0.042)
    turns = np.sin(2 * math.pi * (v + 0.3 * u) / pitch)
    taper = np.clip((0.42 - v) / 0.16, 0, 1)
    shaft = np.maximum(np.abs(u) - (0.075 + 0.012 * turns) * taper, box(u, v, 0.2, 0.41))
    head = np.maximum(np.abs(v + 0.35) - 0.06, np.abs(u) - rng.uniform(0.15, 0.19) + 0.6 * np.maximum(v + 0.35, 0))
    outline = np.minimum(shaft, head)
    thread = 1 - step(head, 0.0, SHARP)
    shade = (1 - (u / 0.2) ** 2) * (1 + 0.3 * turns * (1 - thread))
    return steel(rng, u.shape) * (0.25 + 0.8 * np.clip(shade, 0, 1.3))[..., None], outline


def bottle(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """Glass bottle with a label and a cap."""
    body, neck = box(u, v - 0.1, 0.17, 0.31, 0.07), box(u, v + 0.3, 0.06, 0.13, 0.01)
    outline = np.minimum(body, neck)
    colour = hsv(rng.choice([0.09, 0.33, 0.5, 0.58]), rng.uniform(0.3, 0.7), rng.uniform(0.35, 0.7))
    round_shade = 1.05 - 1.2 * (np.abs(u) / 0.22) ** 2
    image = colour * (round_shade + 0.04 * fractal(rng, u.shape, 3))[..., None]
    streak = np.exp(-(((u + 0.1) / 0.018) ** 2)) * (body < -0.03)
    image = mix(image, np.ones(3, np.float32), 0.5 * streak)
    label = 1 - step(box(u, v - rng.uniform(0.08, 0.16), 0.3, 0.1), 0.0, SHARP)
    paper = hsv(rng.random(), rng.uniform(0.1, 0.5), 0.85) * round_shade[..., None]
    cap = 1 - step(v, -0.34, SHARP)
    return mix(mix(image, paper, label), hsv(rng.random(), 0.6, 0.6) * round_shade[..., None], cap), outline


def battery(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """Round cell with two bands of colour and a pole."""
    body, pole = box(u, v - 0.02, 0.15, 0.35, 0.02), box(u, v + 0.36, 0.05, 0.04, 0.01)
    outline = np.minimum(body, pole)
    shade = (1.1 - 1.3 * (np.abs(u) / 0.2) ** 2)[..., None]
    bands = hsv(rng.random(), rng.uniform(0.5, 0.8), 0.75), hsv(rng.random(), 0.2, rng.uniform(0.15, 0.35))
    image = mix(*bands, step(v, rng.uniform(-0.15, 0.1), SHARP))
    ends = step(np.abs(v - 0.02), 0.33, SHARP)
    return mix(image, hsv(0.6, 0.05, 0.75), ends) * shade * (1 + 0.03 * grain(rng, u.shape))[..., None], outline


def key(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """Key with a ring and a bitted blade."""
    bow_radius, _ = polar(u, v + 0.24)
    bow = np.maximum(bow_radius - 0.15, 0.07 - bow_radius)
    notches = np.repeat(rng.uniform(0.02, 0.075, 8), 2)
    place = np.clip(((v + 0.02) / 0.4 * 16).astype(np.int64), 0, 15)
    blade = np.maximum(np.maximum(-0.05 - u, u - notches[place]), np.abs(v - 0.15) - 0.24)
    outline = np.minimum(bow, blade)
    groove = np.exp(-(((u + 0.02) / 0.012) ** 2)) * (np.abs(v - 0.15) < 0.22)
    return rounded(rng, steel(rng, u.shape), rise(outline, 0.03) - 0.4 * groove, 0.7), outline


def cookie(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """Baked biscuit with chocolate chips."""
    radius, _ = polar(u, v)
    outline = radius - 0.34 + 0.02 * noise(rng, u.shape, (7, 7))
    image = (
        hsv(rng.uniform(0.07, 0.1), rng.uniform(0.4, 0.6), rng.uniform(0.6, 0.8))
        * (1 + 0.12 * fractal(rng, u.shape, 10))[..., None]
    )
    for column, row in rng.uniform(-0.24, 0.24, (rng.integers(5, 10), 2)):
        chip = np.hypot(u - column, v - row) - rng.uniform(0.025, 0.045) + 0.01 * noise(rng, u.shape, (12, 12))
        image = mix(image, hsv(0.05, 0.5, 0.25), 1 - step(chip, 0.0, SHARP))
    return rounded(rng, image, rise(outline, 0.12), 0.8), outline


OBJECTS = {
    draw.__name__: draw
    for draw in (battery, bearing, bottle, button, capsule, coin, cookie, gear, key, nut, pill, screw, washer)
}
"""Drawing function of each object by the name of its category."""
