# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Reading an image file as people see it, or saying why that cannot be done."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype, to_image

from anomalib_clipzoo.data.image_files import check_upright

WHITE_16_BIT = 2**16 - 1
# A 12-bit camera's white would come out at a sixteenth of the brightness; a scene as dark as that is less likely.
WHITE_12_BIT = 2**12 - 1


def read_image(path: str | Path | BytesIO, turn: bool = False) -> Image.Image:
    """Read an image as 8-bit RGB; 16-bit grey is scaled by its full range, as 8-bit images are by theirs.

    anomalib's own reader cuts off what is above 255, which turns such images white.

    Args:
        path: The file, or what one holds.
        turn: Whether pictures that the camera noted to be turned are turned; else they are refused, as places on them
            would be others than the file's.

    Returns:
        The image, decoded.

    Raises:
        ValueError: If it cannot be read, is to be turned, or if it is not known which of its values is white; the
            message says which, without the path.
    """
    if not isinstance(path, BytesIO) and not Path(path).is_file():
        msg = "there is no such file" if not Path(path).exists() else "this is no file"
        raise ValueError(msg)
    try:
        with Image.open(path) as image:
            if not turn:
                check_upright(image)
            upright = ImageOps.exif_transpose(image) if turn else image
            return _from_deep(upright) if image.mode.startswith(("I", "F")) else upright.convert("RGB")
    except UnidentifiedImageError as error:
        empty = not isinstance(path, BytesIO) and Path(path).stat().st_size == 0
        msg = "the file is empty" if empty else "this is no image that can be read"
        raise ValueError(msg) from error
    except (
        OSError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:  # Pillow's for broken PNG chunks is the second
        msg = f"the file is damaged or cannot be read ({error})"
        raise ValueError(msg) from error


def read_pixels(path: str | Path) -> Tensor:
    """Read an image as :func:`read_image` does: ``(3, H, W)``, 0..1."""
    return to_dtype(to_image(read_image(path)), torch.float32, scale=True)


def _from_deep(image: Image.Image) -> Image.Image:
    """Scale grey values of more than 8 bits."""
    if image.mode == "F":
        msg = "its pixels are floating-point numbers, of which none is known to be white; convert it to 8 or 16 bits"
        raise ValueError(msg)
    values = np.asarray(image)
    darkest, brightest = int(values.min()), int(values.max())
    if darkest < 0 or brightest > WHITE_16_BIT:
        msg = f"its pixels go from {darkest} to {brightest}, which is no 16-bit range; convert it to 8 or 16 bits"
        raise ValueError(msg)
    if 0 < brightest <= WHITE_12_BIT:
        msg = f"it has 16 bits, but its brightest pixel is {brightest} of {WHITE_16_BIT}: scaled, the image would be "
        msg += "nearly black; convert it to 8 bits"
        raise ValueError(msg)
    return Image.fromarray(np.rint(values / (WHITE_16_BIT / 255)).astype(np.uint8)).convert("RGB")
