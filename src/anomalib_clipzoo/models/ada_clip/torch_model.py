# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AdaCLIP as a PyTorch module: hybrid learnable prompts for zero-shot anomaly detection.

Paper: Cao et al., "AdaCLIP: Adapting CLIP with hybrid learnable prompts for zero-shot anomaly detection", ECCV 2024,
https://arxiv.org/abs/2407.15795. Where paper and published code differ, this follows the code.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import nn

from anomalib_clipzoo.anomaly.class_names import TakesClassNames
from anomalib_clipzoo.anomaly.maps import PatchMaps, abnormal_logit
from anomalib_clipzoo.anomaly.patch_references import ComparesPatches, PatchReferences
from anomalib_clipzoo.anomaly.precision import compare, unit
from anomalib_clipzoo.anomaly.projections import PatchProjections
from anomalib_clipzoo.anomaly.prompts import (
    ADACLIP_ABNORMAL_STATES,
    ADACLIP_TEMPLATES,
    DEFAULT_CLASS_NAME,
    NORMAL_STATES,
    check_count,
)
from anomalib_clipzoo.anomaly.references import REFERENCE_BLOCK, REFERENCE_WEIGHT
from anomalib_clipzoo.clip import Backbone, VisionFeatures

from .fusion import HsfMode, HybridSemanticFusion, check_fusion
from .prompting import (
    HybridPrompts,
    PromptingBranch,
    PromptingType,
    check_prompting,
    plain_features,
    prompted_features,
)
from .sentences import StateSentences

SIGMA = 4.0  # pixels of 518
LOGIT_SCALE = 100.0  # a constant: CLIP's own learned scale is not used
HSF_SHARE = 0.2  # of the fused feature in the image feature; the reference code


class Probabilities(NamedTuple):
    """Probabilities of an anomaly, 0..1.

    Attributes:
        maps: Per layer and pixel, ``(K, B, H, W)``.
        image: Per image, ``(B,)``.
    """

    maps: torch.Tensor
    image: torch.Tensor


class Logits(NamedTuple):
    """Logits whose sigmoid is the probability of an anomaly.

    Attributes:
        layers: Per layer and patch, ``(K, B, N)``.
        image: Per image, ``(B,)``.
    """

    layers: torch.Tensor
    image: torch.Tensor


