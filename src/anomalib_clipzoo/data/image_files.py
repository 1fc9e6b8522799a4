# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Looking at one image or mask file: can anomalib read it, and will it read what people see?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base

# anomalib converts to 8-bit RGB without rescaling, which turns these modes almost entirely white.
DEEP_MODES = ("I", "F")
# JPEG markers (ITU-T T.81, table B.1): start of scan and end of image.
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
UPRIGHT = 1  # EXIF orientation
# Pillow turns TIFF files itself.
TURNED_WHEN_READ = ("TIFF",)


class _RefusedError(ValueError):
    """What is wrong with a file and what to do, without its name."""


def image_size(path: str) -> tuple[int, int]:
    """Look at an image file.

    Pixels are decoded only where nothing else tells whether the file is whole: PNG files have checksums, JPEG files
    an end.

    Args:
        path: The file.

    Returns:
        Width and height in pixels.

    Raises:
        ValueError: If it cannot be read, or would be read as something else than it shows. The message names the file
            and what to do.
    """
    with _opened(path) as image:
        if image.mode.startswith(DEEP_MODES):
            msg = f"more than 8 bits in one channel (mode '{image.mode}') would be clipped; convert it to 8 bits"
            raise _RefusedError(msg)
        if image.format == "PNG":
            image.verify()
        elif image.format == "JPEG":
            _check_jpeg_end(path)
        else:
            image.load()
            Image.new(image.mode, (1, 1)).convert("RGB")  # not every mode can be
        return image.size


def mask_size(path: str) -> tuple[tuple[int, int], bool]:
    """Look at a mask file, its pixels included.

    Args:
        path: The file.

    Returns:
        Width and height in pixels, and whether it marks some of them, but not all.

    Raises:
        ValueError: As for an image, or if marks are lost when anomalib reads it.
    """
    with _opened(path) as image:
        levels = image.convert("L")
        lowest, highest = _extrema(levels)[0]
        if _marks_are_lost(image, levels):
            msg = f"its marks are lost when it is read as 8-bit grey levels (mode '{image.mode}': fractions, an alpha "
            msg += (
                "channel or a palette hold them); save it in greyscale with 0 for normal and 255 for anomalous pixels"
            )
            raise _RefusedError(msg)
        return image.size, lowest == 0 < highest


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """Open an image file, and name it in every error."""
    try:
        _check_kind(Path(path))
        with Image.open(path) as image:
            check_upright(image)
            yield image
    except UnidentifiedImageError as error:
        msg = f"{path}: this is no image that can be read; remove it or convert it to PNG."
        raise ValueError(msg) from error
    except Image.DecompressionBombError as error:
        msg = f"{path}: {error} Scale it down or cut it into tiles, or raise PIL.Image.MAX_IMAGE_PIXELS."
        raise ValueError(msg) from error
    except _RefusedError as error:
        msg = f"{path}: {error}."
        raise ValueError(msg) from error
    except Exception as error:  # decoders meet damage with errors of many kinds
        msg = f"{path}: the file is damaged or cannot be read ({error}); copy it again or remove it."
        raise ValueError(msg) from error


def _check_kind(path: Path) -> None:
    """Refuse what has no content: opening a pipe would wait for ever."""
    if not path.is_file():
        msg = "this is no file, but a folder, pipe or device; remove it" if path.exists() else "there is no such file"
        raise _RefusedError(msg)
    if path.stat().st_size == 0:
        msg = "the file is empty; copy it again or remove it"
        raise _RefusedError(msg)


def check_upright(image: Image.Image) -> None:
    """Refuse pictures that the camera noted to be turned: anomalib would read them lying on their side.

    Raises:
        ValueError: If this is one; the message says what to do, without the file's name.
    """
    orientation = Image.Image.getexif(image).get(Base.Orientation, UPRIGHT)  # PNG's own would decode the pixels
    if orientation != UPRIGHT and image.format not in TURNED_WHEN_READ:
        msg = (
            f"it is to be turned before it is shown (EXIF orientation {orientation}), which anomalib does not; save it "
        )
        msg += "turned, and its mask likewise, for example with ImageMagick's `mogrify -auto-orient`"
        raise _RefusedError(msg)


def _check_jpeg_end(path: str) -> None:
    """Refuse JPEG files that end within their last scan, which Pillow's own check does not look at."""
    content = Path(path).read_bytes()
    if content.rfind(END_OF_IMAGE) < content.rfind(START_OF_SCAN):
        msg = "the end is missing"
        raise OSError(msg)


def _marks_are_lost(image: Image.Image, levels: Image.Image) -> bool:
    """Tell whether a mask has marks that 8-bit grey levels do not show."""
    if image.mode.startswith(DEEP_MODES):
        return bool(((np.asarray(image) > 0) & (np.asarray(levels) == 0)).any())
    if _extrema(levels)[0][1] > 0:
        return False
    return any(lowest != highest for lowest, highest in _extrema(image))


def _extrema(image: Image.Image) -> list[tuple[float, float]]:
    """Lowest and highest value of every channel."""
    extrema: Any = image.getextrema()
    return list(extrema) if isinstance(extrema[0], tuple) else [extrema]
