# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Few-shot detection for any model on a frozen CLIP: its own verdict, and distances of patches to normal images'.

This is APRIL-GAN's way (Chen et al., https://arxiv.org/abs/2305.17382): raw patch tokens of several layers of the
frozen tower are kept, and each patch of an image is as far from normal as its nearest neighbour among them is.
VCP-CLIP, AnomalyCLIP, AdaCLIP and Crane describe nothing of the kind; how their verdicts and the distances are weighed
is this package's own.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from anomalib.data import InferenceBatch

from anomalib_clipzoo.clip import Backbone, VisionTower

from .maps import weighted_mean
from .references import REFERENCE_BLOCK, REFERENCE_WEIGHT, Reference, ReferenceMemory

Patches = Mapping[int, torch.Tensor]
"""Raw patch tokens ``(B, N, D)`` by image block, counted from 1."""


class PatchReferences(ReferenceMemory):
    """Raw patch tokens of normal images after several image blocks, and how they bear on maps and scores.

    Args:
        vision: The frozen image tower.
        layers: Image blocks whose patch tokens are kept, counted from 1.
        weight: Share of the references in maps and scores, 0..1.
        coreset_ratio: Share of the patches that is kept, see :class:`ReferenceMemory`.
        block: How many patches of references are compared at once.

    Raises:
        ValueError: If a layer does not exist.
    """

    def __init__(
        self,
        vision: VisionTower,
        layers: Sequence[int],
        weight: float = REFERENCE_WEIGHT,
        *,
        coreset_ratio: float | None = None,
        block: int = REFERENCE_BLOCK,
    ) -> None:
        layers = vision.check_layers(layers)
        patches = (vision.grid[0] * vision.grid[1], vision.width)
        super().__init__({kind_of(layer): patches for layer in layers}, coreset_ratio=coreset_ratio, block=block)
        self.layers = layers
        self.weight = weight

    @property
    def taps(self) -> tuple[int, ...]:
        """Image blocks whose patch tokens are wanted of a test image: none as long as there are no references."""
        return self.layers if len(self) else ()

    def layer_distances(self, patches: Patches, categories: Sequence[str | None]) -> torch.Tensor:
        """Compare each layer's patches with those of the references, wherever they are in the image.

        Args:
            patches: Patches of the images.
            categories: Whose references each image is compared with, as :meth:`resolve` says it, or one for all.

        Returns:
            Half of one minus the cosine to the closest, ``(K, B, N)``, 0..1.
        """
        return torch.stack([self.distances(kind_of(layer), patches[layer], categories) for layer in self.layers])

    def weigh_in(
        self,
        score: torch.Tensor,
        maps: torch.Tensor,
        patches: Patches,
        categories: Sequence[str | None],
        to_map: Callable[[torch.Tensor], torch.Tensor],
    ) -> InferenceBatch:
        """Bring in what the references say; where there are none, scores and maps stay as they are.

        The map is the weighted mean of the model's own and the patches' distances, averaged over layers; the score is
        that of the model's own and the largest distance.

        Args:
            score: The model's own scores ``(B,)``, 0..1.
            maps: Its own maps ``(B, H, W)``, 0..1.
            patches: Patches of the images.
            categories: Category of each image, or one for all.
            to_map: Brings values of patches ``(B, N)`` to maps, as the model does with its own.
        """
        if len(self):
            distances = self.layer_distances(patches, self.resolve(categories)).mean(dim=0)
            score = self.weigh(score, distances.amax(dim=1))
            maps = self.weigh(maps, to_map(distances))
        return InferenceBatch(pred_score=score, anomaly_map=maps)

    def weigh(self, own: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
        """Return the weighted mean of a model's own values and distances to the references, all 0..1."""
        return weighted_mean(own, distances, self.weight).clamp(0, 1)  # it rounds


class ComparesPatches:
    """A torch model whose references are patches of its frozen tower, as they leave the blocks."""

    backbone: Backbone
    references: PatchReferences

    def remember(self, images: torch.Tensor, references: Sequence[Reference]) -> None:
        """Make normal images ``(K, 3, H, W)`` references; they are normalised as test images are."""
        self.references.add(references, images, self._reference_features)

    def _reference_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        _, patches = tapped_patches(self.backbone.vision, images, self.references.layers)
        return {kind_of(layer): each for layer, each in patches.items()}


def tapped_patches(
    vision: VisionTower, images: torch.Tensor, layers: Sequence[int]
) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """Run the image tower on images ``(B, 3, H, W)``: image features ``(B, E)``, and patches after some blocks."""
    layers = sorted(set(layers))
    image, tokens = vision(images, layers)
    return image, {layer: each[:, 1:] for layer, each in zip(layers, tokens, strict=True)}


def kind_of(layer: int) -> str:
    """Name the features of a layer's patches."""
    return f"layer_{layer}"
