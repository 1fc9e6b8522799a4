# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""VCP-CLIP's training augmentation: drawn for every image by itself, applied to the whole batch."""

from collections.abc import Callable

import cv2
import kornia.augmentation as kornia
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from anomalib_clipzoo.clip.preprocess import resize_images, resize_masks

PROBABILITY = 0.5  # of each step; all values are the reference code's
DEGREES = 30.0
STRENGTH = 0.2
NOISE_VARIANCE = (10.0, 50.0)  # of 8-bit levels
BLUR_SIZE = 3
GAUSSIAN_SIZES = (3, 5, 7)  # OpenCV's kernels of these sizes, as where no sigma is given


class TrainingAugmentation(nn.Module):
    """Rotate, recolour, add noise, then blur or recolour, and turn by quarters; each for about half of the images.

    All but the quarter turns happen at the images' own size, as in the reference code. A quarter turn swaps the sides
    of an image, so it comes last, with the resizing to the model's size: what came before is the same in all four
    directions.

    Args:
        image_size: Height and width of the model's input in pixels.
    """

    def __init__(self, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.image_size = image_size
        self.rotation = kornia.AugmentationSequential(
            kornia.RandomAffine(DEGREES, padding_mode="reflection", p=PROBABILITY), data_keys=["input", "mask"]
        )
        self.colours = kornia.ColorJitter(STRENGTH, STRENGTH, STRENGTH, STRENGTH)

    @torch.no_grad()
    def forward(self, images: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment images ``(B, 3, H, W)``, 0..1, and masks ``(B, H, W)`` alike; they come out at the model's size."""
        images = images.as_subclass(torch.Tensor)
        images, rotated = self.rotation(images, masks.as_subclass(torch.Tensor)[:, None].to(images.dtype))
        images = _some(_drawn(images), images, _shift_tones)
        images = _some(_drawn(images), images, _add_noise)
        one_of = torch.randint(3, (len(images),)).where(_drawn(images), -1)
        images = _some(one_of == 0, images, lambda chosen: blur(chosen, box_kernels(len(chosen))))
        images = _some(one_of == 1, images, self.colours)
        images = _some(one_of == 2, images, lambda chosen: blur(chosen, gaussian_kernels(len(chosen))))
        quarters = torch.randint(4, (len(images),)).where(_drawn(images), 0)
        return turn_and_resize(images.clamp(0, 1), rotated[:, 0], quarters, self.image_size)


def turn_and_resize(
    images: torch.Tensor, masks: torch.Tensor, quarters: torch.Tensor, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn images by quarters, which swaps the sides of every second one, and resize them as the pre-processor does.

    Args:
        images: ``(B, 3, H, W)``, 0..1.
        masks: ``(B, H, W)``.
        quarters: How often to turn each image by 90 degrees, counter-clockwise, 0 to 3 ``(B,)``.
        size: Height and width to resize to.

    Returns:
        Images ``(B, 3, *size)`` and masks ``(B, *size)``.
    """
    turned = images.new_empty(*images.shape[:2], *size)
    turned_masks = masks.new_empty(len(masks), *size, dtype=torch.bool)
    quarters = quarters.to(images.device)
    for swapped in (False, True):  # a turn by quarters is a swap of the axes, or none, and then flips
        rows = (quarters % 2 == int(swapped)).nonzero()[:, 0]
        turned[rows] = resize_images(images[rows].mT if swapped else images[rows], size)
        turned_masks[rows] = resize_masks(masks[rows].mT if swapped else masks[rows], size)
    for axis, chosen in ((-2, (quarters == 1) | (quarters == 2)), (-1, quarters >= 2)):
        turned = turned.flip(axis).where(chosen[:, None, None, None], turned)
        turned_masks = turned_masks.flip(axis).where(chosen[:, None, None], turned_masks)
    return turned, turned_masks


def blur(images: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Blur each image ``(B, 3, H, W)`` with its own separable kernel ``(B, K)``, reflected at the border."""
    kernels = kernels.to(images).repeat_interleave(images.shape[1], dim=0)[:, None]
    channels = F.pad(images, [kernels.shape[-1] // 2] * 4, mode="reflect").flatten(0, 1)
    channels = F.conv2d(channels[None], kernels[..., None], groups=len(kernels))
    return F.conv2d(channels, kernels[..., None, :], groups=len(kernels)).view_as(images)


def box_kernels(count: int) -> torch.Tensor:
    """Kernels of a mean over 3 x 3 pixels ``(count, 3)``."""
    return torch.full((count, BLUR_SIZE), 1 / BLUR_SIZE)


def gaussian_kernels(count: int) -> torch.Tensor:
    """Gaussian kernels of random sizes, with zeros around the shorter ones ``(count, 7)``."""
    longest = max(GAUSSIAN_SIZES)
    kernels = [np.pad(cv2.getGaussianKernel(size, 0)[:, 0], (longest - size) // 2) for size in GAUSSIAN_SIZES]
    return torch.from_numpy(np.stack(kernels)).float()[torch.randint(len(kernels), (count,))]


def _drawn(images: torch.Tensor) -> torch.Tensor:
    """Draw for each image whether a step is done."""
    return torch.rand(len(images)) < PROBABILITY


def _some(chosen: torch.Tensor, images: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Change the chosen images of a batch."""
    rows = chosen.nonzero()[:, 0].to(images.device)
    return images.index_copy(0, rows, change(images[rows])) if len(rows) else images


def _shift_tones(images: torch.Tensor) -> torch.Tensor:
    """Scale levels for contrast and shift them for brightness."""
    contrast, brightness = (torch.rand(2, len(images), 1, 1, 1, device=images.device) * 2 - 1) * STRENGTH
    return (images * (1 + contrast) + brightness).clamp(0, 1)


def _add_noise(images: torch.Tensor) -> torch.Tensor:
    """Add Gaussian noise, of a random variance for each image."""
    lowest, highest = NOISE_VARIANCE
    variance = lowest + torch.rand(len(images), 1, 1, 1, device=images.device) * (highest - lowest)
    return (images + variance.sqrt() / 255 * torch.randn_like(images)).clamp(0, 1)
