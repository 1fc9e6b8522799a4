# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Damaged, strange and hostile images and masks: a right result, or one error that names the file and what to do."""

import io
import os
import struct
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import AnomalibDataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from anomalib_clipzoo.data.category import CategoryDataset
from anomalib_clipzoo.data.checks import check_files

SIZE = (30, 22)  # width, height
SECONDS = 5  # that a case may take; most take a millisecond
REMEDY = (
    r"copy it again or remove it|convert it to|there is no such file|remove it|Scale it down|save it|scale one of them"
)
FORMATS = {  # ending and how Pillow writes it
    "png": (".png", {}),
    "png of a palette": (".png", {"mode": "P"}),
    "png with alpha": (".png", {"mode": "RGBA"}),
    "jpeg": (".jpg", {"quality": 90}),
    "progressive jpeg": (".jpeg", {"progressive": True}),
    "bmp": (".bmp", {}),
    "tiff": (".tif", {}),
    "tiff, lzw": (".tif", {"compression": "tiff_lzw"}),
    "tiff, deflate": (".tiff", {"compression": "tiff_deflate"}),
    "ppm": (".ppm", {}),
    "pgm": (".pgm", {"mode": "L"}),
    "webp": (".webp", {"lossless": True}),
}
CUTS, FLIPS = 40, 60  # damaged files of each format
EXAMPLES = 300


def pixels(mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def encoded(kind: str) -> bytes:
    ending, options = FORMATS[kind]
    options = dict(options)
    buffer = io.BytesIO()
    pixels(options.pop("mode", "RGB")).save(buffer, Image.registered_extensions()[ending], **options)
    return buffer.getvalue()


class OneImage(AnomalibDataset):
    """An image, and a mask if it is anomalous."""

    def __init__(self, image: Path, mask: Path | None = None) -> None:
        super().__init__()
        row = {
            "image_path": str(image),
            "mask_path": str(mask or ""),
            "label_index": int(mask is not None),
            "split": "test",
        }
        self._samples = pd.DataFrame([row])
        self._samples.attrs["task"] = "classification" if mask is None else "segmentation"


def outcome(image: Path, mask: Path | None = None):
    """What a user gets: the item that was read, or the message of the error.

    Fails if a case takes long, or if an error names no file.
    """
    start = time.monotonic()
    source = OneImage(image, mask)
    try:
        check_files(source.samples)
    except ValueError as error:
        message = str(error)
        assert str(image) in message or str(mask) in message
        return message
    finally:
        assert time.monotonic() - start < SECONDS
    dataset = CategoryDataset.__new__(CategoryDataset)  # without asking whether the files exist
    dataset.datasets, dataset.categories = [source], [None]
    dataset._samples = source.samples.assign(dataset=0, row=0, category=None)
    dataset._samples.attrs = source.samples.attrs
    try:
        item = dataset[0]
    except ValueError as error:
        message = str(error)
        assert str(image) in message
        return message
    assert item.image.isfinite().all()
    assert item.image.shape[0] == 3
    return item


def refused(result) -> str:
    assert isinstance(result, str), "was read"
    assert pd.Series([result]).str.contains(REMEDY).all(), result
    return result


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_cut_files_are_refused_or_read_as_if_whole(kind, tmp_path):
    content, path = encoded(kind), tmp_path / f"image{FORMATS[kind][0]}"
    path.write_bytes(content)
    whole = outcome(path).image
    read = 0
    for length in np.linspace(0, len(content) - 1, CUTS).astype(int):
        path.write_bytes(content[:length])
        result = outcome(path)
        if isinstance(result, str):
            refused(result)
        else:
            assert torch.equal(result.image, whole)
            read += 1
    assert read <= 2  # an end that holds no pixels


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_files_with_a_wrong_byte_are_refused_or_read(kind, tmp_path):
    content, path = encoded(kind), tmp_path / f"image{FORMATS[kind][0]}"
    path.write_bytes(content)
    whole = outcome(path).image
    places = np.random.default_rng(1).integers(0, len(content), FLIPS)
    places[: FLIPS // 3] = np.arange(FLIPS // 3)  # headers
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        result = outcome(path)
        if not isinstance(result, str) and kind.startswith("png"):
            assert torch.equal(result.image, whole)  # checksums find everything else


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(FORMATS)),
    edits=st.lists(st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=4)), max_size=4),
    tail=st.binary(max_size=20),
    ending=st.sampled_from([".png", ".jpg", ".bmp", ".tif", ".pgm", ".webp"]),
)
def test_any_bytes(kind, edits, tail, ending, tmp_path):
    content = bytearray(encoded(kind))
    for place, change in edits:
        content[place % len(content) : place % len(content) + len(change)] = change
    path = tmp_path / f"image{ending}"
    path.write_bytes(bytes(content) + tail)
    outcome(path)


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    magic=st.sampled_from(
        [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"P5 ", b"P6\n", b"RIFF"]
    ),
    content=st.binary(max_size=200),
)
def test_any_bytes_behind_a_known_start(magic, content, tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(magic + content)
    outcome(path)


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def test_an_image_of_too_many_pixels_is_named(tmp_path):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    rows = png_chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + rows + png_chunk(b"IEND", b""))
    assert "3600000000 pixels" in refused(outcome(path))


