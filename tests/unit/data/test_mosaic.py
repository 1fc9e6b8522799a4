# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Mosaics are made of the category's anomalous images, with masks that fit."""

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from PIL import Image

from anomalib_clipzoo.data.category import CategoryDataset
from anomalib_clipzoo.data.mosaic import MosaicDataset

COLOURS = {"nut": 200, "pill": 100}


@pytest.fixture
def dataset(tmp_path):
    """Two categories; an anomaly is a square of the category's colour in the middle of a black image."""
    parts = []
    for category, colour in COLOURS.items():
        for split, label in (("train", "good"), ("test", "good"), ("test", "bad")):
            folder = tmp_path / category / split / label
            folder.mkdir(parents=True)
            image = np.zeros((16, 16, 3), np.uint8)
            if label == "bad":
                image[4:12, 4:12] = colour
                masks = tmp_path / category / "ground_truth" / "bad"
                masks.mkdir(parents=True)
                Image.fromarray((image[..., 0] > 0).astype(np.uint8) * 255).save(masks / "000_mask.png")
            Image.fromarray(image).save(folder / "000.png")
        datamodule = MVTecAD(root=tmp_path, category=category)
        datamodule.setup()
        parts.append(datamodule.test_data)
    return CategoryDataset(parts, list(COLOURS))


def test_a_mosaic_has_four_anomalies_of_its_own_category_and_their_masks(dataset):
    mosaics = MosaicDataset(dataset, [1.0, 1.0])
    assert len(mosaics) == len(dataset) == 4
    for index in range(4):
        item = mosaics[index]
        assert item.image.shape == (3, 16, 16)
        assert bool(item.gt_label)
        assert item.gt_mask.sum() == 4 * 16
        centres = item.image[0, [4, 4, 12, 12], [4, 12, 4, 12]] * 255
        assert torch.allclose(centres, torch.full((4,), float(COLOURS[item.category])), atol=6)


def test_a_mosaic_of_any_images_keeps_the_label_of_the_image_that_it_replaces(dataset):
    mosaics = MosaicDataset(dataset, [1.0, 1.0], of="any")
    torch.manual_seed(0)
    counts = set()
    for index in [*range(4)] * 8:
        item = mosaics[index]
        assert bool(item.gt_label) == ("bad" in item.image_path)
        centres = item.image[0, [4, 4, 12, 12], [4, 12, 4, 12]] * 255
        shown = centres > 50
        assert torch.allclose(centres[shown], torch.full((int(shown.sum()),), float(COLOURS[item.category])), atol=6)
        assert item.gt_mask.sum() == shown.sum() * 16
        counts.add(int(shown.sum()))
    assert counts >= {1, 2, 3}


def test_a_mosaic_of_folders_shows_rare_kinds_as_often_as_common_ones(tmp_path):
    """Eight good images and one of each of two defects, told apart by their grey level."""
    levels = {"good": 40, "scratch": 120, "hole": 220}
    for kind, level in levels.items():
        folder = tmp_path / "nut" / "test" / kind
        folder.mkdir(parents=True)
        for number in range(8 if kind == "good" else 1):
            Image.fromarray(np.full((16, 16, 3), level, np.uint8)).save(folder / f"{number:03}.png")
        if kind != "good":
            masks = tmp_path / "nut" / "ground_truth" / kind
            masks.mkdir(parents=True)
            Image.fromarray(np.full((16, 16), 255, np.uint8)).save(masks / "000_mask.png")
    train = tmp_path / "nut" / "train" / "good"
    train.mkdir(parents=True)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(train / "000.png")
    datamodule = MVTecAD(root=tmp_path, category="nut")
    datamodule.setup()
    mosaics = MosaicDataset(CategoryDataset([datamodule.test_data], ["nut"]), [1.0], of="folders")
    torch.manual_seed(0)
    shown = dict.fromkeys(levels.values(), 0)
    for index in [*range(10)] * 6:
        item = mosaics[index]
        quarters = (item.image[0, [4, 4, 12, 12], [4, 12, 4, 12]] * 255).round().int().tolist()
        assert bool(item.gt_label) == any(level != levels["good"] for level in quarters) == bool(item.gt_mask.any())
        for level in quarters:
            shown[level] += 1
    assert all(60 <= count <= 100 for count in shown.values()), shown  # a third of 240 each; 80 % would be good


def test_rate(dataset):
    none = MosaicDataset(dataset, [0.0, 0.0])
    assert all(none[index].gt_mask.sum().item() in {0, 64} for index in range(4))
    torch.manual_seed(0)
    some = MosaicDataset(dataset, [0.5, 0.0])
    normal, other = (
        some.samples.index[(some.samples["label_index"] == 0) & (some.samples["category"] == name)][0]
        for name in COLOURS
    )
    assert 15 < sum(bool(some[normal].gt_label) for _ in range(60)) < 45
    assert not any(bool(some[other].gt_label) for _ in range(20))


def test_a_part_of_the_images_shows_that_part_alone(dataset):
    """What is held out for validation is in no mosaic."""
    nuts = dataset.samples.index[dataset.samples["category"] == "nut"].tolist()
    mosaics = MosaicDataset(dataset.subsample(nuts), [1.0, 1.0], of="any")
    assert len(mosaics) == 2
    assert {mosaics[index].category for index in range(2)} == {"nut"}


def test_a_category_without_anomalies_has_no_mosaics_of_them(dataset):
    normal = dataset.samples.index[dataset.samples["label_index"] == 0].tolist()
    mosaics = MosaicDataset(dataset.subsample(normal), [1.0, 1.0])
    assert not any(bool(mosaics[index].gt_label) for index in range(2))
