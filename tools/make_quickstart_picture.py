# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Compose the README's picture from the heatmaps that the quickstart left behind.

Usage: python tools/make_quickstart_picture.py results/VcpClip/ToyAD/v0/images docs/images/quickstart.png
"""

import argparse
from pathlib import Path

from PIL import Image

COLUMNS = 2
WIDTH = 640  # pixels of one heatmap strip
DEFECTS = ("crack", "hole", "stain", "scratch", "dent", "contamination", "cut")


def compose(images: Path, target: Path) -> None:
    """Put one anomalous image of each category, each with another kind of defect, on a sheet."""
    categories = sorted(folder for folder in images.iterdir() if folder.is_dir())
    strips = []
    for number, category in enumerate(categories):
        picture = Image.open(category / "test" / DEFECTS[number % len(DEFECTS)] / "000.png")
        strips.append(picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS))
    height = max(strip.height for strip in strips)
    rows = -(-len(strips) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * WIDTH, rows * height), "white")
    for number, strip in enumerate(strips):
        sheet.paste(strip, (number % COLUMNS * WIDTH, number // COLUMNS * height))
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(128).save(target, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of heatmaps")
    parser.add_argument("target", type=Path, help="the picture to write")
    arguments = parser.parse_args()
    compose(arguments.images, arguments.target)