def test_a_png_whose_checksums_fit_but_whose_pixels_do_not_is_named_when_read(tmp_path):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 30, 22, 8, 2, 0, 0, 0))
    path = tmp_path / "short.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b"no deflate stream") + png_chunk(b"IEND", b""))
    assert "short.png cannot be read" in outcome(path)


def fifo(path: Path) -> None:
    os.mkfifo(path)


STRANGE = {
    "pipe": fifo,
    "folder": Path.mkdir,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "dangling link": lambda path: path.symlink_to("nowhere.png"),
    "link to itself": lambda path: path.symlink_to(path),
    "empty": Path.touch,
    "text": lambda path: path.write_text("image_path,label\n"),
    "web page": lambda path: path.write_text("<html>404</html>"),
    "svg": lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "archive": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("role", ["image", "mask"])
def test_what_is_no_image_file_is_refused_at_once(kind, role, tmp_path):
    good, path = tmp_path / "good.png", tmp_path / "strange [b] ü.png"
    pixels().save(good)
    STRANGE[kind](path)
    assert str(path) in refused(outcome(path) if role == "image" else outcome(good, path))


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("role", ["image", "mask"])
def test_pictures_that_are_to_be_turned_are_refused(orientation, ending, role, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    good, path = tmp_path / "good.png", tmp_path / f"phone{ending}"
    pixels().save(good)
    pixels().save(path, exif=exif)
    assert f"EXIF orientation {orientation}" in refused(outcome(path) if role == "image" else outcome(good, path))


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".tif"])
def test_upright_pictures_are_read(ending, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 1
    pixels().save(tmp_path / f"phone{ending}", exif=exif)
    assert outcome(tmp_path / f"phone{ending}").image.shape[-2:] == SIZE[::-1]


def test_tiff_files_are_turned_when_they_are_read(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels().save(tmp_path / "scan.tif", exif=exif)
    pixels("L").transpose(Image.Transpose.ROTATE_270).save(tmp_path / "scan_mask.png")
    item = outcome(tmp_path / "scan.tif", tmp_path / "scan_mask.png")
    expected = torch.from_numpy(np.asarray(pixels()).copy()).permute(2, 0, 1) / 255
    assert torch.allclose(item.image, expected.rot90(-1, (1, 2)))


def can_read(path) -> bool:
    """Tell whether Pillow can read what it wrote."""
    try:
        with Image.open(path) as image:
            image.load()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "PA", "I;16", "I", "F"])
@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".bmp", ".webp"])
def test_every_mode_is_read_or_refused(mode, ending, tmp_path):
    path = tmp_path / f"image{ending}"
    values = np.random.default_rng(0).integers(0, 65536, SIZE[::-1])
    deep = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    image = (
        Image.fromarray(values.astype(deep[mode]))
        if mode in deep
        else pixels("L" if mode == "PA" else "RGB").convert(mode)
    )
    try:
        image.save(path)
    except (OSError, ValueError):  # this format has no such mode
        return
    result = outcome(path)
    with Image.open(path) as written:
        if written.mode.startswith(("I", "F")):
            assert "more than 8 bits in one channel" in refused(result)
        elif (mode, ending) == ("YCbCr", ".tif") and not can_read(path):  # before version 13
            assert "the file is damaged or cannot be read" in refused(result)
        else:
            assert result.image.shape[-2:] == SIZE[::-1]


MARKS = np.zeros(SIZE[::-1], bool)
MARKS[5:12, 8:20] = True


def alpha(colour: str) -> Image.Image:
    image = Image.new(colour, SIZE)
    image.putalpha(Image.fromarray(MARKS.astype(np.uint8) * 255))
    return image


def palette(*colours: int) -> Image.Image:
    image = Image.fromarray(MARKS.astype(np.uint8)).convert("P")
    image.putpalette([*colours, *[0] * (768 - len(colours))])
    return image


