# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The medical datasets on small folders laid out as they come."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

CONFIGS = Path(__file__).parents[1] / "configs" / "data"
WITHOUT_MASKS = {  # normal and anomalous images
    "Br35H": ("no/no{}.jpg", "yes/y{}.jpg"),
    "BrainMRI": ("no/N {}.jpg", "yes/Y{}.JPG"),
    "HeadCT": ("head_ct/00{}.png", "head_ct/01{}.png"),
}
WITH_MASKS = {  # images and their masks, all anomalous
    "ClinicDB": ("Original/{}.png", "Ground Truth/{}.png"),
    "ColonDB": ("images/{}.png", "masks/{}.png"),
    "Endo": ("images/{}.jpg", "masks/{}.jpg"),
    "ISIC": ("ISBI2016_ISIC_Part1_Test_Data/{}.jpg", "ISBI2016_ISIC_Part1_Test_GroundTruth/{}_Segmentation.png"),
    "Kvasir": ("images/{}.jpg", "masks/{}.jpg"),
    "TN3K": ("test-image/{}.jpg", "test-mask/{}.jpg"),
}
COUNT = 3


def draw(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def lay_out(name: str, root: Path) -> dict:
    """Draw images, and masks of a square in their corner, then list them as the configuration's header says.

    Returns:
        The configuration, whose paths are relative to ``root``.
    """
    folder, config = root / "datasets" / name, CONFIGS / f"{name.lower()}.yaml"
    masks = name in WITH_MASKS
    first, second = (WITH_MASKS if masks else WITHOUT_MASKS)[name]
    noise = np.random.default_rng(list(name.encode()))
    for number in range(1, COUNT + 1):
        image = noise.integers(0, 256, (48, 40, 3), dtype=np.uint8)
        mask = np.zeros((48, 40), np.uint8)
        mask[:10, :10] = 255
        draw(folder / first.format(number), image)
        draw(folder / second.format(number), mask if masks else image)
    if name == "HeadCT":
        rows = [f"{number},{int(number > 9)}" for number in (1, 2, 3, 11, 12, 13)]
        (folder / "labels.csv").write_text("\r\n".join(["id, hemorrhage", *rows]) + "\r\n")
    _follow_the_header(config, root)
    return yaml.safe_load(config.read_text())


def _follow_the_header(config: Path, folder: Path) -> None:
    """Run the command that the file's header gives."""
    comments = [line.removeprefix("#").removeprefix(" ") for line in config.read_text().splitlines() if line[0] == "#"]
    (start,) = (number for number, line in enumerate(comments) if line.startswith("Once, "))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = ["bash", "-euc", "\n".join(line.removeprefix("  ") for line in comments[start + 1 :])]
    subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, check=True)
