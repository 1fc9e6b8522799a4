# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The configurations of medical datasets, on small folders laid out as the datasets come."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from anomalib.data import AnomalibDataModule
from jsonargparse import ArgumentParser
from PIL import Image

from anomalib_clipzoo.data import CrossDataset, categories_of

CONFIGS = Path(__file__).parents[3] / "configs" / "data"
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


def lay_out(folder: Path, name: str) -> None:
    """Draw images, and masks of a square in their corner."""
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


def follow_the_header(config: Path, folder: Path) -> None:
    """Run the command that the file's header gives."""
    comments = [line.removeprefix("#").removeprefix(" ") for line in config.read_text().splitlines() if line[0] == "#"]
    (start,) = (number for number, line in enumerate(comments) if line.startswith("Once, "))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = ["bash", "-euc", "\n".join(line.removeprefix("  ") for line in comments[start + 1 :])]
    subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, check=True)


def read(config: Path) -> AnomalibDataModule:
    """Read a configuration as the command line does."""
    parser = ArgumentParser()
    parser.add_subclass_arguments(AnomalibDataModule, "data")
    return parser.instantiate_classes(parser.parse_args(["--data", str(config)])).data


def test_every_configuration_is_tested():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {name.lower() for name in {**WITHOUT_MASKS, **WITH_MASKS}}


@pytest.mark.parametrize("name", [*WITHOUT_MASKS, *WITH_MASKS])
def test_all_images_are_for_testing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path / "datasets" / name, name)
    config = CONFIGS / f"{name.lower()}.yaml"
    follow_the_header(config, tmp_path)
    datamodule = read(config)
    datamodule.setup()
    labels = datamodule.test_data.samples["label_index"].tolist()
    assert sorted(labels) == ([1] * COUNT if name in WITH_MASKS else [0] * COUNT + [1] * COUNT)
    if name in WITH_MASKS:
        for item in datamodule.test_data:
            assert item.gt_mask.sum() == 100


def test_the_name_is_what_the_images_show(tmp_path, monkeypatch, auxiliary_root):
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path / "datasets" / "ColonDB", "ColonDB")
    lay_out(tmp_path / "datasets" / "ClinicDB", "ClinicDB")
    for name in ("colondb", "clinicdb"):
        follow_the_header(CONFIGS / f"{name}.yaml", tmp_path)
    datamodule = CrossDataset(
        read(CONFIGS / "clinicdb.yaml"), read(CONFIGS / "colondb.yaml"), validation_split=0, num_workers=0
    )
    datamodule.setup()
    assert set(datamodule.train_data.samples["category"]) == {"ClinicDB"}
    assert categories_of(next(iter(datamodule.test_dataloader()))) == ["ColonDB"] * COUNT
