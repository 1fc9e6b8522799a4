# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Draws a small dataset in the layout of MVTec AD."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 16
COUNT = 6  # normal training, normal test and anomalous test images of each category


def draw_category(folder: Path, seed: int) -> None:
    """Noise with a bright square as its anomaly; no two images are alike."""
    generator = np.random.default_rng(seed)
    for split, label in (("train", "good"), ("test", "good"), ("test", "spot")):
        for number in range(COUNT):
            pixels = generator.integers(0, 128, (SIZE, SIZE, 3), dtype=np.uint8)
            if label == "spot":
                mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
                mask[number : number + 6, 4:10] = 255
                pixels[mask > 0] += 127
                save(mask, folder / "ground_truth" / label / f"{number:03}_mask.png")
            save(pixels, folder / split / label / f"{number:03}.png")


def save(pixels: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path
