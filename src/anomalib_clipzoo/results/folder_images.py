# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""A folder of somebody's own images, in which some cannot be read: the others are predicted all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from anomalib.data import Batch, ImageBatch, ImageItem, NumpyImageBatch, NumpyImageItem, PredictDataset
from anomalib.data.utils.image import is_image_file
from torchvision.transforms.v2 import Transform
from torchvision.transforms.v2.functional import to_image

from anomalib_clipzoo.results.images import read_pixels


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
            image, problem = read_pixels(path), ""
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
