# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""WinCLIP and WinCLIP+ as a PyTorch module: windows of an image against sentences and normal images.

Paper: Jeong et al., "WinCLIP: Zero-/few-shot anomaly classification and segmentation", CVPR 2023,
https://arxiv.org/abs/2303.14814. Its authors published no code; see :mod:`.scores` for how the reproductions differ.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import nn

from anomalib_clipzoo.anomaly.class_names import TakesClassNames
from anomalib_clipzoo.anomaly.maps import PatchMaps, abnormal_logit, weighted_mean
from anomalib_clipzoo.anomaly.precision import compare, unit
from anomalib_clipzoo.anomaly.prompts import DEFAULT_CLASS_NAME, check_count
from anomalib_clipzoo.anomaly.references import REFERENCE_BLOCK, Reference, ReferenceMemory
from anomalib_clipzoo.anomaly.text_cache import TextCache
from anomalib_clipzoo.clip import Backbone
from anomalib_clipzoo.clip.attention import normalize

from .prompting import PromptEnsemble
from .scores import VARIANTS, Variant
from .windows import WindowEncoder, WindowPooling, check_scales, harmonic_mean, weighted_harmonic_mean, window_patches

PATCHES = "patches"
WINDOW_BATCH = 128
Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Features(NamedTuple):
    """What CLIP says about a batch of images, nothing normalised to unit length.

    Attributes:
        image: Features of the whole images, ``(B, E)``.
        windows: Features of the windows of each scale, ``(B, W, E)``.
        patches: Patch tokens of the last block, ``(B, N, D)``; ``None`` where nothing is compared with them.
    """

    image: torch.Tensor
    windows: list[torch.Tensor]
    patches: torch.Tensor | None


