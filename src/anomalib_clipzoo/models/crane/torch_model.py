# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Crane as a PyTorch module: AnomalyCLIP with prompts that see the image and an image score that sees the patches.

Paper: Salehi et al., "Crane: Context-guided prompt learning and attention refinement for zero-shot anomaly detection",
2025, https://arxiv.org/abs/2504.11055; here without DINO. Where paper and published code differ, this follows the code.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn import functional

from anomalib_clipzoo.anomaly.precision import compare, unit
from anomalib_clipzoo.anomaly.references import REFERENCE_BLOCK, REFERENCE_WEIGHT
from anomalib_clipzoo.clip import Backbone
from anomalib_clipzoo.models.anomaly_clip.dual_path import LocalAttention
from anomalib_clipzoo.models.anomaly_clip.prompting import (
    ABNORMAL_WORDS,
    CLASS_NAME,
    DEPTH,
    N_CTX,
    NORMAL_WORDS,
    T_N_CTX,
    ImageToken,
)
from anomalib_clipzoo.models.anomaly_clip.torch_model import AnomalyClipModel, ImageFeatures

POOLED_SHARE = 0.5  # of the patches in what stands for an image; the reference code

Upsampling = Literal["nearest", "bilinear"]


class CraneModel(AnomalyClipModel):
    """Crane, as what it adds to :class:`~anomalib_clipzoo.models.anomaly_clip.AnomalyClipModel`.

    The local stream sums three attentions (E-Attn), the image's feature is one more word of the prompts, and the image
    score is that of the image's feature mixed with the patches', weighted by how anomalous they are.

    Args:
        backbone: The frozen CLIP.
        layers: Image blocks after which the local stream is compared with the texts, counted from 1; ``None`` for the
            last alone.
        dpam_layer: Where the local stream begins, see
            :class:`~anomalib_clipzoo.models.anomaly_clip.dual_path.DualPath`; ``None`` for 20 of 24.
        local_attention: What attends to its own kind there.
        normal_states: States of things in order, averaged.
        abnormal_states: States of things with an anomaly, averaged.
        class_name: The word for any object.
        n_ctx: Number of learned words in a prompt.
        depth: How many blocks of the text tower get learned tokens, the first one's words included.
        t_n_ctx: Number of learned tokens in a block.
        half_prompts: Whether those pass through half precision, as in the reference code.
        image_token: Where the image's feature goes in the prompts, see
            :class:`~anomalib_clipzoo.models.anomaly_clip.prompting.ObjectAgnosticPrompts`.
        image_token_at_test: Whether prompts see the image outside training, too.
        scorebase_pooling: Whether patches have a say in what stands for the image.
        soft_mean: Whether layers' probabilities are averaged; otherwise their logits are, before the softmax.
        upsampling: How the maps come to the image's resolution in training: "nearest", a block for each patch, or
            "bilinear".
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
        local_attention: LocalAttention = "qq+kk+vv",
        normal_states: Sequence[str] = NORMAL_WORDS,
        abnormal_states: Sequence[str] = ABNORMAL_WORDS,
        class_name: str = CLASS_NAME,
        n_ctx: int = N_CTX,
        depth: int = DEPTH,
        t_n_ctx: int = T_N_CTX,
        half_prompts: bool = True,
        image_token: ImageToken = "pad_suffix",
        image_token_at_test: bool = False,
        scorebase_pooling: bool = True,
        soft_mean: bool = True,
        upsampling: Upsampling = "nearest",
        sigma: float | None = None,
        reference_layers: Sequence[int] | None = None,
        reference_weight: float = REFERENCE_WEIGHT,
        coreset_ratio: float | None = None,
        reference_block: int = REFERENCE_BLOCK,
    ) -> None:
        super().__init__(
            backbone,
            layers=layers,
            dpam_layer=dpam_layer,
            local_attention=local_attention,
            normal_states=normal_states,
            abnormal_states=abnormal_states,
            class_name=class_name,
            n_ctx=n_ctx,
            depth=depth,
            t_n_ctx=t_n_ctx,
            half_prompts=half_prompts,
            image_token=image_token,
            sigma=sigma,
            reference_layers=reference_layers,
            reference_weight=reference_weight,
            coreset_ratio=coreset_ratio,
            reference_block=reference_block,
        )
        self.image_token_at_test = image_token_at_test and image_token != "none"
        self.scorebase_pooling = scorebase_pooling
        self.soft_mean = soft_mean
        self.upsampling = upsampling

    def image_features(self, images: torch.Tensor, taps: Sequence[int] = ()) -> ImageFeatures:
        """Run both streams of the image tower on images ``(B, 3, H, W)``; the image feature is CLIP's own."""
        vision = self.backbone.vision
        class_token, local, own = self.dual_path(vision, images, taps)
        return ImageFeatures(unit(vision.project(class_token)), self.project_patches(local), own)

    def encode_text_for(self, features: ImageFeatures) -> torch.Tensor:
        """Text features of (normal, abnormal) from prompts that see each image, unit length, ``(B, 2, E)``."""
        return self.prompts(self.backbone.text, features.image)

    def text_features_for(self, features: ImageFeatures) -> torch.Tensor:
        """Text features that images are compared with: the same for all, or a pair for each."""
        return self.encode_text_for(features) if self.image_token_at_test else super().text_features_for(features)

    def pool(self, features: ImageFeatures, patches: torch.Tensor) -> torch.Tensor:
        """Average each image's patches, weighted by how anomalous they are (score-base pooling).

        Args:
            features: Features of images and patches.
            patches: Logits of an anomaly for each layer and patch, ``(K, B, N)``.

        Returns:
            Unit length, ``(B, E)``.
        """
        weights = patches.mean(dim=0).sigmoid()
        pooled = compare(weights[:, None], features.patches.mean(dim=0).transpose(1, 2))
        return unit(pooled[:, 0])

    def image_embedding(self, features: ImageFeatures, patches: torch.Tensor) -> torch.Tensor:
        """Return what stands for each image, unit length ``(B, E)``: its feature, mixed with its pooled patches."""
        if not self.scorebase_pooling:
            return features.image
        mixed = POOLED_SHARE * self.pool(features, patches) + (1 - POOLED_SHARE) * features.image
        return unit(mixed)

    def layer_maps(self, patches: torch.Tensor) -> torch.Tensor:
        """Bring logits of patches ``(K, B, N)`` to probabilities at the image's resolution, as training compares them.

        Returns:
            ``(K, B, H, W)``.
        """
        if self.upsampling == "bilinear":
            return super().layer_maps(patches)
        maps = self.maps
        return functional.interpolate(patches.sigmoid().unflatten(-1, maps.grid), maps.size, mode="nearest")

    def fuse(self, patches: torch.Tensor) -> torch.Tensor:
        """Make one smoothed map ``(B, H, W)`` of all layers' logits ``(K, B, N)``."""
        if self.soft_mean:
            return super().fuse(patches)
        return self.maps.smooth(self.maps.upsample(patches.mean(dim=0, keepdim=True))[0].sigmoid())
