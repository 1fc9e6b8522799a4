# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""From patch tokens of several layers to one score of each patch, whatever the patches are compared with."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch

from anomalib_clipzoo.anomaly.precision import without_autocast

from .interval import make_interval
from .mutual import DistancePrecision, compress, mutual_scores, pool_scores
from .neighborhood import aggregate, check_neighborhoods, standardize

Release = Literal["current", "first"]

AT_ONCE = 16  # images whose tokens are aggregated together


class PatchScoring:
    """The mean over layers and neighbourhoods of how far patches are from those of other images.

    Args:
        grid: Rows and columns of patches.
        r_list: Sides of the neighbourhoods over which patches are averaged, odd.
        interval: Which of the other images count, see :class:`.interval.Interval`.
        distance_precision: In what patches of a set are compared, see :func:`.mutual.compress`.
        release: "first" for the code before 22 March 2024, where single patches (r = 1) were not standardised.

    Raises:
        ValueError: If neighbourhoods, interval, distance_precision or release are unfit.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        r_list: Sequence[int],
        interval: Sequence[float],
        distance_precision: DistancePrecision,
        release: Release,
    ) -> None:
        choices = (("distance_precision", distance_precision, DistancePrecision), ("release", release, Release))
        for name, value, known in choices:
            if value not in get_args(known):
                msg = f"{name} must be one of {', '.join(get_args(known))}, not {value!r}."
                raise ValueError(msg)
        self.grid = grid
        self.r_list = check_neighborhoods(r_list, grid)
        self.interval = make_interval(interval)
        self.distance_precision: DistancePrecision = distance_precision
        self.release = release

    @property
    def stored(self) -> torch.dtype:
        """In what tokens are kept until all images of a set have been through the tower."""
        return torch.float32 if self.distance_precision == "float32" else torch.float16

    def aggregate(self, tokens: torch.Tensor, side: int) -> torch.Tensor:
        """Describe each patch with its neighbourhood (LNAMD; paper, section 3.2).

        Args:
            tokens: Patch tokens of one layer, ``(B, L, D)``.
            side: Side of the neighbourhood in patches.

        Returns:
            Features of unit length, ``(B, L, D)``, float32.
        """
        as_they_are = self.release == "first" and side == 1
        tokens = tokens.float() if as_they_are else standardize(tokens.float())
        return aggregate(tokens, side, self.grid)

    def within(self, patches: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
        """Score the patches of a set by the set itself (MSM; paper, section 3.3).

        Args:
            patches: Patch tokens of each layer, ``(N, L, D)``, wherever they are kept.
            device: Where they are compared.

        Returns:
            Half of the mean distance, ``(N, L)``, 0..1.
        """
        with without_autocast(device):
            maps = [
                mutual_scores(self._comparable(layer, side, device), self.interval)
                for layer in patches
                for side in self.r_list
            ]
        return torch.stack(maps).mean(dim=0) / 2

    def against(
        self,
        patches: Sequence[torch.Tensor],
        pool: Sequence[torch.Tensor],
        own: torch.Tensor | None,
    ) -> torch.Tensor:
        """Score the patches of images by those of a pool's images.

        Args:
            patches: Patch tokens of each layer, ``(B, L, D)``.
            pool: Those of the pool's images, ``(P, L, D)``.
            own: Which image of the pool is the very image that is scored, see :func:`.mutual.pool_scores`.

        Returns:
            Half of the mean distance, ``(B, L)``, 0..1.
        """
        with without_autocast(patches[0].device):
            maps = [
                pool_scores(self.aggregate(tokens, side), self.aggregate(others, side), self.interval, own)
                for tokens, others in zip(patches, pool, strict=True)
                for side in self.r_list
            ]
        return torch.stack(maps).mean(dim=0) / 2

    def _comparable(self, tokens: torch.Tensor, side: int, device: torch.device) -> torch.Tensor:
        """Aggregate and compress the tokens ``(N, L, D)`` of a whole set."""
        batches = [self.aggregate(batch.to(device), side) for batch in tokens.split(AT_ONCE)]
        return torch.cat([compress(features, self.distance_precision) for features in batches])
