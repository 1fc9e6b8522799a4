# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Mosaics of anomalous images, as VCP-CLIP's and AdaCLIP's codes learn on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from anomalib.data import AnomalibDataset
from anomalib.data.utils import LabelName
from torchvision.tv_tensors import Image, Mask

from anomalib_clipzoo.clip.preprocess import resize_images, resize_masks
from anomalib_clipzoo.data.category import CategoryDataset, CategoryItem


class MosaicDataset(CategoryDataset):
    """Replace some images by a 2 x 2 mosaic of four random anomalous images of the same category.

    The papers' codes paste the four at their own size on a canvas of twice the first one's; here the canvas is then
    brought back to the replaced image's size, so that a batch need not be enlarged for it.

    Args:
        datasets: The images to learn from.
        rate: Probability that an image is replaced, 0..1.
    """

    def __init__(self, datasets: list[AnomalibDataset], rate: float) -> None:
        super().__init__(datasets, [None] * len(datasets))
        self.rate = rate

    def __getitem__(self, index: int) -> CategoryItem:
        """Read an item, or a mosaic in its place."""
        item = super().__getitem__(index)
        rows = self._anomalous_rows(item.category)
        if not rows or torch.rand(()) >= self.rate:
            return item
        parts = [super(MosaicDataset, self).__getitem__(rows[number]) for number in torch.randint(len(rows), (4,))]
        return _mosaic(item, parts)

    def _anomalous_rows(self, category: str | None) -> list[int]:
        samples = self.samples
        same = samples["category"].isna() if category is None else samples["category"] == category
        return samples.index[same & (samples["label_index"] == LabelName.ABNORMAL)].tolist()


def _mosaic(item: Any, parts: list[Any]) -> CategoryItem:
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
        item,
        image=Image(resize_images(image, size)),
        gt_mask=Mask(resize_masks(mask, size)),
        gt_label=torch.tensor(bool(LabelName.ABNORMAL.value)),
    )
