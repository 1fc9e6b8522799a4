# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

import os

import numpy as np
import pytest
import torch
from anomalib.data.utils import read_image as read_as_anomalib
from PIL import Image
from PIL.ExifTags import Base

from anomalib_clipzoo.results.folder_images import FolderBatch, FolderImages, problems_of
from anomalib_clipzoo.results.images import read_image

NOISE = np.random.default_rng(0)


def deep(brightest: int) -> Image.Image:
    pixels = np.linspace(0, brightest, 64 * 64).reshape(64, 64).astype(np.uint16)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_ordinary_images_are_read_as_anomalib_reads_them(mode, tmp_path):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.fromarray(NOISE.integers(0, 256, (9, 12, 3), dtype=np.uint8)).convert(mode).save(path)
    item = FolderImages(path)[0]
    assert item.problem == ""
    torch.testing.assert_close(
        item.image.as_subclass(torch.Tensor), read_as_anomalib(path, as_tensor=True), rtol=0, atol=0
    )


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_by_their_full_range(suffix, tmp_path):
    path = tmp_path / f"deep{suffix}"
    deep(65535).save(path)
    pixels = np.asarray(read_image(path))
    assert pixels.min() == 0
    assert pixels.max() == 255
    assert abs(pixels.mean() - 127.5) < 1


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (deep(4095), "brightest pixel is 4095 of 65535"),
        (Image.fromarray(NOISE.random((8, 8)).astype(np.float32)), "floating-point"),
        (Image.fromarray(np.full((8, 8), -5, dtype=np.int32)), "from -5 to -5"),
    ],
)
def test_values_that_none_is_known_to_be_white_of_are_refused(image, reason, tmp_path):
    image.save(tmp_path / "image.tif")
    with pytest.raises(ValueError, match=reason):
        read_image(tmp_path / "image.tif")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_photographs_are_not_read_lying_on_their_side(suffix, tmp_path):
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    picture = Image.new("RGB", (12, 8), "red")
    picture.paste("blue", (6, 0, 12, 8))
    picture.save(tmp_path / f"turned{suffix}", exif=exif)
    item = FolderImages(tmp_path)[0]
    if suffix == ".tif":  # Pillow, and with it anomalib, turns it
        assert (item.problem, item.image.shape) == ("", (3, 12, 8))
    else:
        assert "to be turned" in item.problem
    turned = np.asarray(read_image(tmp_path / f"turned{suffix}", turn=True))
    assert turned.shape == (12, 8, 3)
    assert turned[0, 0].argmax() == 0  # red is on top, blue below
    assert turned[-1, 0].argmax() == 2


def test_a_black_16_bit_image_is_black(tmp_path):
    deep(0).save(tmp_path / "black.png")
    assert np.asarray(read_image(tmp_path / "black.png")).max() == 0


@pytest.fixture
def folder(tmp_path):
    """A folder in which two of eight images can be read."""
    good = Image.fromarray(NOISE.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    good.save(tmp_path / "good.png")
    (tmp_path / "sub").mkdir()
    good.save(tmp_path / "sub" / "good.JPG", format="JPEG")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "words.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:600])
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "sub" / "good.JPG").read_bytes()[:700])
    (tmp_path / "dangling.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "notes.txt").write_text("not looked at")
    return tmp_path


def test_what_cannot_be_read_says_why_and_stops_nothing(folder):
    images = FolderImages(folder)
    problems = {
        str(path.relative_to(folder)): images[number].problem for number, path in enumerate(images.image_filenames)
    }
    assert {name for name, problem in problems.items() if not problem} == {"good.png", "sub/good.JPG"}
    assert problems.keys() - {"good.png", "sub/good.JPG"} == {
        *("empty.png", "words.png", "cut.png", "cut.jpg", "dangling.png", "pipe.png")
    }
    assert problems["empty.png"] == "the file is empty"
    assert problems["words.png"] == "this is no image that can be read"
    assert "truncated" in problems["cut.jpg"]
    assert problems["dangling.png"] == "there is no such file"
    assert problems["pipe.png"] == "this is no file"


def test_a_batch_keeps_the_problems_also_in_numpy_form(folder):
    images = FolderImages(folder)
    batch = images.collate_fn([images[number] for number in range(len(images))])
    assert isinstance(batch, FolderBatch)
    assert [bool(problem) for problem in problems_of(batch)] == [path.stem != "good" for path in images.image_filenames]
    assert [item.problem for item in batch] == problems_of(batch)
    assert batch.to_numpy().problem == problems_of(batch)


def test_an_empty_folder_and_a_missing_one_are_errors(tmp_path):
    with pytest.raises(ValueError, match="has the name of an image"):
        FolderImages(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        FolderImages(tmp_path / "nowhere")
