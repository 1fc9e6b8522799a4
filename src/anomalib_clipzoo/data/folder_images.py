# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""A folder of somebody's own images, in which some cannot be read: the others are predicted all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from anomalib.data import Batch, ImageBatch, ImageItem, NumpyImageBatch, NumpyImageItem, PredictDataset
from anomalib.data.utils.image import is_image_file
from PIL import Image, UnidentifiedImageError
from torchvision.transforms.v2 import Transform
from torchvision.transforms.v2.functional import to_dtype, to_image

WHITE_16_BIT = 2**16 - 1
# A 12-bit camera's white would come out at a sixteenth of the brightness; a scene as dark as that is less likely.
WHITE_12_BIT = 2**12 - 1


def read_image(path: str | Path) -> Image.Image:
    """Read an image as 8-bit RGB; 16-bit grey is scaled by its full range, as 8-bit images are by theirs.

    anomalib's own reader cuts off what is above 255, which turns such images white.

    Args:
        path: The file.

    Returns:
        The image, decoded.

    Raises:
        ValueError: If it cannot be read, or if it is not known which of its values is white; the message says which,
            without the path.
    """
    if not Path(path).is_file():
        msg = "there is no such file" if not Path(path).exists() else "this is no file"
        raise ValueError(msg)
    try:
        with Image.open(path) as image:
            image.load()
            return _from_deep(image) if image.mode.startswith(("I", "F")) else image.convert("RGB")
    except UnidentifiedImageError as error:
        msg = "the file is empty" if Path(path).stat().st_size == 0 else "this is no image that can be read"
        raise ValueError(msg) from error
    except (
        OSError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:  # Pillow's for broken PNG chunks is the second
        msg = f"the file is damaged or cannot be read ({error})"
        raise ValueError(msg) from error


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


@dataclass
class NumpyFolderItem(NumpyImageItem):
    """A :class:`FolderItem` in NumPy form."""

    problem: str = ""


@dataclass
class NumpyFolderBatch(NumpyImageBatch):
    """A :class:`FolderBatch` in NumPy form."""

    item_class: ClassVar[type[NumpyImageItem]] = NumpyFolderItem
    problem: list[str] | None = None


@dataclass
class FolderItem(ImageItem):
    """An image item that may stand for a file that could not be read: ``problem`` then says why."""

    numpy_class: ClassVar[type[NumpyImageItem]] = NumpyFolderItem
    problem: str = ""


@dataclass
class FolderBatch(ImageBatch):
    """A batch of images with a ``problem`` for each, empty where there is none."""

    item_class: ClassVar[type[ImageItem]] = FolderItem
    numpy_class: ClassVar[type[NumpyImageBatch]] = NumpyFolderBatch
    problem: list[str] | None = None


def problems_of(batch: Batch) -> list[str]:
    """Say of each image of a batch why it could not be read; empty where it could.

    Args:
        batch: Any anomalib image batch, with or without a ``problem`` field.
    """
    problems = getattr(batch, "problem", None)
    return [""] * batch.batch_size if problems is None else list(problems)  # type: ignore[attr-defined]


class FolderImages(PredictDataset):
    """anomalib's ``PredictDataset``, where a file that cannot be read does not end the run.

    In place of such a file comes a small black image with the reason in ``problem``. Who uses the predictions has to
    look at it, as :class:`~anomalib_clipzoo.results.predictions.Predictions` does.

    Args:
        path: An image, or a folder with images, also in folders within.
        transform: Transform of the images.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If no file in the folder has the name of an image.
    """

    def __init__(self, path: str | Path, transform: Transform | None = None) -> None:
        self.image_filenames = image_files(Path(path))
        self.transform = transform

    def __getitem__(self, index: int) -> FolderItem:
        """Read one image: ``(3, H, W)``, 0..1."""
        path = self.image_filenames[index]
        try:
            image, problem = to_dtype(to_image(read_image(path)), torch.float32, scale=True), ""
        except ValueError as error:
            image, problem = to_image(torch.zeros(3, 8, 8)), str(error)
        if self.transform:
            image = self.transform(image)
        return FolderItem(image=image, image_path=str(path), problem=problem)

    @property
    def collate_fn(self) -> Callable:
        """What stacks items to a :class:`FolderBatch`."""
        return FolderBatch.collate


def image_files(path: Path) -> list[Path]:
    """List an image, or those of a folder and the folders within, in order of their names.

    Unlike anomalib's, this does not stop at a dangling link: that is one more file that cannot be read.
    """
    if not path.exists():
        msg = f"There is no file or folder {path}."
        raise FileNotFoundError(msg)
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.glob("**/*") if is_image_file(file) and not file.is_dir())
    if not files:
        msg = f"No file in {path} has the name of an image, such as .png, .jpg or .tif."
        raise ValueError(msg)
    return files
