# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The pre-processor that all models share: resize as Pillow does, then normalise for CLIP."""

from typing import Any

import torch
from anomalib.pre_processing import PreProcessor
from torch import nn

from anomalib_clipzoo.clip.preprocess import normalize, resize_images, resize_masks


class ClipTransform(nn.Module):
    """Resize images and masks to the model's size, aspect ratio not kept, and normalise the images.

    Args:
        image_size: Height and width in pixels.
    """

    def __init__(self, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.image_size = image_size

    def forward(self, images: torch.Tensor, *masks: torch.Tensor | None) -> Any:
        """Transform images ``(B, 3, H, W)``, 0..1, alone or with masks ``(B, H, W)`` or ``None``."""
        images = normalize(resize_images(images, self.image_size))
        if not masks:
            return images
        return images, *(None if mask is None else resize_masks(mask, self.image_size) for mask in masks)


class ClipPreProcessor(PreProcessor):
    """CLIP's pre-processing as the papers' codes do it, the same in Lightning's loops and in exported models.

    Args:
        image_size: Height and width in pixels.
    """

    def __init__(self, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.image_size = image_size
        self.transform = ClipTransform(image_size)
        self.export_transform = self.transform

    def checkpoint_config(self) -> dict[str, Any]:
        """Return the plain data that a checkpoint keeps of this."""
        return {"image_size": list(self.image_size)}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Keep this instance's own size: it fits the model that it was made with, whatever size was trained on."""
