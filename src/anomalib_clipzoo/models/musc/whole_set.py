# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The images of a loop as a whole: read once before the first batch, apart from the loop's own reading."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from anomalib.data import Batch
from rich.progress import track
from torch.utils.data import DataLoader

from anomalib_clipzoo.models.components.loaders import read_before
from anomalib_clipzoo.results.folder_images import problems_of

logger = logging.getLogger(__name__)

TOWER_BATCH = 8


class WholeSet:
    """All images that a loop's loader will bring, whichever of them a device or a limit of batches takes.

    Args:
        loader: The loop's loader.
        category: The category of images whose dataset names none.
        prepare: Brings one image ``(1, 3, H, W)``, 0..1, as it was read, to what the model takes.
        progress: Whether a progress bar is shown.

    Raises:
        TypeError: If the dataset does not say which files it reads.
    """

    def __init__(
        self,
        loader: DataLoader,
        category: str | None,
        prepare: Callable[[torch.Tensor], torch.Tensor],
        *,
        progress: bool,
    ) -> None:
        self.loader = loader
        self.files, self.categories = _describe(loader.dataset, category)
        self.prepare = prepare
        self.progress = progress
        self.left_out: dict[str, str] = {}
        self._seen: dict[bytes, str] = {}
        self._twins: list[tuple[str, str]] = []

    @property
    def folders(self) -> list[str]:
        """The folder of each image, which names its defect in datasets laid out as MVTec AD."""
        return [Path(file).parent.name for file in self.files]

    def load(self, numbers: Sequence[int]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Read images, see :data:`.features.Load`; those that cannot be read are left out.

        Raises:
            ValueError: If an image holds values that are not finite.
        """
        collate = partial(_one_by_one, collate=self.loader.collate_fn)
        batches = read_before(self.loader, numbers, collate, TOWER_BATCH)
        begin = 0
        for items in track(batches, "Reading the set", disable=not self.progress):
            members = numbers[begin : begin + len(items)]
            begin += len(items)
            readable = [(number, item) for number, item in zip(members, items, strict=True) if self._check(item)]
            if readable:
                images = torch.cat([self.prepare(item.image) for _, item in readable])
                yield [number for number, _ in readable], images

    def _check(self, item: Any) -> bool:
        """Tell whether an image can be used, and note if it is another's twin."""
        (file,), (problem,) = item.image_path, problems_of(item)
        if problem:
            self.left_out[file] = problem
            return False
        if not item.image.isfinite().all():
            msg = f"{file} holds values that are not finite numbers, which would spoil the scores of all: take it out."
            raise ValueError(msg)
        twin = self._seen.setdefault(blake2b(item.image.cpu().numpy().tobytes()).digest(), file)
        if twin != file:
            self._twins.append((twin, file))
        return True

    def warn(self) -> None:
        """Say, once all images are read, what about them makes scores worse."""
        if self._twins:
            first = " and ".join(self._twins[0])
            logger.warning(
                "%d images are in the set twice and vouch for their own defects: %s", len(self._twins), first
            )
        for file, problem in self.left_out.items():
            logger.warning("%s has no score and vouches for no other image: %s", file, problem)


def _one_by_one(items: Sequence[Any], collate: Callable[[list[Any]], Batch]) -> list[Batch]:
    """Make a batch of each image, so that none is stretched to another's size before the model resizes it."""
    return [collate([item]) for item in items]


def _describe(dataset: Any, category: str | None) -> tuple[list[str], list[str | None]]:
    """Return the file and the category of each image of a dataset, without reading any."""
    if hasattr(dataset, "samples"):
        samples = dataset.samples
        known = samples["category"] if "category" in samples else [category] * len(samples)
        return [str(path) for path in samples["image_path"]], [name or None for name in known]
    if hasattr(dataset, "image_filenames"):
        return [str(path) for path in dataset.image_filenames], [category] * len(dataset)
    msg = (
        f"MuSc looks at all images before the first batch, and {type(dataset).__name__} does not say which files they "
        "are: give an anomalib datamodule or dataset, or a folder."
    )
    raise TypeError(msg)
