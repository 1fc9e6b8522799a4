# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AnomalyCLIP as a PyTorch module: object-agnostic prompts for zero-shot anomaly detection.

Paper: Zhou et al., "AnomalyCLIP: Object-agnostic prompt learning for zero-shot anomaly detection", ICLR 2024,
https://arxiv.org/abs/2310.18961. Where paper and published code differ, this follows the code.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import nn

from anomalib_clipzoo.anomaly.maps import PatchMaps, abnormal_logit
from anomalib_clipzoo.anomaly.patch_references import ComparesPatches, Patches, PatchReferences
from anomalib_clipzoo.anomaly.precision import compare, unit
from anomalib_clipzoo.anomaly.prompts import check_count
from anomalib_clipzoo.anomaly.references import REFERENCE_BLOCK, REFERENCE_WEIGHT
from anomalib_clipzoo.anomaly.text_cache import TextCache
from anomalib_clipzoo.clip import Backbone

from .dual_path import DualPath, LocalAttention
from .prompting import (
    ABNORMAL_WORDS,
    CLASS_NAME,
    DEPTH,
    N_CTX,
    NORMAL_WORDS,
    T_N_CTX,
    ImageToken,
    ObjectAgnosticPrompts,
)

SIGMA = 4.0  # pixels of 518
TEMPERATURE = 0.07  # constant; CLIP's own logit scale is not used


class ImageFeatures(NamedTuple):
    """What is compared with the texts, all of unit length, and with references.

    Attributes:
        image: Features of the images, ``(B, E)``.
        patches: Features of the patches after each layer, ``(K, B, N, E)``.
        own: Raw patch tokens of CLIP's own stream, ``(B, N, D)`` by layer; none without references.
    """

    image: torch.Tensor
    patches: torch.Tensor
    own: Patches = MappingProxyType({})

    @classmethod
    def of_frozen(cls, frozen: Mapping[str, torch.Tensor]) -> "ImageFeatures":
        """Take what :meth:`AnomalyClipModel.frozen_features` returned."""
        return cls(frozen["image"], frozen["patches"].transpose(0, 1))


class Similarities(NamedTuple):
    """How much images and patches are like the texts.

    Attributes:
        image: Logits of (normal, abnormal) for each image, ``(B, 2)``.
        patches: Logits of an anomaly for each layer and patch, ``(K, B, N)``.
    """

    image: torch.Tensor
    patches: torch.Tensor


