# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The reference code's few-shot score: a map's maximum among those of all images of the category."""

from collections.abc import Mapping, Sequence

import torch

from anomalib_clipzoo.anomaly.references import ImageMemory, Reference

LIMITS = "limits"
NARROWEST = 1e-6  # where all maxima are equal, which in the reference code is 0/0


class MaximumRanges(ImageMemory):
    """The smallest and the largest maximum of the maps of each category, kept with the model's weights."""

    def __init__(self) -> None:
        super().__init__({LIMITS: (1, 2)})

    def keep(self, ranges: Mapping[str | None, tuple[float, float]]) -> None:
        """Keep the (smallest, largest) maximum of some categories."""
        limits = torch.tensor(list(ranges.values()), device=self.get_buffer(LIMITS).device).reshape(-1, 1, 2)
        self.remember([Reference(category, "") for category in ranges], {LIMITS: limits})

    def scale(self, maxima: torch.Tensor, categories: Sequence[str | None]) -> torch.Tensor:
        """Bring maxima ``(B,)`` to 0..1 in their categories' ranges; those of other categories stay as they are.

        Args:
            maxima: Largest value of each map, 0..1.
            categories: Category of each image, or one for all.
        """
        low, high = torch.stack([self._range(category) for category in categories]).to(maxima).unbind(dim=-1)
        return ((maxima - low) / (high - low).clamp(min=NARROWEST)).clamp(0, 1)

    def _range(self, category: str | None) -> torch.Tensor:
        limits = self.get_buffer(LIMITS)
        return self.features(LIMITS, category)[0, 0] if category in self.categories else limits.new_tensor([0.0, 1.0])
