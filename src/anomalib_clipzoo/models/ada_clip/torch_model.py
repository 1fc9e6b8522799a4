# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AdaCLIP as a PyTorch module: hybrid learnable prompts for zero-shot anomaly detection.

Paper: Cao et al., "AdaCLIP: Adapting CLIP with hybrid learnable prompts for zero-shot anomaly detection", ECCV 2024,
https://arxiv.org/abs/2407.15795. Where paper and published code differ, this follows the code.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import nn
from torch.nn import functional

from anomalib_clipzoo.anomaly.maps import GaussianSmoothing, abnormal_logit, upsample
from anomalib_clipzoo.anomaly.projections import PatchProjections
from anomalib_clipzoo.anomaly.prompts import (
    ADACLIP_ABNORMAL_STATES,
    ADACLIP_TEMPLATES,
    DEFAULT_CLASS_NAME,
    NORMAL_STATES,
)
from anomalib_clipzoo.clip import Backbone, VisionFeatures

from .fusion import HsfMode, HybridSemanticFusion
from .prompting import (
    HybridPrompts,
    PromptEnsemble,
    PromptingBranch,
    PromptingType,
    encode_sentences,
    plain_image_features,
    prompted_features,
)

PAPER_SIZE = 518
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


class AdaClipModel(nn.Module):
    """AdaCLIP: a frozen CLIP with hybrid prompts in both towers, projections, and hybrid semantic fusion.

    Args:
        backbone: The frozen CLIP.
        layers: Image blocks whose patch tokens are used, counted from 1.
        prompting_depth: Number J of layers that are prompted. The text tower's first layer is never prompted.
        prompting_length: Number M of tokens of a prompt.
        prompting_branch: Towers that are prompted: "V" image (vision), "L" text (language), "VL" both, "" none.
        prompting_type: "S" for static prompts, "D" for dynamic ones, "SD" for their sum.
        hsf: "clusters" (or ``True``) for hybrid semantic fusion as the reference code has it, "most_anomalous" as the
            paper has it, ``False`` to go without.
        k_clusters: Number K of its clusters.
        normal_states: Normal states, each with one ``{}`` for the class name.
        abnormal_states: Abnormal states.
        templates: Sentences with one ``{}`` for the object in its state.
        sigma: Gaussian smoothing of the map in pixels; ``None`` for 4 of 518, scaled by height.

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
        hsf: HsfMode | bool = "clusters",
        k_clusters: int = 20,
        normal_states: Sequence[str] = NORMAL_STATES,
        abnormal_states: Sequence[str] = ADACLIP_ABNORMAL_STATES,
        templates: Sequence[str] = ADACLIP_TEMPLATES,
        sigma: float | None = None,
    ) -> None:
        super().__init__()
        vision, text, joint = backbone.vision, backbone.text, backbone.embed_dim
        hsf = "clusters" if hsf is True else hsf
        _check_prompting(backbone, prompting_depth, prompting_length, prompting_branch, prompting_type)
        _check_fusion(hsf, k_clusters, vision.grid)
        self.backbone = backbone
        self.layers = vision.check_layers(layers)
        self.prompting_length = prompting_length
        prompting: dict[str, Any] = {"depth": prompting_depth, "length": prompting_length, "kind": prompting_type}
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
        height = vision.image_size[0]
        self.smoothing = GaussianSmoothing(vision.image_size, SIGMA * height / PAPER_SIZE if sigma is None else sigma)
        self.ensemble = PromptEnsemble(normal_states, abnormal_states, templates)
        self._text_features: dict[str, torch.Tensor] = {}
        self.register_load_state_dict_post_hook(_forget_text)
        self.check_class_names([DEFAULT_CLASS_NAME])

    def check_class_names(self, class_names: Sequence[str]) -> None:
        """Make sure that the sentences about some classes can be encoded.

        Raises:
            ValueError: If a name is empty, or makes a sentence longer than the text tower's context.
        """
        for name in class_names:
            self.backbone.text.tokenize(self.ensemble.write(name))

    def forget_text(self) -> None:
        """Forget encoded texts: the prompts in them have changed."""
        self._text_features.clear()

    def image_features(self, images: torch.Tensor) -> tuple[torch.Tensor | None, VisionFeatures]:
        """Run the image tower: plain where something depends on that, then with prompts.

        Args:
            images: Normalised images, ``(B, 3, H, W)``.

        Returns:
            CLIP's own image feature ``(B, E)``, ``None`` where nothing depends on it, and the prompted tower's
            features.
        """
        vision = self.backbone.vision
        tokens = vision.ln_pre(vision.embed(images))
        if self.visual_prompts is None:
            features = prompted_features(vision, tokens, [], self.layers)
            return features.image, features
        plain = plain_image_features(vision, tokens) if self.dynamic else None
        return plain, prompted_features(vision, tokens, self.visual_prompts(plain), self.layers)

    def text_features(self, class_names: Sequence[str], plain: torch.Tensor | None, images: int) -> torch.Tensor:
        """Encode the states of what each image shows.

        Sentences that no image has a say in are encoded once per class, and kept where no gradient is needed.

        Args:
            class_names: Name of what each image shows, or one for all.
            plain: CLIP's own image features ``(B, E)``; needed for dynamic text prompts only.
            images: Number of images B.

        Returns:
            Text features of (normal, abnormal), unit length, ``(B, 2, E)``.
        """
        distinct = list(dict.fromkeys(class_names))
        numbers = [distinct.index(name) for name in class_names]
        which = torch.tensor(numbers, device=self.backbone.text.position.device).expand(images)
        if self.text_prompts is not None and self.dynamic:
            return self._encode(distinct, self.text_prompts(plain), which)
        return self._shared_text_features(distinct)[which]

    def _shared_text_features(self, names: list[str]) -> torch.Tensor:
        """Text features of several classes, ``(C, 2, E)``, the same for all images."""
        static = self.text_prompts is not None
        if static and torch.is_grad_enabled():
            self.forget_text()
            return self._encode(names, self.text_prompts(None))
        if unknown := [name for name in names if name not in self._text_features]:
            # Made outside inference mode even if that is on, since training may use them later.
            with torch.inference_mode(mode=False), torch.no_grad():
                features = self._encode(unknown, self.text_prompts(None) if static else [])
            self._text_features.update(zip(unknown, features, strict=True))
        kept = torch.stack([self._text_features[name] for name in names])
        return kept.to(self.backbone.text.position.device)

    def _encode(
        self,
        names: list[str],
        prompts: list[torch.Tensor],
        which: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Encode the sentences about each class, or, with ``which``, about the class of each image."""
        shortest = 1 + self.prompting_length if prompts else 1
        sentences = self.ensemble.embed_all(self.backbone.text, names, shortest)
        if which is not None:
            sentences = type(sentences)(*(part[which] for part in sentences))
        return encode_sentences(self.backbone.text, sentences, prompts, self.ensemble.sizes)

    def image_embedding(self, image: torch.Tensor, patches: torch.Tensor, layer_logits: torch.Tensor) -> torch.Tensor:
        """Mix the projected image feature ``(B, E)`` with what HSF finds: unit length, ``(B, E)``."""
        fused: Any = self.fusion(patches, layer_logits) if self.fusion else None
        if self.class_projection is None:
            return fused
        projected = functional.normalize(self.class_projection(image), dim=-1)
        if fused is None:
            return projected
        return functional.normalize(HSF_SHARE * fused + (1 - HSF_SHARE) * projected, dim=-1)

    def logits(self, images: torch.Tensor, class_names: Sequence[str] = (DEFAULT_CLASS_NAME,)) -> Logits:
        """Compare patches and images ``(B, 3, H, W)`` with the text about what they show."""
        _check_count(images, class_names)
        plain, (image, tokens) = self.image_features(images)
        text = self.text_features(class_names, plain, images.shape[0])
        patches = self.patch_projections(layer[:, 1:] for layer in tokens)
        layers = abnormal_logit(LOGIT_SCALE * patches @ text.transpose(-2, -1))
        embedding = self.image_embedding(image, patches, layers)
        image_logits = abnormal_logit(LOGIT_SCALE * torch.einsum("be,bse->bs", embedding, text))
        return Logits(layers.float(), image_logits.float())  # half precision ends here: losses add up many pixels

    def probabilities(self, images: torch.Tensor, class_names: Sequence[str] = (DEFAULT_CLASS_NAME,)) -> Probabilities:
        """Compute what training compares with the truth: a probability per layer and pixel, and one per image.

        Args:
            images: Normalised images, ``(B, 3, H, W)``.
            class_names: Name of what each image shows, or one for all.
        """
        layers, image = self.logits(images, class_names)
        return Probabilities(self._upsample(layers).sigmoid(), image.sigmoid())

    def _upsample(self, logits: torch.Tensor) -> torch.Tensor:
        """Bring logits ``(K, B, N)`` to the image's resolution, ``(K, B, H, W)``."""
        vision = self.backbone.vision
        return upsample(logits, vision.grid, vision.image_size, align_corners=True)

    def forward(self, images: torch.Tensor, class_names: Sequence[str] = (DEFAULT_CLASS_NAME,)) -> InferenceBatch:
        """Detect and segment anomalies.

        Args:
            images: Normalised images, ``(B, 3, H, W)``.
            class_names: Name of what each image shows, or one for all.

        Returns:
            Image scores ``(B,)`` and smoothed anomaly maps ``(B, H, W)``, all 0..1. Layers are averaged before the
            softmax.
        """
        layers, image = self.logits(images, class_names)
        maps = self._upsample(layers.mean(dim=0, keepdim=True))[0].sigmoid()
        return InferenceBatch(pred_score=image.sigmoid(), anomaly_map=self.smoothing(maps))


