# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Images that know their category: the item, the batch and the dataset that carry it to the model and the metrics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import pandas as pd
import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataset, Batch, ImageBatch, ImageItem, NumpyImageBatch, NumpyImageItem
from anomalib.data.utils import LabelName
from torchvision.transforms.v2 import Transform
from torchvision.tv_tensors import Mask

from anomalib_clipzoo.data.checks import mask_paths


@dataclass
class NumpyCategoryItem(NumpyImageItem):
    """An image item in NumPy form, with its category."""

    category: str | None = None


@dataclass
class NumpyCategoryBatch(NumpyImageBatch):
    """A batch of images in NumPy form, with the category of each."""

    item_class: ClassVar[type[NumpyImageItem]] = NumpyCategoryItem
    category: list[str | None] | None = None


@dataclass
class CategoryItem(ImageItem):
    """An image item with its category, ``None`` where the dataset has none."""

    numpy_class: ClassVar[type[NumpyImageItem]] = NumpyCategoryItem
    category: str | None = None


@dataclass
class CategoryBatch(ImageBatch):
    """A batch of images with the category of each: ``category`` has length ``B``."""

    item_class: ClassVar[type[ImageItem]] = CategoryItem
    numpy_class: ClassVar[type[NumpyImageBatch]] = NumpyCategoryBatch
    category: list[str | None] | None = None

    @classmethod
    def collate(cls, items: list[CategoryItem]) -> CategoryBatch:  # type: ignore[override]
        """Stack items to a batch; images of several sizes are brought to the largest one, as anomalib does.

        Annotations that some of the items lack are left out of the batch: a tensor cannot have holes. The datamodules'
        loaders keep such items apart, see :class:`~anomalib_clipzoo.data.alike.AlikeBatches`.

        Args:
            items: What the dataset returned, one per image.

        Returns:
            The batch, with ``category`` in the items' order.
        """
        for name in ("gt_label", "gt_mask"):
            if any(getattr(item, name) is None for item in items):
                for item in items:
                    setattr(item, name, None)
        return super().collate(items).update(category=[item.category for item in items])  # type: ignore[arg-type, attr-defined]


def categories_of(batch: Batch) -> list[str | None]:
    """Say to which category each image of a batch belongs.

    Args:
        batch: Any anomalib image batch, with or without a ``category`` field.

    Returns:
        One name per image, ``None`` where it is not known.
    """
    categories = getattr(batch, "category", None)
    return [None] * batch.batch_size if categories is None else list(categories)  # type: ignore[attr-defined]


class CategoryDataset(AnomalibDataset):
    """Several anomalib datasets as one, in which every item knows its category.

    Items are read by the datasets that own them, so that whatever is special about a dataset (several masks for one
    image, synthetic anomalies) stays as it is. Where one of the datasets is itself a :class:`CategoryDataset`, its
    items keep the categories that they have.

    Args:
        datasets: The datasets, in the order in which ties are kept.
        categories: The category of each dataset, ``None`` or empty where it has none.
    """

    def __init__(self, datasets: Sequence[AnomalibDataset], categories: Sequence[str | None]) -> None:
        self.datasets = list(datasets)
        self.categories = [category or None for category in categories]
        super().__init__()
        frames = [self._frame(number) for number in range(len(self.datasets))]
        samples = pd.concat(frames, ignore_index=True)
        has_masks = any(dataset.task == TaskType.SEGMENTATION for dataset in self.datasets)
        samples.attrs["task"] = (TaskType.SEGMENTATION if has_masks else TaskType.CLASSIFICATION).value
        self.samples = samples

    def _frame(self, number: int) -> pd.DataFrame:
        """Table of one dataset's samples, with the columns that lead back to it."""
        dataset = self.datasets[number]
        samples = dataset.samples.assign(dataset=number, row=range(len(dataset)))
        samples.attrs = {}
        if not isinstance(dataset, CategoryDataset):
            samples["category"] = self.categories[number]
        return samples.astype({"category": object})

    @property
    def augmentations(self) -> Transform | None:
        """Transform applied to image and mask when an item is read."""
        return self._augmentations

    @augmentations.setter
    def augmentations(self, augmentations: Transform | None) -> None:
        self._augmentations = augmentations
        for dataset in self.datasets:
            dataset.augmentations = augmentations

    def __getitem__(self, index: int) -> CategoryItem:
        """Read one item.

        Args:
            index: Its row in ``samples``.

        Returns:
            Image ``(3, H, W)`` in 0..1, mask ``(H, W)``, label, paths and category. Where any of the datasets has
            masks, normal images of the others have an empty one.
        """
        sample = self.samples.iloc[index]
        item = self._read(sample)
        if item.gt_mask is None and self.task == TaskType.SEGMENTATION and sample["label_index"] == LabelName.NORMAL:
            item.gt_mask = Mask(torch.zeros(item.image.shape[-2:], dtype=torch.uint8))
        return item

    def _read(self, sample: pd.Series) -> Any:
        """Read a sample's item from the dataset that owns it."""
        dataset = self.datasets[sample["dataset"]]
        if isinstance(dataset, CategoryDataset):
            return dataset[sample["row"]]
        masks = mask_paths(sample["mask_path"])
        if sample["label_index"] == LabelName.ABNORMAL and not masks:
            dataset = _without_masks(dataset)
        try:
            item = dataset[sample["row"]]
        except Exception as error:  # decoders and transforms fail with errors of many kinds, and name no file
            msg = f"{' or '.join([str(sample['image_path']), *masks])} cannot be read or transformed: {error}"
            raise ValueError(msg) from error
        values = {field.name: getattr(item, field.name) for field in fields(item)}
        return CategoryItem(**values, category=self.categories[sample["dataset"]])

    def __add__(self, other_dataset: AnomalibDataset) -> CategoryDataset:  # type: ignore[override]
        """Put another dataset behind this one; its items keep their category."""
        return CategoryDataset([self, other_dataset], [None, other_dataset.category])

    @property
    def collate_fn(self) -> Callable:
        """What stacks this dataset's items to a :class:`CategoryBatch`."""
        return CategoryBatch.collate


def _without_masks(dataset: AnomalibDataset) -> AnomalibDataset:
    """View of a dataset that reads no masks: anomalib takes it that a dataset has the masks of all or of none."""
    view = copy.copy(dataset)
    view._samples = dataset.samples.copy(deep=False)
    view._samples.attrs = {**dataset.samples.attrs, "task": TaskType.CLASSIFICATION.value}
    return view
