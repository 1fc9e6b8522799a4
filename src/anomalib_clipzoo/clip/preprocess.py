# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Pillow's resizing of tensors: the same pixels in training, testing and exported models.

The papers' codes resize 8-bit images with Pillow, which antialiases and rounds to 8 bits after each axis. torchvision
antialiases as well, but rounds otherwise on 8-bit tensors, not at all on floating-point ones, and cannot be exported
with antialiasing. Here each axis is resized for itself, to the same last bit in each of three ways: by Pillow where the
images are in main memory; elsewhere by products with bands of filter weights in Pillow's fixed-point precision; and in
graphs for export by a product with the whole matrix of weights, as their images may have any size. The horizontal axis
goes first, as in the Pillow of the papers' codes; version 13 takes the vertical one first for some sizes, which matters
only where the filter overshoots.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from PIL.Image import Resampling

from .filter_weights import FIXED_POINT, HALF, REACH, filter_weights, filter_weights_in_single, split

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
LEVELS = 255.0
BLOCK = 12  # output pixels that share a window: wider windows hold more zeros, narrower ones overlap more
CHUNK = 2**22  # input pixels that are resized at once, or one image plane, which bounds the memory


def resize_images(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize images ``(..., H, W)``, 0..1, with Pillow's bicubic filter; values come out in steps of 1/255.

    Raises:
        ValueError: If the images have more pixels than Pillow allows, or none.
    """
    return _resize(images, size, Resampling.BICUBIC)


def resize_masks(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize binary masks ``(..., H, W)`` with Pillow's bilinear filter, then cut at one half, to ``bool``."""
    return _resize((masks > 0).float(), size, Resampling.BILINEAR) > 0.5


def normalize(images: torch.Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> torch.Tensor:
    """Normalise images ``(..., 3, H, W)``, 0..1, by mean and standard deviation of the colours, OpenAI's by default."""
    means, deviations = (images.new_tensor(values)[:, None, None] for values in (mean, std))
    return (images - means) / deviations


def _resize(images: torch.Tensor, size: tuple[int, int], kernel: Resampling) -> torch.Tensor:
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # no graph can call Pillow
        return _resize_by_matrices(images, size, kernel, _filter_whole).to(images.dtype)
    height, width = images.shape[-2:]
    _check_pixels(height, width, size)
    if images.numel() == 0:  # no image, but a size
        return images.new_empty(*images.shape[:-2], *size)
    planes = images.detach().reshape(-1, height, width).split(max(1, CHUNK // (height * width)))
    if images.device.type == "cpu":
        resized = torch.cat([_resize_by_pillow(chunk, size, kernel) for chunk in planes])
    else:
        resized = torch.cat([_resize_by_matrices(chunk, size, kernel, _filter_in_bands) for chunk in planes])
    return resized.reshape(*images.shape[:-2], *size).to(images.dtype)


def _check_pixels(height: int, width: int, size: tuple[int, int]) -> None:
    most = Image.MAX_IMAGE_PIXELS
    pixels = max(height * width, height * size[1], width * size[0])  # with what is stretched along one axis
    if pixels == 0 or (most is not None and pixels > most):
        msg = (
            f"An image of {width}x{height} pixels cannot be resized to {size[1]}x{size[0]}: it needs at least 1 and at "
            f"most {most} pixels, stretched along either axis as well (Pillow's limit against decompression bombs, "
            "PIL.Image.MAX_IMAGE_PIXELS). Cut it into tiles or shrink it first."
        )
        raise ValueError(msg)


def _resize_by_pillow(images: torch.Tensor, size: tuple[int, int], kernel: Resampling) -> torch.Tensor:
    # NumPy takes a third of torch's time for this, and asks for no other threads.
    levels = (images.float().numpy() * LEVELS + 0.5).clip(0, LEVELS).astype(np.uint8)
    for target in (size[1], size[0]):
        lines = levels.reshape(-1, levels.shape[-1])
        filtered = np.asarray(Image.fromarray(lines).resize((target, len(lines)), kernel))
        levels = filtered.reshape(*levels.shape[:-1], target).swapaxes(-1, -2)
    return torch.from_numpy(levels.astype(np.float32)) / LEVELS


def _resize_by_matrices(
    images: torch.Tensor,
    size: tuple[int, int],
    kernel: Resampling,
    filter_lines: Callable[[torch.Tensor, int, Resampling], torch.Tensor],
) -> torch.Tensor:
    levels = filter_lines(_to_levels(images.float() * LEVELS), size[1], kernel)
    return filter_lines(levels.mT, size[0], kernel).mT.float() / LEVELS


def _filter_in_bands(levels: torch.Tensor, target: int, kernel: Resampling) -> torch.Tensor:
    """Resize the last axis, 8-bit levels ``(..., L)`` to ``(..., T)``, each output from the few pixels that it sees."""
    # Apple's GPUs have no double precision.
    precision = torch.float32 if levels.device.type == "mps" else torch.float64
    bands = _bands(levels.shape[-1], target, kernel, levels.device, precision)
    windows = levels.index_select(-1, bands.pixels).to(precision).flatten(0, -2)
    windows = windows.unflatten(1, bands.weights[0].shape[:2]).transpose(0, 1)  # (blocks, lines, window)
    filtered = _round_products([windows @ weights for weights in bands.weights])
    return filtered.transpose(0, 1).flatten(1)[:, :target].unflatten(0, levels.shape[:-1])


def _filter_whole(levels: torch.Tensor, target: int, kernel: Resampling) -> torch.Tensor:
    """Resize the last axis, 8-bit levels ``(..., L)`` to ``(..., T)``, by a matrix that is part of the graph."""
    high, low = filter_weights_in_single(levels.shape[-1], target, kernel, levels.device)
    # Autocast leaves double precision alone; runtimes of exported graphs may have none.
    if torch.is_autocast_enabled(levels.device.type):
        return _round_products([levels.double() @ (high.double() * HALF + low)])
    return _round_products([levels @ high, levels @ low])


class _Bands(NamedTuple):
    """Filter weights of one axis, whose filter reaches a few pixels only.

    A block of neighbouring output pixels is made from the window of input pixels that it sees.

    Attributes:
        pixels: Indices of the windows' pixels, ``(blocks * window)``.
        weights: Weights ``(blocks, window, BLOCK)``, in single precision in two halves, see :func:`split`.
    """

    pixels: torch.Tensor
    weights: list[torch.Tensor]


# The few sizes that a run meets; tables are built outside inference mode, as training may come to use them.
@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
def _bands(length: int, target: int, kernel: Resampling, device: torch.device, precision: torch.dtype) -> _Bands:
    outputs = torch.arange(0, target, BLOCK)[:, None] + torch.arange(BLOCK)
    outputs = outputs.clamp(max=target - 1)  # the last block repeats the last pixel
    stretch = max(length, target) / target
    window = min(length, int(((BLOCK - 1) * length / target) + 2 * REACH * stretch) + 2)
    first = ((outputs[:, 0] + 0.5) * length / target - REACH * stretch - 0.5).floor().long()
    pixels = first.clamp(0, length - window)[:, None] + torch.arange(window)
    weights = filter_weights(outputs[:, None, :], pixels[:, :, None], length, target, kernel, axis=1)
    parts = [weights] if precision == torch.float64 else split(weights)
    return _Bands(pixels.flatten().to(device), [part.to(device) for part in parts])


def _round_products(products: Sequence[torch.Tensor]) -> torch.Tensor:
    """Bring products of levels with weights, or with their halves, back to 8-bit levels, halves rounded up."""
    if len(products) == 1:
        return _to_levels(products[0] / FIXED_POINT)
    high, low = products
    return _to_levels((high + (low / HALF).floor()) / HALF)


def _to_levels(values: torch.Tensor) -> torch.Tensor:
    """Round halves up to 8-bit levels, as Pillow does."""
    return (values + 0.5).floor_().clamp_(0.0, LEVELS)
