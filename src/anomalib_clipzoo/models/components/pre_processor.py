# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The pre-processor that all models share: resize as Pillow does, then normalise for CLIP."""

from collections.abc import Sequence
from typing import Any

import torch
from anomalib.pre_processing import PreProcessor
from torch import nn

from anomalib_clipzoo.clip.preprocess import MEAN, STD, normalize, resize_images, resize_masks


class ClipTransform(nn.Module):
    """Resize images and masks to the model's size, aspect ratio not kept, and normalise the images.

    Args:
        image_size: Height and width in pixels.
        mean: Mean of red, green and blue, 0..1.
        std: Their standard deviation.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(self, images: torch.Tensor, *masks: torch.Tensor | None) -> Any:
        """Transform images ``(B, 3, H, W)``, 0..1, alone or with masks ``(B, H, W)`` or ``None``.

        Images are normalised in single precision: near the mean half precision has nothing left of them.
        """
        images = normalize(resize_images(images.float(), self.image_size), self.mean, self.std)
        if not masks:
            return images
        return images, *(None if mask is None else resize_masks(mask, self.image_size) for mask in masks)


class ClipPreProcessor(PreProcessor):
    """CLIP's pre-processing as the papers' codes do it, the same in Lightning's loops and in exported models.

    Args:
        image_size: Height and width in pixels.
        mean: Mean of red, green and blue, 0..1.
        std: Their standard deviation.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.mean, self.std = tuple(mean), tuple(std)
        self.transform = ClipTransform(image_size, mean, std)
        self.export_transform = self.transform

    def checkpoint_config(self) -> dict[str, Any]:
        """Return the plain data that a checkpoint keeps of this."""
        return {"image_size": list(self.image_size), "mean": list(self.mean), "std": list(self.std)}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Keep this instance's own values, which the model's arguments gave it; those have come back before."""