class WinClipPlusModel(TakesClassNames, nn.Module):
    """WinCLIP, and WinCLIP+ as soon as there are reference images.

    Args:
        backbone: The frozen CLIP.
        variant: How features become maps and scores.
        scales: Sides of the windows in patches.
        stride: Steps between windows in patches.
        tidy: Whether class names are written in words and sentences count once, see :class:`PromptEnsemble`.
        window_batch: Windows that go through the transformer at once, which bounds the memory.
        precision: Precision of the image tower: "float32", "bfloat16" or "float16". Scores are always computed in
            float32.
        reference_weight: Share of the references in map and score, 0..1; a half makes the paper's plain means.
        coreset_ratio: Share of the references' positions that is kept; ``None`` for all.
        reference_block: How many positions of references are compared at once, which bounds the memory.

    Raises:
        ValueError: If scales, stride, prompts or precision are unfit.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        variant: Variant = VARIANTS["zqhang"],
        scales: Sequence[int] = (2, 3),
        stride: int = 1,
        tidy: bool = False,
        window_batch: int = WINDOW_BATCH,
        precision: Precision = "float32",
        reference_weight: float = 0.5,
        coreset_ratio: float | None = None,
        reference_block: int = REFERENCE_BLOCK,
    ) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            msg = f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}."
            raise ValueError(msg)
        grid = backbone.vision.grid
        scales = check_scales(scales, stride, grid)
        windows = [window_patches(grid, scale, stride) for scale in scales]
        self.prompts = PromptEnsemble(variant.normal_states, variant.abnormal_states, variant.templates, tidy=tidy)
        self.backbone = backbone
        backbone.vision.to(PRECISIONS[precision])
        self.variant = variant
        self.encoder = WindowEncoder(scales, stride, grid, window_batch)
        self.pooling: Any = nn.ModuleList(WindowPooling(patches, grid[0] * grid[1]) for patches in windows)
        self.window_kinds = tuple(f"windows_{scale}" for scale in scales)
        shapes = {
            kind: (len(patches), backbone.embed_dim) for kind, patches in zip(self.window_kinds, windows, strict=True)
        }
        if variant.patch_term != "none":
            shapes[PATCHES] = (grid[0] * grid[1], backbone.vision.width)
        self.references = ReferenceMemory(shapes, coreset_ratio=coreset_ratio, block=reference_block)
        self.reference_weight = reference_weight
        self.maps = PatchMaps(backbone.vision, align_corners=False)
        self.texts = TextCache()

    def encode(self, images: torch.Tensor, *, with_patches: bool) -> Features:
        """Encode images and all their windows (paper, section 4.2).

        Args:
            images: Normalised images, ``(B, 3, H, W)``.
            with_patches: Whether patch tokens are wanted, which only references need.
        """
        vision = self.backbone.vision
        with_patches = with_patches and self.variant.patch_term != "none"
        image, patches, windows = self.encoder(vision, images, with_patches=with_patches)
        if patches is not None and self.variant.patch_term == "normalized":
            patches = normalize(vision.ln_post, patches)
        return Features(image.float(), [scale.float() for scale in windows], patches)

    def remember(self, images: torch.Tensor, references: Sequence[Reference]) -> None:
        """Make normal images ``(K, 3, H, W)`` references; they are normalised as test images are."""
        self.references.add(references, images, lambda image: self._by_kind(self.encode(image, with_patches=True)))

    def _by_kind(self, features: Features) -> dict[str, torch.Tensor]:
        kinds = dict(zip(self.window_kinds, features.windows, strict=True))
        return kinds if features.patches is None else {**kinds, PATCHES: features.patches}

    def text_features(self, names: Sequence[str]) -> torch.Tensor:
        """Return the unit text vectors (normal, abnormal) of classes, ``(C, 2, E)``; each is encoded once and kept."""
        text = self.backbone.text
        encode = self.prompts.encode
        return torch.stack(self.texts.lookup(names, [text], lambda unknown: [encode(text, name) for name in unknown]))

    def probabilities(self, features: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Probability of the abnormal side for features ``(B, W, E)`` against text ``(B or 1, 2, E)``: ``(B, W)``."""
        cosines = compare(unit(features), text)
        return (abnormal_logit(cosines) / self.variant.temperature).sigmoid()

    def text_map(self, windows: Sequence[torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        """Average probabilities of an anomaly over scales and covering windows.

        Args:
            windows: Probability of each window of each scale, ``(B, W)``.
            image: Probability of the whole image, ``(B, 1)``.

        Returns:
            Anomaly per patch, ``(B, N)``, 0..1.
        """
        normal = self.variant.aggregation == "normal"
        values = [1 - scale if normal else scale for scale in (*windows, image)]
        pooled = [pooling.harmonic_mean(scale) for pooling, scale in zip(self.pooling, values[:-1], strict=True)]
        if self.variant.image_term:
            pooled.append(values[-1].expand_as(pooled[0]))
        mean = harmonic_mean(torch.stack(pooled))
        return 1 - mean if normal else mean

    def reference_map(self, features: Features, categories: Sequence[str | None]) -> torch.Tensor:
        """Average distances to the references over kinds and covering windows (WinCLIP+; paper, section 4.3).

        Args:
            features: Features of the images.
            categories: Whose references each image is compared with, or one for all.

        Returns:
            Distance per patch, ``(B, N)``, 0..1.
        """
        distances = {
            kind: self.references.distances(kind, values, categories)
            for kind, values in self._by_kind(features).items()
        }
        harmonic = self.variant.reference_mean == "harmonic"
        maps = [
            (pooling.harmonic_mean if harmonic else pooling.mean)(distances[kind])
            for pooling, kind in zip(self.pooling, self.window_kinds, strict=True)
        ]
        if PATCHES in distances:
            maps.append(distances[PATCHES])
        return torch.stack(maps).mean(dim=0).clamp(max=1)

    def sentences_about(self, class_name: str) -> list[str]:
        """Write all sentences about a class, those of the normal states first."""
        return self.prompts.all_sentences(class_name)

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
            Image scores ``(B,)`` and anomaly maps ``(B, H, W)``, all 0..1.
        """
        check_count(class_names, images, "class names")
        check_count(categories, images, "categories")
        few_shot = len(self.references) > 0
        text = self.text_features(class_names)
        features = self.encode(images, with_patches=few_shot)
        image = self.probabilities(features.image[:, None], text)
        grid_map = self.text_map([self.probabilities(scale, text) for scale in features.windows], image)
        score = image[:, 0]
        if few_shot:
            distances = self.reference_map(features, self.references.resolve(categories))
            grid_map = self.fuse(grid_map, distances)
            score = weighted_mean(score, distances.amax(dim=1), self.reference_weight)
        anomaly_map = self.maps(grid_map)
        if self.variant.score == "map":
            score = anomaly_map.amax(dim=(1, 2))
        return InferenceBatch(pred_score=score, anomaly_map=anomaly_map)

    def fuse(self, text_map: torch.Tensor, reference_map: torch.Tensor) -> torch.Tensor:
        """Average the text's and the references' maps, ``(B, N)`` each, by their weights."""
        mean = weighted_mean if self.variant.fusion == "arithmetic" else weighted_harmonic_mean
        return mean(text_map, reference_map, self.reference_weight)
