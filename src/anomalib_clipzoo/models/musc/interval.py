# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Interval average: which of the other images a patch's score is the mean over (paper, section 3.3)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

MANY = 10_000  # images; an interval that is empty among so many is empty among any number


class Interval(NamedTuple):
    """Which of the other images count, from the nearest to the farthest.

    Attributes:
        low: Where it begins: below 1 a share of the other images, from 1 a number of images; more than there are: all.
        high: Where it ends, likewise.
    """

    low: float = 0.0
    high: float = 0.3

    def places(self, others: int) -> tuple[int, int]:
        """Return the first place and the one after the last among ``others`` images in order of their distance."""
        first, last = sorted(_place(bound, others) for bound in self)
        return first, last

    def fits(self, others: int) -> bool:
        """Tell whether there is anything to average."""
        first, last = self.places(others)
        return first < last

    def smallest(self) -> int:
        """Return the smallest number of other images for which there is anything to average."""
        return next((others for others in range(MANY) if self.fits(others)), MANY)

    def check(self, others: int, category: str | None = None) -> None:
        """Make sure that there is something to average among so many other images.

        Raises:
            ValueError: If there are too few; the message says how many it takes.
        """
        if not self.fits(others):
            of_category = f" of category {category!r}" if category else ""
            least = self.smallest() + 1
            msg = (
                f"MuSc needs at least {least} images{of_category} that score each other, and has {others + 1} (the "
                f"interval {list(self)} of the other images is averaged): give more images, or a pool (pool_source)."
            )
            raise ValueError(msg)

    def mean_distance(self, similarity: torch.Tensor, others: int) -> torch.Tensor:
        """Average the distances of the images in the interval.

        Args:
            similarity: Largest product with a patch of each image, all of unit length, ``(..., N)``.
            others: Among how many images: N, or N - 1 where the image itself is one of them, as dissimilar as can be.

        Returns:
            Mean Euclidean distance, ``(...)``, 0..2.
        """
        first, last = self.places(others)
        nearest = similarity.topk(last, dim=-1, sorted=first > 0).values[..., first:]
        return (2 - 2 * nearest).clamp(min=0).sqrt().mean(dim=-1)


def make_interval(bounds: Sequence[float]) -> Interval:
    """Return an interval, or say what is wrong with it.

    Raises:
        ValueError: If it is not two bounds, each a share or a number of images, or is empty.
    """
    known = all(0 <= bound < 1 or bound % 1 == 0 <= bound for bound in bounds)
    if known and len(bounds) == 2 and Interval(*bounds).smallest() < MANY:
        return Interval(*bounds)
    msg = (
        f"interval {list(bounds)} must have two different bounds: shares of the other images below 1, or whole numbers "
        "of images from 1, such as [0, 0.3] or [0, 5]."
    )
    raise ValueError(msg)


def _place(bound: float, others: int) -> int:
    return min(int(bound), others) if bound >= 1 else int(others * bound)  # cut off, as the paper's code does
