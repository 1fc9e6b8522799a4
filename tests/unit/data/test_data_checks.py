# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Tests of what is refused before training, and of what images may look like."""

import cv2
import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from mvtec_layout import COUNT, SIZE, save
from PIL import Image

from anomalib_clipzoo.data import CrossDataset, MultiCategory, checks

GREY = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE)


@pytest.fixture
def datamodule(auxiliary_root, target_root) -> CrossDataset:
    return CrossDataset(MVTecAD(auxiliary_root, "bottle"), MVTecAD(target_root, "wood"), num_workers=0)


@pytest.fixture
def image(auxiliary_root):
    """An image to learn from."""
    return auxiliary_root / "bottle/test/good/000.png"


def read_back(datamodule, path) -> torch.Tensor:
    datamodule.setup()
    for dataset in (datamodule.train_data, datamodule.val_data):
        for item in dataset:
            if item.image_path == str(path):
                return item.image
    raise AssertionError


def test_greyscale_images_become_three_equal_channels(datamodule, image):
    save(GREY, image)
    read = read_back(datamodule, image)
    assert read.dtype == torch.float32
    assert torch.allclose(read, torch.from_numpy(GREY).expand(3, -1, -1) / 255)


def test_alpha_is_dropped(datamodule, image):
    save(np.dstack([GREY, GREY[::-1], GREY.T, GREY // 2]), image)
    expected = torch.from_numpy(np.stack([GREY, GREY[::-1], GREY.T])) / 255
    assert torch.allclose(read_back(datamodule, image), expected)


def test_colours_of_16_bits_are_scaled(datamodule, image):
    cv2.imwrite(str(image), np.dstack([GREY.astype(np.uint16) * 257] * 3))
    assert torch.allclose(read_back(datamodule, image), torch.from_numpy(GREY).expand(3, -1, -1) / 255)


def test_greyscale_of_16_bits_is_refused(datamodule, image):
    save(GREY.astype(np.uint16) * 257, image)
    with pytest.raises(ValueError, match=r"bottle/test/good/000.png: more than 8 bits in one channel.*convert it"):
        datamodule.setup()


def test_empty_file_is_named(datamodule, image):
    image.write_bytes(b"")
    with pytest.raises(ValueError, match=r"bottle/test/good/000.png: the file is empty"):
        datamodule.setup()


def test_file_that_is_no_image_is_named(datamodule, image):
    image.write_bytes(b"no image at all")
    with pytest.raises(ValueError, match=r"bottle/test/good/000.png: this is no image"):
        datamodule.setup()


@pytest.mark.parametrize("kept", [0.5, 0.95])
def test_truncated_png_is_named(datamodule, image, kept):
    content = image.read_bytes()
    image.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=r"bottle/test/good/000.png: the file is damaged"):
        datamodule.setup()


def test_truncated_jpeg_is_named(datamodule, image):
    Image.fromarray(GREY).save(image, format="JPEG")
    datamodule.setup()
    image.write_bytes(image.read_bytes()[:-30])
    with pytest.raises(
        ValueError,
        match=r"bottle/test/good/000.png: the file is damaged or cannot be read \(the end is missing\); copy it",
    ):
        datamodule.setup()


def test_target_files_are_looked_at_before_training(datamodule, target_root):
    (target_root / "wood/test/spot/002.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of 12 images(.|\n)*wood/test/spot/002.png"):
        datamodule.setup()


def test_multi_category_looks_at_all_splits(auxiliary_root):
    (auxiliary_root / "cable/train/good/001.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cable/train/good/001.png"):
        MultiCategory(MVTecAD(auxiliary_root)).setup()


def test_files_are_looked_at_once_and_only_if_used(auxiliary_root, target_root, monkeypatch):
    opened = []
    for look in ("image_size", "mask_size"):
        original = getattr(checks, look)
        monkeypatch.setattr(checks, look, lambda path, original=original: opened.append(path) or original(path))
    sides = [MultiCategory(MVTecAD(root)) for root in (auxiliary_root, target_root)]
    CrossDataset(*sides).setup()
    assert len(opened) == len(set(opened)) == 5 * 3 * COUNT
    assert not [path for path in opened if "/train/" in path]


def test_many_broken_files_are_counted(datamodule, auxiliary_root):
    for path in auxiliary_root.glob("bottle/test/*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"12 of 12 images(.|\n)*and 7 more"):
        datamodule.setup()


def test_mask_of_another_size_is_named_with_its_image(datamodule, auxiliary_root):
    save(np.zeros((SIZE, SIZE + 1), dtype=np.uint8), auxiliary_root / "bottle/ground_truth/spot/003_mask.png")
    with pytest.raises(ValueError, match=r"003_mask.png: the mask has 17x16 pixels, its image .*spot/003.png 16x16"):
        datamodule.setup()


def test_broken_mask_is_named(datamodule, auxiliary_root):
    (auxiliary_root / "bottle/ground_truth/spot/003_mask.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"003_mask.png: the file is empty"):
        datamodule.setup()