class AnomalyClipModel(ComparesPatches, nn.Module):
    """AnomalyCLIP: a frozen CLIP, two learned prompts for any object, and a local stream beside the image tower.

    Args:
        backbone: The frozen CLIP.
        layers: Image blocks after which the local stream is compared with the texts, counted from 1; ``None`` for the
            last alone.
        dpam_layer: Where the local stream begins, see :class:`~.dual_path.DualPath`; ``None`` for 20 of 24.
        local_attention: What attends to its own kind there: values, queries or keys.
        normal_states: States of things in order, averaged.
        abnormal_states: States of things with an anomaly, averaged.
        class_name: The word for any object.
        n_ctx: Number of learned words in a prompt.
        depth: How many blocks of the text tower get learned tokens, the first one's words included.
        t_n_ctx: Number of learned tokens in a block.
        half_prompts: Whether those pass through half precision, as in the reference code.
        image_token: Where an image's feature goes in prompts that are made for it, see
            :class:`~.prompting.ObjectAgnosticPrompts`; AnomalyCLIP's own see no image.
        sigma: Gaussian smoothing of the map in pixels; ``None`` for 4 of 518, scaled by height.
        reference_layers: Image blocks after which patches of CLIP's own stream are compared with those of references;
            ``None`` for ``layers``.
        reference_weight: Share of the references in map and score, 0..1.
        coreset_ratio: Share of the references' positions that is kept; ``None`` for all.
        reference_block: How many positions of references are compared at once, which bounds the memory.

    Raises:
        ValueError: If layers or prompts do not fit the backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        layers: Sequence[int] | None = None,
        dpam_layer: int | None = None,
        local_attention: LocalAttention = "vv",
        normal_states: Sequence[str] = NORMAL_WORDS,
        abnormal_states: Sequence[str] = ABNORMAL_WORDS,
        class_name: str = CLASS_NAME,
        n_ctx: int = N_CTX,
        depth: int = DEPTH,
        t_n_ctx: int = T_N_CTX,
        half_prompts: bool = True,
        image_token: ImageToken = "none",
        sigma: float | None = None,
        reference_layers: Sequence[int] | None = None,
        reference_weight: float = REFERENCE_WEIGHT,
        coreset_ratio: float | None = None,
        reference_block: int = REFERENCE_BLOCK,
    ) -> None:
        super().__init__()
        vision = backbone.vision
        self.backbone = backbone
        self.dual_path = DualPath(vision, layers, dpam_layer, local_attention)
        self.prompts = ObjectAgnosticPrompts(
            backbone.text,
            normal_states=normal_states,
            abnormal_states=abnormal_states,
            class_name=class_name,
            n_ctx=n_ctx,
            depth=depth,
            t_n_ctx=t_n_ctx,
            half_prompts=half_prompts,
            image_token=image_token,
        )
        self.maps = PatchMaps(vision, sigma, paper_sigma=SIGMA, align_corners=False)
        self.references = PatchReferences(
            vision,
            self.dual_path.layers if reference_layers is None else reference_layers,
            reference_weight,
            coreset_ratio=coreset_ratio,
            block=reference_block,
        )
        self._texts = TextCache()

    def encode_text(self) -> torch.Tensor:
        """Text features of (normal, abnormal) for any image, unit length, ``(2, E)``."""
        return self.prompts(self.backbone.text)[0]

    def image_features(self, images: torch.Tensor, taps: Sequence[int] = ()) -> ImageFeatures:
        """Run both streams of the image tower on images ``(B, 3, H, W)``, and tap CLIP's own after some blocks."""
        vision = self.backbone.vision
        class_token, local, own = self.dual_path(vision, images, taps)
        # As in the reference code, the image feature goes without CLIP's last LayerNorm, patches do not.
        return ImageFeatures(
            unit(class_token.to(vision.projection.dtype) @ vision.projection), self.project_patches(local), own
        )

    def project_patches(self, local: Sequence[torch.Tensor]) -> torch.Tensor:
        """Bring each layer's local stream ``(B, 1 + N, D)`` to the text: unit length, ``(K, B, N, E)``."""
        projected = [self.backbone.vision.project(layer[:, 1:]) for layer in local]
        return unit(torch.stack(projected))

    def frozen_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the features of images ``(B, 3, H, W)``, none of which is learned, batch first."""
        image, patches, _ = self.image_features(images)
        return {"image": image, "patches": patches.transpose(0, 1)}

    def compare(self, features: ImageFeatures, text_features: torch.Tensor) -> Similarities:
        """Compare images and their patches with text features, ``(2, E)`` or one pair for each image ``(B, 2, E)``."""
        text_features = text_features / TEMPERATURE
        patches = abnormal_logit(compare(features.patches, text_features))
        image = compare(self.image_embedding(features, patches)[:, None], text_features)
        return Similarities(image[:, 0], patches)

    def image_embedding(self, features: ImageFeatures, patches: torch.Tensor) -> torch.Tensor:
        """Return what stands for each image ``(B, E)``: its own feature, whatever the patches' logits say."""
        del patches
        return features.image

    def layer_maps(self, patches: torch.Tensor) -> torch.Tensor:
        """Bring logits of patches ``(K, B, N)`` to the image's resolution as probabilities: ``(K, B, H, W)``."""
        return self.maps.upsample(patches.sigmoid())

    def fuse(self, patches: torch.Tensor) -> torch.Tensor:
        """Make one map ``(B, H, W)`` of all layers' logits ``(K, B, N)``: the mean of their probabilities, smoothed."""
        return self.maps(patches.sigmoid().mean(dim=0))

    def forward(self, images: torch.Tensor, categories: Sequence[str | None] = (None,)) -> InferenceBatch:
        """Detect and segment anomalies.

        Args:
            images: Normalised images, ``(B, 3, H, W)``.
            categories: Whose references each image is compared with, or one for all.

        Returns:
            Image scores ``(B,)`` and anomaly maps ``(B, H, W)``, all 0..1. The score is the global one alone; the map
            is the mean over layers, smoothed. References weigh in on both.
        """
        check_count(categories, images, "categories")
        features = self.image_features(images, self.references.taps)
        image, patches = self.compare(features, self.text_features_for(features))
        score, maps = abnormal_logit(image).sigmoid(), self.fuse(patches)
        return self.references.weigh_in(score, maps, features.own, categories, self.maps)

    # ---- text features, once per set of prompts ----

    def text_features_for(self, features: ImageFeatures) -> torch.Tensor:
        """Text features that images are compared with: the same for all, ``(2, E)``."""
        del features
        if self.training:
            return self.encode_text()
        (text,) = self._texts.lookup(["any object"], [self.backbone.text, self.prompts], lambda _: [self.encode_text()])
        return text
