# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""APRIL-GAN as a PyTorch module: linear layers on patch tokens, and a memory of a few normal images.

Report: Chen et al., "A zero-/few-shot anomaly classification and segmentation method for CVPR 2023 VAND workshop
challenge tracks 1&2", https://arxiv.org/abs/2305.17382. Nothing in it is adversarial: the name is the team's.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import nn

from anomalib_clipzoo.anomaly.class_names import TakesClassNames
from anomalib_clipzoo.anomaly.maps import PatchMaps, abnormal_logit
from anomalib_clipzoo.anomaly.patch_references import ComparesPatches, Patches, PatchReferences, kind_of, tapped_patches
from anomalib_clipzoo.anomaly.precision import compare, unit
from anomalib_clipzoo.anomaly.projections import PatchProjections
from anomalib_clipzoo.anomaly.prompts import (
    ADACLIP_ABNORMAL_STATES,
    APRIL_GAN_TEMPLATES,
    DEFAULT_CLASS_NAME,
    NORMAL_STATES,
    StateEnsemble,
    average_states,
    check_count,
)
from anomalib_clipzoo.anomaly.references import REFERENCE_BLOCK, Reference
from anomalib_clipzoo.anomaly.text_cache import TextCache
from anomalib_clipzoo.clip import Backbone

from .ranges import MaximumRanges

TEMPERATURE = 0.01  # a constant: CLIP's own learned scale is not used
SENTENCE_BATCH = 256  # sentences encoded at once, which bounds the memory


class Features(NamedTuple):
    """What CLIP says about a batch of images.

    Attributes:
        image: Features of the whole images in the joint space, ``(B, E)``.
        patches: Raw patch tokens after each layer asked for, each ``(B, N, D)``.
    """

    image: torch.Tensor
    patches: Patches


