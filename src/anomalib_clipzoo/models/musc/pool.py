# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Images that stay, for single images to be compared with."""

from collections.abc import Sequence

import torch

from anomalib_clipzoo.anomaly.references import ImageMemory, Reference
from anomalib_clipzoo.clip import Backbone

from .features import Features
from .mutual import FARTHEST
from .rescoring import windowed_mean

IMAGE, SCORE = "image", "score"  # what a pool keeps of an image beside its tokens


class Pool(ImageMemory):
    """Tokens, image features and scores of a pool's images, by category.

    Args:
        backbone: The frozen CLIP.
        layers: Image blocks whose patch tokens are kept, counted from 1.
    """

    def __init__(self, backbone: Backbone, layers: Sequence[int]) -> None:
        vision = backbone.vision
        self.layer_kinds = tuple(f"layer_{layer}" for layer in layers)
        patches = dict.fromkeys(self.layer_kinds, (vision.grid[0] * vision.grid[1], vision.width))
        super().__init__({**patches, IMAGE: (1, backbone.embed_dim), SCORE: (1, 1)})

    def keep(self, images: Sequence[Reference], features: Features, scores: torch.Tensor) -> None:
        """Keep images in place of those that their categories had, with their scores among each other, ``(P,)``."""
        kept = dict(zip(self.layer_kinds, features.patches, strict=True))
        kept |= {IMAGE: features.image[:, None], SCORE: scores[:, None, None]}
        self.remember(images, {kind: values.to(scores.device) for kind, values in kept.items()})

    def tokens(self, category: str | None) -> list[torch.Tensor]:
        """Return the patch tokens of a category's images for each layer, ``(P, L, D)``."""
        return [self.features(kind, category) for kind in self.layer_kinds]

    def own(self, category: str | None, paths: Sequence[str]) -> torch.Tensor | None:
        """Tell where an image of the pool is the very image that is scored, ``(B, P)``; ``None`` if that is nowhere."""
        pool = self.paths(category)
        if set(pool).isdisjoint(paths):
            return None
        return torch.tensor([[path == other for other in pool] for path in paths], device=self.get_buffer(SCORE).device)

    def rescore(
        self,
        scores: torch.Tensor,
        image: torch.Tensor,
        category: str | None,
        own: torch.Tensor | None,
        windows: Sequence[int],
    ) -> torch.Tensor:
        """Average each score over the image itself and the images of the pool that look most alike (RsCIN).

        Args:
            scores: Score of each image, ``(B,)``.
            image: CLIP's image features of unit length, ``(B, E)``.
            category: Whose pool.
            own: See :meth:`own`.
            windows: How many images a mean is over, see :func:`.rescoring.rescore`.
        """
        if not windows:
            return scores
        similarity = image @ self.features(IMAGE, category)[:, 0].T
        if own is not None:
            similarity = similarity.masked_fill(own, FARTHEST)
        nearest = similarity.topk(min(windows[-1] - 1, similarity.shape[1]))
        others = self.features(SCORE, category)[:, 0, 0][nearest.indices]
        weights = torch.cat([torch.ones_like(scores)[:, None], nearest.values], dim=1)
        return windowed_mean(weights, torch.cat([scores[:, None], others], dim=1), windows)