class AdaClipModel(TakesClassNames, ComparesPatches, nn.Module):
    """AdaCLIP: a frozen CLIP with hybrid prompts in both towers, projections, and hybrid semantic fusion.

    Args:
        backbone: The frozen CLIP.
        layers: Image blocks whose patch tokens are used, counted from 1.
        prompting_depth: Number J of layers that are prompted. The text tower's first layer is never prompted.
        prompting_length: Number M of tokens of a prompt.
        prompting_branch: Towers that are prompted: "V" image (vision), "L" text (language), "VL" both, "" none.
        prompting_type: "S" for static prompts, "D" for dynamic ones, "SD" for their sum.
        half_prompts: Whether prompts pass through half precision, as in the reference code on a GPU.
        hsf: "clusters" (or ``True``) for hybrid semantic fusion as the reference code has it, "most_anomalous" as the
            paper has it, ``False`` to go without.
        k_clusters: Number K of its clusters.
        normal_states: Normal states, each with one ``{}`` for the class name.
        abnormal_states: Abnormal states.
        templates: Sentences with one ``{}`` for the object in its state.
        sigma: Gaussian smoothing of the map in pixels; ``None`` for 4 of 518, scaled by height.
        reference_layers: Image blocks whose patch tokens, of the tower without prompts, are compared with those of
            references; ``None`` for ``layers``.
        reference_weight: Share of the references in map and score, 0..1.
        coreset_ratio: Share of the references' positions that is kept; ``None`` for all.
        reference_block: How many positions of references are compared at once, which bounds the memory.

    Raises:
        ValueError: If layers, prompts, clusters or words do not fit the backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        layers: Sequence[int] = (6, 12, 18, 24),
        prompting_depth: int = 4,
        prompting_length: int = 5,
        prompting_branch: PromptingBranch = "VL",
        prompting_type: PromptingType = "SD",
        half_prompts: bool = False,
        hsf: HsfMode | bool = "clusters",
        k_clusters: int = 20,
        normal_states: Sequence[str] = NORMAL_STATES,
        abnormal_states: Sequence[str] = ADACLIP_ABNORMAL_STATES,
        templates: Sequence[str] = ADACLIP_TEMPLATES,
        sigma: float | None = None,
        reference_layers: Sequence[int] | None = None,
        reference_weight: float = REFERENCE_WEIGHT,
        coreset_ratio: float | None = None,
        reference_block: int = REFERENCE_BLOCK,
    ) -> None:
        super().__init__()
        vision, text, joint = backbone.vision, backbone.text, backbone.embed_dim
        hsf = "clusters" if hsf is True else hsf
        check_prompting(backbone, prompting_depth, prompting_length, prompting_branch, prompting_type)
        check_fusion(hsf, k_clusters, vision.grid)
        self.backbone = backbone
        self.layers = vision.check_layers(layers)
        prompting: dict[str, Any] = {"depth": prompting_depth, "length": prompting_length, "kind": prompting_type}
        prompting |= {"half": half_prompts}
        self.visual_prompts: Any = HybridPrompts(vision.width, joint, **prompting) if "V" in prompting_branch else None
        # The first text layer is never prompted, so that a depth of 1 leaves the text as it is.
        prompts_text = "L" in prompting_branch and prompting_depth > 1
        self.text_prompts: Any = HybridPrompts(text.width, joint, **prompting) if prompts_text else None
        if self.text_prompts is not None and "S" in prompting_type:
            self.text_prompts.static[0].requires_grad_(requires_grad=False)
        self.dynamic = "D" in prompting_type
        self.patch_projections = PatchProjections(len(self.layers), vision.width, joint)
        self.class_projection: Any = nn.Linear(joint, joint) if hsf != "most_anomalous" else None
        self.fusion: Any = HybridSemanticFusion(hsf, k_clusters) if hsf else None
        self.maps = PatchMaps(vision, sigma, paper_sigma=SIGMA, align_corners=True)
        self.references = PatchReferences(
            vision,
            self.layers if reference_layers is None else reference_layers,
            reference_weight,
            coreset_ratio=coreset_ratio,
            block=reference_block,
        )
        self.sentences = StateSentences(normal_states, abnormal_states, templates, prompting_length)
        self.check_class_names([DEFAULT_CLASS_NAME])

    def sentences_about(self, class_name: str) -> list[str]:
        """Write all sentences about a class, those of the normal states first."""
        return self.sentences.write(class_name)

    def frozen_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run what of the image tower knows no prompts on images ``(B, 3, H, W)``.

        That is the whole tower where images are not prompted: its features ``(B, E)`` and tokens ``(B, K, 1 + N, D)``.
        Otherwise it is what goes into the first block, ``(B, 1 + N, D)``, and CLIP's own features ``(B, E)`` where
        prompts are made from them.
        """
        return self.tapped_features(images, ())[0]

    def tapped_features(
        self, images: torch.Tensor, taps: Sequence[int]
    ) -> tuple[dict[str, torch.Tensor], dict[int, torch.Tensor]]:
        """Return :meth:`frozen_features`, and patches ``(B, N, D)`` of the tower without prompts after some blocks."""
        vision = self.backbone.vision
        if self.visual_prompts is None:
            layers = sorted({*self.layers, *taps})
            image, tapped = vision(images, layers)
            tokens = dict(zip(layers, tapped, strict=True))
            own = torch.stack([tokens[layer] for layer in self.layers], dim=1)
            return {"plain": image, "tokens": own}, {layer: tokens[layer][:, 1:] for layer in taps}
        embedded = vision.embed(images)
        frozen, tapped = {"embedded": embedded}, []
        if self.dynamic or taps:
            plain, tapped = plain_features(vision, embedded, taps)
            frozen |= {"plain": plain} if self.dynamic else {}
        return frozen, {layer: each[:, 1:] for layer, each in zip(taps, tapped, strict=True)}

    def image_features(self, images: torch.Tensor) -> tuple[torch.Tensor | None, VisionFeatures]:
        """Run the image tower on images ``(B, 3, H, W)``, plain where something depends on that, and with prompts."""
        return self.prompted_features(self.frozen_features(images))

    def prompted_features(self, frozen: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor | None, VisionFeatures]:
        """Run the image tower with prompts.

        Args:
            frozen: What :meth:`frozen_features` returned.

        Returns:
            CLIP's own image feature ``(B, E)``, ``None`` where nothing depends on it, and the prompted tower's
            features.
        """
        plain = frozen.get("plain")
        if self.visual_prompts is None:
            return plain, VisionFeatures(frozen["plain"], list(frozen["tokens"].unbind(1)))
        prompts = self.visual_prompts(plain)
        return plain, prompted_features(self.backbone.vision, frozen["embedded"], prompts, self.layers)

    def text_features(self, class_names: Sequence[str], plain: torch.Tensor | None) -> torch.Tensor:
        """Text features of (normal, abnormal) for what images show, see :class:`StateSentences`."""
        return self.sentences(self.backbone.text, class_names, self.text_prompts, plain)

    def image_embedding(self, image: torch.Tensor, patches: torch.Tensor, layer_logits: torch.Tensor) -> torch.Tensor:
        """Mix the projected image feature ``(B, E)`` with what HSF finds: unit length, ``(B, E)``."""
        fused: Any = self.fusion(patches, layer_logits) if self.fusion else None
        if self.class_projection is None:
            return fused
        projected = unit(self.class_projection(image))
        if fused is None:
            return projected
        return unit(HSF_SHARE * fused + (1 - HSF_SHARE) * projected)

    def logits(self, images: torch.Tensor, class_names: Sequence[str] = (DEFAULT_CLASS_NAME,)) -> Logits:
        """Compare patches and images ``(B, 3, H, W)`` with the text about what they show."""
        check_count(class_names, images, "class names")
        return self.logits_of(self.frozen_features(images), class_names)

    def logits_of(self, frozen: Mapping[str, torch.Tensor], class_names: Sequence[str]) -> Logits:
        """Do what is learned on what :meth:`frozen_features` returned."""
        plain, (image, tokens) = self.prompted_features(frozen)
        text = self.text_features(class_names, plain)
        patches = self.patch_projections(layer[:, 1:] for layer in tokens)
        layers = abnormal_logit(compare(LOGIT_SCALE * patches, text))
        embedding = self.image_embedding(image, patches, layers)
        image_logits = abnormal_logit(compare(LOGIT_SCALE * embedding[:, None], text))[:, 0]
        return Logits(layers, image_logits)

    def probabilities(self, images: torch.Tensor, class_names: Sequence[str] = (DEFAULT_CLASS_NAME,)) -> Probabilities:
        """Compute what training compares with the truth: a probability per layer and pixel, and one per image.

        Args:
            images: Normalised images, ``(B, 3, H, W)``.
            class_names: Name of what each image shows, or one for all.
        """
        return self.probabilities_of(self.logits(images, class_names))

    def probabilities_of(self, logits: Logits) -> Probabilities:
        """Bring logits to the image's resolution as probabilities."""
        return Probabilities(self.maps.upsample(logits.layers).sigmoid(), logits.image.sigmoid())

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
            Image scores ``(B,)`` and smoothed anomaly maps ``(B, H, W)``, all 0..1. Layers are averaged before the
            softmax. References weigh in on both.
        """
        check_count(class_names, images, "class names")
        check_count(categories, images, "categories")
        frozen, patches = self.tapped_features(images, self.references.taps)
        layers, image = self.logits_of(frozen, class_names)
        maps = self.maps.smooth(self.maps.upsample(layers.mean(dim=0, keepdim=True))[0].sigmoid())
        return self.references.weigh_in(image.sigmoid(), maps, patches, categories, self.maps)