def _forget_text(model: AdaClipModel, _: Any) -> None:
    model.forget_text()


def _check_count(images: torch.Tensor, class_names: Sequence[str]) -> None:
    if len(class_names) != 1 and len(class_names) != len(images):
        msg = f"There are {len(images)} images but {len(class_names)} class names: give one for each, or one for all."
        raise ValueError(msg)


def _check_prompting(backbone: Backbone, depth: int, length: int, branch: str, kind: str) -> None:
    if branch not in {"VL", "V", "L", ""} or kind not in {"SD", "S", "D"}:
        msg = (
            f"prompting_branch must be 'VL', 'V', 'L' or '', not {branch!r}; "
            f"prompting_type 'SD', 'S' or 'D', not {kind!r}."
        )
        raise ValueError(msg)
    deepest = min(backbone.vision.depth, backbone.text.depth)
    if not 1 <= depth <= deepest:
        msg = (
            f"prompting_depth {depth} must be within both towers, 1 to {deepest} for this backbone; "
            "prompting_branch '' goes without prompts."
        )
        raise ValueError(msg)
    longest = backbone.text.context_length - 1
    if not 1 <= length <= longest:
        msg = f"prompting_length {length} must be 1 to {longest}, what the text tower has room for."
        raise ValueError(msg)


def _check_fusion(hsf: HsfMode | bool, clusters: int, grid: tuple[int, int]) -> None:
    if hsf not in {False, "clusters", "most_anomalous"}:
        msg = f"hsf must be 'clusters', 'most_anomalous' or False, not {hsf!r}."
        raise ValueError(msg)
    if hsf and not 1 <= clusters <= grid[0] * grid[1]:
        msg = (
            f"k_clusters {clusters} must be 1 to {grid[0] * grid[1]}, the number of patches of an image: "
            "take fewer clusters, a larger image_size, or hsf=False."
        )
        raise ValueError(msg)
