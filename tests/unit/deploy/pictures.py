# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Smooth pictures in 8-bit levels, each another."""

import numpy as np
from PIL import Image


def draw_pictures(count: int, size: tuple[int, int] = (96, 96), seed: int = 0) -> list[Image.Image]:
    """Draw pictures of a size (width, height)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 7, 7, 3), dtype=np.uint8)
    return [Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC) for pixels in coarse]


def to_batch(pictures: list[Image.Image]) -> np.ndarray:
    """Stack pictures of one size to ``(B, 3, H, W)``, 0..1."""
    return np.stack([np.asarray(picture, dtype=np.float32).transpose(2, 0, 1) / 255 for picture in pictures])
