# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What the image tower says about many images, batch by batch."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch

Load = Callable[[Sequence[int]], Iterable[tuple[Sequence[int], torch.Tensor]]]
"""Takes numbers of images; returns batches: their numbers and the images, normalised, ``(B, 3, H, W)``."""

TOWER_BATCH = 4  # images that go through the tower together where nobody says how many


class Features(NamedTuple):
    """What the image tower says about images.

    Attributes:
        image: CLIP's image features, unit length, ``(B, E)``.
        patches: Patch tokens of each layer as they leave the block, ``(B, L, D)``.
    """

    image: torch.Tensor
    patches: list[torch.Tensor]


def batches_of(images: torch.Tensor) -> Load:
    """Return what loads images ``(N, 3, H, W)`` that are in memory."""

    def load(numbers: Sequence[int]) -> Iterable[tuple[Sequence[int], torch.Tensor]]:
        for begin in range(0, len(numbers), TOWER_BATCH):
            members = list(numbers[begin : begin + TOWER_BATCH])
            yield members, images[members]

    return load


def collect(
    encode: Callable[[torch.Tensor], Features],
    load: Load,
    numbers: Sequence[int],
) -> tuple[list[int], Features]:
    """Encode images one batch after the other; the tokens wait in the processor's memory.

    Args:
        encode: Runs the image tower on a batch.
        load: Loads some of the images by their numbers, and may leave some out.
        numbers: Which images.

    Returns:
        The numbers of the images that were loaded, and their features.

    Raises:
        ValueError: If no image was loaded, or one has features that are not finite.
    """
    loaded: list[int] = []
    image: list[torch.Tensor] = []
    patches: list[torch.Tensor] = []
    for members, images in load(numbers):
        batch = encode(images)
        _check_finite(batch, members)
        if not patches:
            patches = [layer.new_empty(len(numbers), *layer.shape[1:], device="cpu") for layer in batch.patches]
        for kept, layer in zip(patches, batch.patches, strict=True):
            kept[len(loaded) : len(loaded) + len(members)] = layer
        image.append(batch.image)
        loaded += members
    if not loaded:
        msg = f"None of {len(numbers)} images can be read."
        raise ValueError(msg)
    return loaded, Features(torch.cat(image), [layer[: len(loaded)] for layer in patches])


def _check_finite(batch: Features, numbers: Sequence[int]) -> None:
    finite = batch.image.isfinite().all(dim=1)
    for layer in batch.patches:
        finite &= layer.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        number = numbers[int(finite.int().argmin())]
        msg = f"Image number {number} has features that are not finite, which spoil the scores of all: leave it out."
        raise ValueError(msg)