def of(dtype, scale: float) -> Image.Image:
    return Image.fromarray((MARKS * scale).astype(dtype))


GOOD_MASKS = {
    "255": (of(np.uint8, 255), ".png"),
    "1": (of(np.uint8, 1), ".png"),
    "one bit": (Image.fromarray(MARKS), ".png"),
    "grey": (of(np.uint8, 38), ".bmp"),
    "colour": (of(np.uint8, 255).convert("RGB"), ".png"),
    "opaque": (of(np.uint8, 255).convert("RGBA"), ".png"),
    "16 bits": (of(np.uint16, 65535), ".png"),
    "16 bits, 1": (of(np.uint16, 1), ".tif"),
    "32 bits": (of(np.int32, 255), ".tif"),
    "floats": (of(np.float32, 255), ".tif"),
    "floats, 1": (of(np.float32, 1), ".tif"),
    "a palette's colours": (palette(0, 0, 0, 128, 0, 0), ".png"),
    "tiff": (of(np.uint8, 255), ".tif"),
    "lossless webp": (of(np.uint8, 255).convert("RGB"), ".webp"),
}
LOST_MASKS = {
    "fractions": (of(np.float32, 0.9), ".tif"),
    "some fractions": (
        Image.fromarray((MARKS * 0.5).astype(np.float32) + np.eye(*SIZE[::-1], dtype=np.float32)),
        ".tif",
    ),
    "alpha on black": (alpha("RGB"), ".png"),
    "alpha on grey": (alpha("L"), ".png"),
    "alpha in webp": (alpha("RGB"), ".webp"),
    "a black palette": (palette(), ".png"),
}
POINTLESS_MASKS = {
    "nothing": (of(np.uint8, 0), ".png"),
    "everything": (Image.new("L", SIZE, 255), ".png"),
    "no bit": (Image.new("1", SIZE), ".png"),
}


def with_mask(image: Image.Image, ending: str, folder: Path):
    pixels().save(folder / "image.png")
    image.save(folder / f"image_mask{ending}", **({"lossless": True, "exact": True} if ending == ".webp" else {}))
    return outcome(folder / "image.png", folder / f"image_mask{ending}")


@pytest.mark.parametrize("kind", GOOD_MASKS)
def test_masks_that_show_their_marks(kind, tmp_path, caplog):
    item = with_mask(*GOOD_MASKS[kind], tmp_path)
    assert np.array_equal(item.gt_mask.numpy() > 0, MARKS)
    assert not caplog.text


@pytest.mark.parametrize("kind", LOST_MASKS)
def test_masks_that_lose_their_marks_are_refused(kind, tmp_path):
    assert "its marks are lost" in refused(with_mask(*LOST_MASKS[kind], tmp_path))


@pytest.mark.parametrize("kind", POINTLESS_MASKS)
def test_masks_that_mark_nothing_or_everything_are_told(kind, tmp_path, caplog):
    with_mask(*POINTLESS_MASKS[kind], tmp_path)
    assert "masks of 1 of 1 anomalous images mark no pixel, or all of them" in caplog.text
    assert str(tmp_path / "image.png") in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_cut_masks_are_refused(kind, tmp_path):
    pixels().save(tmp_path / "image.png")
    content, path = encoded(kind), tmp_path / f"image_mask{FORMATS[kind][0]}"
    path.write_bytes(content)
    whole = outcome(tmp_path / "image.png", path).gt_mask
    for length in np.linspace(0, len(content) - 1, CUTS).astype(int):
        path.write_bytes(content[:length])
        result = outcome(tmp_path / "image.png", path)
        if isinstance(result, str):
            assert str(path) in refused(result)
        else:
            assert torch.equal(result.gt_mask, whole)


def test_masks_of_another_size_are_named_with_their_image(tmp_path):
    pixels().save(tmp_path / "image.png")
    pixels("L").resize((31, 22)).save(tmp_path / "image_mask.png")
    message = refused(outcome(tmp_path / "image.png", tmp_path / "image_mask.png"))
    assert "image_mask.png: the mask has 31x22 pixels, its image" in message


def test_the_documentation_counts_the_cases():
    tables = sum(map(len, (STRANGE, STRANGE, GOOD_MASKS, LOST_MASKS, POINTLESS_MASKS))) + 2 * 3 * 7
    cases = len(FORMATS) * (2 * CUTS + FLIPS) + 2 * EXAMPLES + tables
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert f"more than {cases // 100 * 100:,} damaged, strange and hostile images and masks" in " ".join(text.split())
