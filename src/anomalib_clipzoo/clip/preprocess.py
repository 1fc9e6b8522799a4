# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Pillow's resizing as matrix products: the same pixels in training, testing and exported models.

The papers' codes resize 8-bit images with Pillow, which antialiases and rounds to 8 bits after each axis. torchvision
antialiases as well, but rounds otherwise on 8-bit tensors, not at all on floating-point ones, and cannot be exported
with antialiasing. Here each axis is one product with a filter matrix, which any runtime has, in Pillow's fixed-point
precision: the pixels are Pillow's to the last bit. The horizontal axis goes first, as in the Pillow of the papers'
codes; version 13 takes the vertical one first for some sizes, which matters only where the filter overshoots.
"""

from collections.abc import Callable

import torch

Kernel = Callable[[torch.Tensor], torch.Tensor]

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
LEVELS = 255.0
FIXED_POINT = 2.0**22  # Pillow rounds filter weights to this fraction


def resize_images(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize images ``(..., H, W)``, 0..1, with Pillow's bicubic filter; values come out in steps of 1/255."""
    return _resize(images, size, _bicubic)


def resize_masks(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize binary masks ``(..., H, W)`` with Pillow's bilinear filter, then cut at one half, to ``bool``."""
    return _resize((masks > 0).float(), size, _bilinear) > 0.5


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Normalise images ``(..., 3, H, W)``, 0..1, by CLIP's mean and standard deviation."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return (images - mean) / std


def _resize(images: torch.Tensor, size: tuple[int, int], kernel: Kernel) -> torch.Tensor:
    # Sums of 8-bit levels times 22-bit weights are exact in double precision; Apple's GPUs have none.
    precision = torch.float32 if images.device.type == "mps" else torch.float64
    rows = _filter_matrix(images.shape[-2], size[0], kernel).to(images.device, precision)
    columns = _filter_matrix(images.shape[-1], size[1], kernel).to(images.device, precision)
    levels = _to_levels(images * LEVELS).to(precision)
    levels = _to_levels(levels @ columns.T)
    return _to_levels(rows @ levels).to(images.dtype) / LEVELS


def _to_levels(values: torch.Tensor) -> torch.Tensor:
    """Round halves up to 8-bit levels, as Pillow does."""
    return (values + 0.5).floor().clamp(0.0, LEVELS)


def _filter_matrix(length: int, target: int, kernel: Kernel) -> torch.Tensor:
    """Weights ``(target, length)`` of the input pixels in each output pixel; the kernel widens when shrinking."""
    scale = length / target
    stretch = max(scale, 1.0)
    centres = (torch.arange(target, dtype=torch.float64) + 0.5) * scale
    pixels = torch.arange(length, dtype=torch.float64) + 0.5
    weights = kernel((pixels - centres[:, None]).abs() / stretch)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return (weights * FIXED_POINT).round() / FIXED_POINT


def _bicubic(distance: torch.Tensor, a: float = -0.5) -> torch.Tensor:
    """Keys' cubic kernel with Pillow's a = -0.5, zero beyond a distance of 2."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * a
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))


def _bilinear(distance: torch.Tensor) -> torch.Tensor:
    """Triangle kernel, zero beyond a distance of 1."""
    return (1 - distance).clamp(min=0)
