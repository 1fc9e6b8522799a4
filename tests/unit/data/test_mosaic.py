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
    mosaics = MosaicDataset([dataset], rate=1.0)
    assert len(mosaics) == len(dataset) == 4
    for index in range(4):
        item = mosaics[index]
        assert item.image.shape == (3, 16, 16)
        assert bool(item.gt_label)
        assert item.gt_mask.sum() == 4 * 16
        centres = item.image[0, [4, 4, 12, 12], [4, 12, 4, 12]] * 255
        assert torch.allclose(centres, torch.full((4,), float(COLOURS[item.category])), atol=6)


def test_rate(dataset):
    assert all(MosaicDataset([dataset], rate=0.0)[index].gt_mask.sum().item() in {0, 64} for index in range(4))
    torch.manual_seed(0)
    some = MosaicDataset([dataset], rate=0.5)
    normal = some.samples.index[some.samples["label_index"] == 0][0]
    replaced = [bool(some[normal].gt_label) for _ in range(100)]
    assert 30 < sum(replaced) < 70
