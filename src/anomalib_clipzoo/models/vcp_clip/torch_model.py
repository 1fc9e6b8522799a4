# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""VCP-CLIP as a PyTorch module: visual context prompting for zero-shot anomaly segmentation.

Paper: Qu et al., "VCP-CLIP: A visual context prompting model for zero-shot anomaly segmentation", ECCV 2024,
https://arxiv.org/abs/2407.12276. Where paper and published code differ, this follows the code.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import nn

from anomalib_clipzoo.anomaly.maps import PAPER_SIZE, PatchMaps, abnormal_logit, top_mean
from anomalib_clipzoo.anomaly.patch_references import ComparesPatches, Patches, PatchReferences, tapped_patches
from anomalib_clipzoo.anomaly.precision import compare, unit
from anomalib_clipzoo.anomaly.projections import PatchProjections
from anomalib_clipzoo.anomaly.prompts import check_count
from anomalib_clipzoo.anomaly.references import REFERENCE_BLOCK, REFERENCE_WEIGHT
from anomalib_clipzoo.clip import Backbone

from .post_vcp import PostVcp, inverse_temperature
from .prompting import DeepTextPrompts, GappedSentences, PreVcp, encode_gapped

NORMAL_PROMPTS = ("a photo of a good {}",)
ABNORMAL_PROMPTS = ("a photo of a damaged {}",)
TOP_PIXELS = 2000  # of 518 x 518
SIGMA = 8.0  # pixels of 518

Branch = Literal["fused", "base", "post"]


class LayerMaps(NamedTuple):
    """Probability of an anomaly per layer and pixel, each ``(K, B, H, W)``, 0..1; ``None`` for a branch that is off.

    Attributes:
        base: The base branch: projected patches against the text features.
        post: The Post-VCP branch: raw patches against text features that have seen them.
    """

    base: torch.Tensor | None
    post: torch.Tensor | None


