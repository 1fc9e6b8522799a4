# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""From the content of an image file that a stranger may have made to a picture, or to what is wrong with it."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from anomalib_clipzoo.clip.preprocess import resize_images
from anomalib_clipzoo.results.images import read_image

from .limits import MOST_PIXELS

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
"""Formats that are decoded: each further decoder is one more that damaged files may be made for."""


class TooManyPixelsError(ValueError):
    """An image is larger than allowed."""


class UnknownTypeError(ValueError):
    """A file is no image, or of a type that is not decoded."""


def decode_image(content: bytes, most_pixels: int = MOST_PIXELS, turn: bool = False) -> Image.Image:
    """Decode an image as ``anomalib predict`` does: 8-bit RGB, 16-bit grey scaled by its full range.

    Args:
        content: The file's content.
        most_pixels: Larger images are refused before they are decoded.
        turn: Whether pictures that the camera noted to be turned are turned; else they are refused, as places on them
            would be others than the file's.

    Raises:
        TooManyPixelsError: If it is larger.
        UnknownTypeError: If it is none of :data:`FORMATS`.
        ValueError: If it is damaged, or would be read as something else than it shows.
    """
    if not content:
        msg = "the file is empty"
        raise ValueError(msg)
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            _check_size(image.size, most_pixels)
        return read_image(BytesIO(content), turn)
    except UnidentifiedImageError as error:
        msg = f"this is no image of type {', '.join(FORMATS)}"
        raise UnknownTypeError(msg) from error
    except Image.DecompressionBombError as error:
        msg = f"the image has more than the {most_pixels} pixels allowed"
        raise TooManyPixelsError(msg) from error
    except ValueError:
        raise
    except Exception as error:  # decoders meet damage with errors of many kinds
        msg = f"the file is damaged or cannot be read ({error})"
        raise ValueError(msg) from error


def _check_size(size: tuple[int, int], most_pixels: int) -> None:
    if size[0] * size[1] > most_pixels:
        msg = f"the image has {size[0]}x{size[1]} pixels, {most_pixels} are allowed; scale it down or cut it into tiles"
        raise TooManyPixelsError(msg)


def to_pixels(image: Image.Image, size: tuple[int, int] | None) -> np.ndarray:
    """Bring a picture to a model's size by the model's own resizing.

    Args:
        image: RGB picture.
        size: Height and width in pixels; ``None`` leaves it as it is.

    Returns:
        8-bit levels ``(3, H, W)``, which hold the resized picture exactly.
    """
    levels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    if size is None or levels.shape[1:] == size:
        return np.ascontiguousarray(levels)
    resized = resize_images(torch.from_numpy(levels / np.float32(255)), size)
    return np.rint(resized.numpy() * 255).astype(np.uint8)