class AprilGanModel(TakesClassNames, ComparesPatches, nn.Module):
    """APRIL-GAN: a frozen CLIP whose patch tokens are projected to where its sentences about a class are.

    As soon as there are reference images, patches are compared with theirs as well.

    Args:
        backbone: The frozen CLIP.
        layers: Image blocks whose patch tokens are projected and compared with the texts, counted from 1.
        reference_layers: Image blocks whose patch tokens are compared with those of references; ``None`` for the same.
        normal_states: Normal states, each with one ``{}`` for the class name.
        abnormal_states: Abnormal states.
        templates: Sentences with one ``{}`` for the object in its state.
        temperature: What cosines with texts are divided by before the softmax.
        reference_weight: Share of the references in the map, 0..1; ``None`` for the reference code's, which adds up
            layers and distances of 0..2: two thirds with as many layers for both.
        coreset_ratio: Share of the references' positions that is kept; ``None`` for all.
        reference_block: How many positions of references are compared at once, which bounds the memory.
        sigma: Gaussian smoothing of the map in pixels.

    Raises:
        ValueError: If layers or words do not fit the backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        layers: Sequence[int] = (6, 12, 18, 24),
        reference_layers: Sequence[int] | None = None,
        normal_states: Sequence[str] = NORMAL_STATES,
        abnormal_states: Sequence[str] = ADACLIP_ABNORMAL_STATES,
        templates: Sequence[str] = APRIL_GAN_TEMPLATES,
        temperature: float = TEMPERATURE,
        reference_weight: float | None = None,
        coreset_ratio: float | None = None,
        reference_block: int = REFERENCE_BLOCK,
        sigma: float = 0.0,
    ) -> None:
        super().__init__()
        vision = backbone.vision
        self.backbone = backbone
        self.layers = vision.check_layers(layers)
        reference_layers = self.layers if reference_layers is None else reference_layers
        if reference_weight is None:
            text, references = len(self.layers), 2 * len(set(reference_layers))
            reference_weight = references / (text + references)
        self.ensemble = StateEnsemble(normal_states, abnormal_states, templates)
        self.temperature = temperature
        self.check_class_names([DEFAULT_CLASS_NAME])
        self.patch_projections = PatchProjections(len(self.layers), vision.width, backbone.embed_dim)
        self.references = PatchReferences(
            vision, reference_layers, reference_weight, coreset_ratio=coreset_ratio, block=reference_block
        )
        self.ranges = MaximumRanges()
        self.maps = PatchMaps(vision, sigma, align_corners=True)
        self._texts = TextCache()

    # ---- text ----

    def sentences_about(self, class_name: str) -> list[str]:
        """Write all sentences about a class, those of the normal states first."""
        return self.ensemble.all_sentences(class_name)

    def encode_text(self, class_name: str) -> torch.Tensor:
        """Text features of (normal, abnormal) of a class, unit length, ``(2, E)``: each the mean of its sentences."""
        text = self.backbone.text
        ids = text.tokenize(self.sentences_about(class_name))
        features = torch.cat([text(part) for part in ids.split(SENTENCE_BATCH)])
        return average_states(features, self.ensemble.counts)

    def text_features(self, class_names: Sequence[str]) -> torch.Tensor:
        """Return the text features of several classes, ``(C, 2, E)``; each is encoded once and kept."""
        encode = self.encode_text
        return torch.stack(
            self._texts.lookup(class_names, [self.backbone.text], lambda names: [encode(name) for name in names])
        )

    # ---- images ----

    def image_features(self, images: torch.Tensor, layers: Sequence[int]) -> Features:
        """Run the image tower on images ``(B, 3, H, W)``, once for all layers asked for."""
        return Features(*tapped_patches(self.backbone.vision, images, layers))

    def frozen_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the frozen image tower on images ``(B, 3, H, W)`` for patches of the projected layers ``(B, N, D)``."""
        patches = self.image_features(images, self.layers).patches
        return {kind_of(layer): patches[layer] for layer in self.layers}

    def logits(self, patches: Mapping[int, torch.Tensor], text_features: torch.Tensor) -> torch.Tensor:
        """Compare each layer's projected patches with text ``(B or 1, 2, E)``: logits of an anomaly, ``(K, B, N)``."""
        projected = self.patch_projections(patches[layer] for layer in self.layers)
        return abnormal_logit(compare(projected / self.temperature, text_features))

    def layer_maps(self, images: torch.Tensor, class_names: Sequence[str] = (DEFAULT_CLASS_NAME,)) -> torch.Tensor:
        """Compute what training compares with the truth.

        Args:
            images: Normalised images, ``(B, 3, H, W)``.
            class_names: Name of what each image shows, or one for all.

        Returns:
            Probability of an anomaly for each layer and pixel, ``(K, B, H, W)``.
        """
        return self.layer_maps_of(self.frozen_features(images), class_names)

    def layer_maps_of(self, features: Mapping[str, torch.Tensor], class_names: Sequence[str]) -> torch.Tensor:
        """Do what is learned on the image tower's features: all of :meth:`layer_maps` but the tower itself."""
        patches = {layer: features[kind_of(layer)] for layer in self.layers}
        return self._probabilities(self.logits(patches, self.text_features(class_names)))

    def _probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return self.maps.upsample(logits).sigmoid()

    # ---- references ----

    def remember(self, images: torch.Tensor, references: Sequence[Reference]) -> None:
        """Make normal images ``(K, 3, H, W)`` references; they are normalised as test images are."""
        super().remember(images, references)
        self.ranges.forget({reference.category for reference in references})  # those of maps with other references

    # ---- all of it ----

    def forward(
        self,
        images: torch.Tensor,
        class_names: Sequence[str] = (DEFAULT_CLASS_NAME,),
        categories: Sequence[str | None] = (None,),
    ) -> InferenceBatch:
        """Detect and segment anomalies.

        Args:
            images: Normalised images, ``(B, 3, H, W)``.
            class_names: Name of what each image shows, or one for all.
            categories: Whose references each image is compared with, or one for all.

        Returns:
            Image scores ``(B,)`` and anomaly maps ``(B, H, W)``, all 0..1. The map is the mean over layers. The score
            is that of the image feature against the texts; with references, its mean with the map's maximum, in the
            category's range where ``ranges`` has one.
        """
        check_count(class_names, images, "class names")
        check_count(categories, images, "categories")
        few_shot = len(self.references) > 0
        features = self.image_features(images, (*self.layers, *self.references.taps))
        text = self.text_features(class_names)
        image = compare(unit(features.image)[:, None], text)
        score = (abnormal_logit(image) / self.temperature)[:, 0].sigmoid()
        maps = self._probabilities(self.logits(features.patches, text)).mean(dim=0)
        if not few_shot:
            return InferenceBatch(pred_score=score, anomaly_map=self.maps.smooth(maps))
        categories = self.references.resolve(categories)
        distances = self.references.layer_distances(features.patches, categories)
        maps = self.references.weigh(maps, self.maps.upsample(distances.mean(dim=0, keepdim=True))[0])
        maps = self.maps.smooth(maps)
        maxima = self.ranges.scale(maps.amax(dim=(1, 2)), categories)
        return InferenceBatch(pred_score=(score + maxima) / 2, anomaly_map=maps)