class VcpClipModel(ComparesPatches, nn.Module):
    """VCP-CLIP: a frozen CLIP, prompts that know the image, and two anomaly maps.

    Args:
        backbone: The frozen CLIP.
        layers: Image blocks whose patch tokens are used, counted from 1.
        prompt_len: Number r of context vectors in place of the product's name.
        deep_prompt_len: Number n of learned tokens in each block of the text tower; 0 goes without (no DTP).
        use_global: Whether the context vectors depend on the image (Pre-VCP).
        branch: Which maps are made: both, fused (``"fused"``), or one alone (``"base"``, ``"post"``).
        base_weight: Weight of the base map in the fused one; the Post-VCP map has the rest.
        normal_prompts: Sentences for the normal state; ``{}`` is where the context vectors go.
        abnormal_prompts: Sentences for the abnormal state.
        test_normal_prompts: Other sentences for testing (the paper's text; its code tests with those of training).
        test_abnormal_prompts: Other sentences for testing.
        top_pixels: How many of the largest pixels make the image score; ``None``: 2,000 of 518 x 518, scaled by area.
        sigma: Gaussian smoothing of the map in pixels; ``None`` for 8 of 518, scaled by height.
        reference_layers: Image blocks whose patch tokens are compared with those of references; ``None``: ``layers``.
        reference_weight: Share of the references in map and score, 0..1.
        coreset_ratio: Share of the references' positions that is kept; ``None`` for all.
        reference_block: How many positions of references are compared at once, which bounds the memory.

    Raises:
        ValueError: If layers, prompts or widths do not fit the backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        layers: Sequence[int] = (6, 12, 18, 24),
        prompt_len: int = 2,
        deep_prompt_len: int = 1,
        use_global: bool = True,
        branch: Branch = "fused",
        base_weight: float = 0.2,
        normal_prompts: Sequence[str] = NORMAL_PROMPTS,
        abnormal_prompts: Sequence[str] = ABNORMAL_PROMPTS,
        test_normal_prompts: Sequence[str] | None = None,
        test_abnormal_prompts: Sequence[str] | None = None,
        top_pixels: int | None = None,
        sigma: float | None = None,
        reference_layers: Sequence[int] | None = None,
        reference_weight: float = REFERENCE_WEIGHT,
        coreset_ratio: float | None = None,
        reference_block: int = REFERENCE_BLOCK,
    ) -> None:
        super().__init__()
        vision, text, joint = backbone.vision, backbone.text, backbone.embed_dim
        _check(branch, prompt_len, deep_prompt_len, joint, text.width)
        self.backbone = backbone
        self.layers = vision.check_layers(layers)
        self.base_weight = {"fused": base_weight, "base": 1.0, "post": 0.0}[branch]
        self.pre_vcp = PreVcp(text.width, prompt_len, use_global)
        self.deep_prompts = DeepTextPrompts(text.width, text.depth, deep_prompt_len) if deep_prompt_len else None
        lengths = {"prompt_len": prompt_len, "deep_prompt_len": deep_prompt_len}
        self.sentences = GappedSentences(text, normal_prompts, abnormal_prompts, **lengths)
        self.test_sentences = GappedSentences(
            text, test_normal_prompts or normal_prompts, test_abnormal_prompts or abnormal_prompts, **lengths
        )
        with_base, with_post = branch != "post", branch != "base"
        self.patch_projections = PatchProjections(len(self.layers) if with_base else 0, vision.width, joint)
        self.temperature: Any = inverse_temperature() if with_base else None
        self.post_vcp: Any = PostVcp(joint, vision.width) if with_post else None
        height, width = vision.image_size
        self.top_pixels = top_pixels or max(1, round(TOP_PIXELS * height * width / PAPER_SIZE**2))
        if self.top_pixels > height * width:
            msg = f"top_pixels {self.top_pixels} is more than the {height * width} pixels of an image."
            raise ValueError(msg)
        self.maps = PatchMaps(vision, sigma, paper_sigma=SIGMA, align_corners=True)
        self.references = PatchReferences(
            vision,
            self.layers if reference_layers is None else reference_layers,
            reference_weight,
            coreset_ratio=coreset_ratio,
            block=reference_block,
        )

    def encode_text(self, image_features: torch.Tensor) -> torch.Tensor:
        """Text features of (normal, abnormal) for each image, unit length: ``(B, E)`` to ``(B, 2, E)``."""
        context = self.pre_vcp(image_features)
        sentences = self.sentences if self.training else self.test_sentences
        return encode_gapped(self.backbone.text, sentences, context, self.deep_prompts)

    def base_logits(self, patches: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """Base branch: project each layer's patches ``(K, B, N, D)``, compare with text: ``(K, B, N, 2)``."""
        return compare(self.temperature.float().exp() * self.patch_projections(patches), text_features)

    def post_logits(self, patches: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """Post-VCP branch: let text see the patches ``(K, B, N, D)``, compare both: ``(K, B, N, 2)``."""
        return self.post_vcp(text_features, unit(patches))

    def frozen_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the frozen image tower on images ``(B, 3, H, W)``: features ``(B, E)`` and patches ``(B, K, N, D)``."""
        return self._own(*tapped_patches(self.backbone.vision, images, self.layers))

    def _own(self, image: torch.Tensor, patches: Patches) -> dict[str, torch.Tensor]:
        return {"image": image, "patches": torch.stack([patches[layer] for layer in self.layers], dim=1)}

    def layer_maps(self, images: torch.Tensor) -> LayerMaps:
        """Compute the anomaly probability of every layer and branch.

        Args:
            images: Normalised images, ``(B, 3, H, W)``.
        """
        return self.layer_maps_of(self.frozen_features(images))

    def layer_maps_of(self, features: Mapping[str, torch.Tensor]) -> LayerMaps:
        """Do what is learned on the image tower's features: all of :meth:`layer_maps` but the tower itself."""
        text_features = self.encode_text(features["image"])
        patches = features["patches"].transpose(0, 1)
        base = self.base_logits(patches, text_features) if self.temperature is not None else None
        post = self.post_logits(patches, text_features) if self.post_vcp is not None else None
        return LayerMaps(self._probabilities(base), self._probabilities(post))

    def _probabilities(self, logits: torch.Tensor | None) -> torch.Tensor | None:
        """Upsample logits ``(K, B, N, 2)``, then take the abnormal share: ``(K, B, H, W)``."""
        return None if logits is None else self.maps.upsample(abnormal_logit(logits)).sigmoid()

    def branch_maps(self, maps: LayerMaps) -> list[tuple[float, torch.Tensor]]:
        """Return each branch's weight in the fused map and its mean over layers, ``(B, H, W)``."""
        base, post = maps
        weighted = [(self.base_weight, base), (1 - self.base_weight, post)]
        return [(weight, maps.mean(dim=0)) for weight, maps in weighted if maps is not None]

    def forward(self, images: torch.Tensor, categories: Sequence[str | None] = (None,)) -> InferenceBatch:
        """Detect and segment anomalies.

        Args:
            images: Normalised images, ``(B, 3, H, W)``.
            categories: Whose references each image is compared with, or one for all.

        Returns:
            Image scores ``(B,)`` and anomaly maps ``(B, H, W)``, all 0..1. The score is the mean of the largest pixels
            of each branch's map before smoothing, both branches alike; the map weighs the branches and is smoothed.
            References weigh in on both.
        """
        check_count(categories, images, "categories")
        image, patches = tapped_patches(self.backbone.vision, images, (*self.layers, *self.references.taps))
        maps = self.branch_maps(self.layer_maps_of(self._own(image, patches)))
        score = torch.stack([top_mean(branch, self.top_pixels) for _, branch in maps]).mean(dim=0)
        fused = torch.stack([weight * branch for weight, branch in maps]).sum(dim=0)
        return self.references.weigh_in(score, self.maps.smooth(fused), patches, categories, self.maps)


def _check(branch: str, prompt_len: int, deep_prompt_len: int, joint: int, text_width: int) -> None:
    if branch not in {"fused", "base", "post"}:
        msg = f"branch must be 'fused', 'base' or 'post', not {branch!r}."
        raise ValueError(msg)
    if prompt_len < 1 or deep_prompt_len < 0:
        msg = f"prompt_len ({prompt_len}) must be at least 1 and deep_prompt_len ({deep_prompt_len}) at least 0."
        raise ValueError(msg)
    if joint != text_width:
        msg = (
            f"VCP-CLIP adds image features to text tokens, so the backbone's joint space ({joint}) and text tower "
            f"({text_width}) must be equally wide, as in ViT-L-14-336 or ViT-B-16."
        )
        raise ValueError(msg)
