# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Mosaics of four images, as VCP-CLIP's, AdaCLIP's and APRIL-GAN's codes learn on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from anomalib.data.utils import LabelName
from torchvision.tv_tensors import Image, Mask

from anomalib_clipzoo.clip.preprocess import resize_images, resize_masks
from anomalib_clipzoo.data.category import CategoryDataset, CategoryItem

MosaicOf = Literal["anomalous", "any", "folders"]


class MosaicDataset(CategoryDataset):
    """Replace some images by a 2 x 2 mosaic of four random images of the same category.

    The papers' codes paste the four at their own size on a canvas of twice the first one's; here the canvas is then
    brought back to the replaced image's size, so that a batch need not be enlarged for it.

    Args:
        dataset: The images to learn from.
        rates: For each of the datasets that ``dataset`` is made of, the probability that an image is replaced, 0..1.
        of: ``"anomalous"`` for four anomalous images, and a mosaic is anomalous, as VCP-CLIP's code has it; ``"any"``
            for any four of the category, under the label of the image that they replace, as AdaCLIP's code has it;
            ``"folders"`` for any four, each of a random folder of the category's, so that a kind of defect is as likely
            as good, under the label that they have, as APRIL-GAN's code has it.
    """

    def __init__(self, dataset: CategoryDataset, rates: Sequence[float], of: MosaicOf = "anomalous") -> None:
        super().__init__(dataset.datasets, dataset.categories)
        self.samples = dataset.samples
        self.rates = list(rates)
        self.of = of

    def __getitem__(self, index: int) -> CategoryItem:
        """Read an item, or a mosaic in its place."""
        item = super().__getitem__(index)
        if torch.rand(()) >= self.rates[self.samples["dataset"].iloc[index]]:
            return item
        rows = self._rows_like(index)
        if not rows:
            return item
        parts: list[Any] = [super(MosaicDataset, self).__getitem__(row) for row in self._draw(rows)]
        anomalous = torch.stack([part.gt_label for part in parts]).amax()
        return _mosaic(item, parts, item.gt_label if self.of == "any" else anomalous)

    def _draw(self, rows: list[int]) -> list[int]:
        """Draw four rows, with replacement: all equally likely, or all folders."""
        if self.of != "folders":
            return [rows[number] for number in torch.randint(len(rows), (4,))]
        folders = self.samples["image_path"].loc[rows].map(lambda path: Path(path).parent)
        chances = 1 / folders.map(folders.value_counts())
        return [rows[number] for number in torch.tensor(chances.to_numpy()).multinomial(4, replacement=True)]

    def _rows_like(self, index: int) -> list[int]:
        """Rows of the images that a mosaic in an image's place may show."""
        samples = self.samples
        dataset, category = samples.loc[index, ["dataset", "category"]]
        same = samples["category"].isna() if category is None else samples["category"] == category
        chosen = same & (samples["dataset"] == dataset)
        if self.of == "anomalous":
            chosen &= samples["label_index"] == LabelName.ABNORMAL
        return samples.index[chosen].tolist()


def _mosaic(item: Any, parts: list[Any], label: torch.Tensor | None) -> CategoryItem:
    """Put four images and their masks into one of the item's size."""
    height, width = parts[0].image.shape[-2:]
    image, mask = torch.zeros(3, 2 * height, 2 * width), torch.zeros(2 * height, 2 * width)
    for number, part in enumerate(parts):
        top, left = height * (number // 2), width * (number % 2)
        rows, columns = min(height, part.image.shape[-2]), min(width, part.image.shape[-1])
        image[:, top : top + rows, left : left + columns] = part.image[:, :rows, :columns]
        mask[top : top + rows, left : left + columns] = part.gt_mask[:rows, :columns]
    size = tuple(item.image.shape[-2:])
    return replace(
        item, image=Image(resize_images(image, size)), gt_mask=Mask(resize_masks(mask, size)), gt_label=label
    )
