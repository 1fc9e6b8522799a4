# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AdaCLIP as an anomalib model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from torch import nn

from anomalib_clipzoo.anomaly.prompts import (
    ADACLIP_ABNORMAL_STATES,
    ADACLIP_TEMPLATES,
    DEFAULT_CLASS_NAME,
    NORMAL_STATES,
    class_names_of,
)
from anomalib_clipzoo.clip import Backbone, default_image_size, quarter_layers
from anomalib_clipzoo.data import CategoryBatch, categories_of
from anomalib_clipzoo.models.components.module import ClipZooModule, choose
from anomalib_clipzoo.models.components.weights import LearnedWeights

from .fusion import HsfMode
from .loss import AdaClipLoss
from .prompting import PromptingBranch, PromptingType
from .torch_model import PAPER_SIZE, AdaClipModel

PROMPTING_DEPTH, PROMPTING_LENGTH = 4, 5
K_CLUSTERS = 20
ADAM_BETAS = (0.5, 0.999)
WEIGHT_DECAY = 0.01
PROMPTED_TOWERS = {"V": "model.visual_prompts", "L": "model.text_prompts"}


class AdaClip(ClipZooModule, AnomalibModule):  # type: ignore[misc]  # Lightning and anomalib disagree on to_onnx
    """AdaCLIP: hybrid learnable prompts for zero-shot anomaly detection (ECCV 2024, arXiv 2407.15795).

    It learns on one dataset's annotated images and is used on products that it never saw. Without annotated anomalies
    it learns on synthetic ones; with ``weights`` nothing is learned.

    Args:
        backbone: An open_clip name with a plain ViT tower, a path to an open_clip JSON config, or "toy".
        pretrained: An open_clip tag, a path to a file of CLIP weights, or ``None`` for random weights.
        weights: Learned weights: a .safetensors or .ckpt of this package, or the reference repository's own .pth.
        image_size: Height and width in pixels, multiples of the patch size. ``None``: that of ``weights``, or the
            paper's 518 where the patch size divides it, or the backbone's native size.
        layers: Image blocks whose patch tokens are used, counted from 1. ``None``: those of ``weights``, or the quarter
            points of the tower, (6, 12, 18, 24) of 24.
        prompting_depth: Number of layers of both towers that are prompted. ``None``: that of ``weights``, or 4, or
            all of a shallower tower.
        prompting_length: Number of tokens of a prompt. ``None``: that of ``weights``, or 5.
        prompting_branch: Towers that are prompted: "V" image (vision), "L" text (language), "VL" both, "" none.
            ``None``: that of ``weights``, or "VL".
        prompting_type: "S" for static prompts, "D" for dynamic ones, made from the image, "SD" for their sum. ``None``:
            that of ``weights``, or "SD".
        hsf: Hybrid semantic fusion: "clusters" (or true) as in the reference code, "most_anomalous" as in the paper,
            false to go without. ``None``: that of ``weights``, or "clusters".
        k_clusters: Number of its clusters. ``None``: that of ``weights``, or 20, or as many as there are patches.
        class_name: What the images show, for all of them. ``None``: each image's own category where it is known, else
            "object".
        normal_states: Normal states, each with one {} for the class name. ``None``: those of ``weights``, or the
            paper's seven.
        abnormal_states: Abnormal states. ``None``: those of ``weights``, or the paper's five.
        templates: Sentences, each with one {} for the object in its state. ``None``: those of ``weights``, or the
            paper's four.
        sigma: Gaussian smoothing of the map in pixels. ``None``: 4 of 518, scaled by height.
        quick_gelu: Whether CLIP runs with QuickGELU. The reference code runs OpenAI's weights with the exact GELU.
        lr: Learning rate.
        pre_processor: Pre-processor, or whether to use the default.
        post_processor: Post-processor, or whether to use the default.
        evaluator: Evaluator, or whether to use the default.
        visualizer: Visualizer, or whether to use the default.

    Raises:
        ValueError: If backbone, weights, image size, layers, prompts, clusters or words do not fit together; the
            message says how.
        FileNotFoundError: If a file does not exist or CLIP's weights cannot be downloaded.
    """

    PAPER_EPOCHS: ClassVar[int] = 5
    REFERENCE_KEYS: ClassVar[dict[str, str | None]] = {
        "clip_model.visual_prompter.static_prompts.": "visual_prompts.static.",
        "clip_model.dynamic_visual_prompt_generator.head.": "visual_prompts.dynamic.",
        "clip_model.text_prompter.static_prompts.": "text_prompts.static.",
        "clip_model.dynamic_text_prompt_generator.head.": "text_prompts.dynamic.",
        "clip_model.patch_token_layer.head.": "patch_projections.",
        "clip_model.cls_token_layer.head.0.": "class_projection.",
    }

    def __init__(
        self,
        backbone: str = "ViT-L-14-336",
        pretrained: str | Path | None = "openai",
        weights: str | Path | None = None,
        image_size: int | Sequence[int] | None = None,
        layers: Sequence[int] | None = None,
        prompting_depth: int | None = None,
        prompting_length: int | None = None,
        prompting_branch: PromptingBranch | None = None,
        prompting_type: PromptingType | None = None,
        hsf: HsfMode | bool | None = None,
        k_clusters: int | None = None,
        class_name: str | None = None,
        normal_states: Sequence[str] | None = None,
        abnormal_states: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        sigma: float | None = None,
        quick_gelu: bool = False,
        lr: float = 0.01,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        learned = self.read_weights(weights)
        image_size = choose(image_size, learned, "image_size", default_image_size(backbone, PAPER_SIZE))
        # The reference code resizes positions without antialiasing, open_clip with it.
        clip = Backbone(backbone, pretrained, quick_gelu=quick_gelu, image_size=image_size, antialias=False)
        image_size = clip.vision.image_size
        layers = choose(layers, learned, "layers", quarter_layers(clip.vision.depth))
        shallower = min(clip.vision.depth, clip.text.depth)
        prompting_depth = choose(prompting_depth, learned, "prompting_depth", min(PROMPTING_DEPTH, shallower))
        prompting_length = choose(prompting_length, learned, "prompting_length", PROMPTING_LENGTH)
        prompting_branch = choose(prompting_branch, learned, "prompting_branch", "VL")
        prompting_type = choose(prompting_type, learned, "prompting_type", "SD")
        hsf = choose(hsf, learned, "hsf", "clusters")
        patches = clip.vision.grid[0] * clip.vision.grid[1]
        k_clusters = choose(k_clusters, learned, "k_clusters", min(K_CLUSTERS, patches))
        normal_states = choose(normal_states, learned, "normal_states", NORMAL_STATES)
        abnormal_states = choose(abnormal_states, learned, "abnormal_states", ADACLIP_ABNORMAL_STATES)
        templates = choose(templates, learned, "templates", ADACLIP_TEMPLATES)
        model = AdaClipModel(
            clip,
            layers=layers,
            prompting_depth=prompting_depth,
            prompting_length=prompting_length,
            prompting_branch=prompting_branch,
            prompting_type=prompting_type,
            hsf=hsf,
            k_clusters=k_clusters,
            class_name=class_name,
            normal_states=normal_states,
            abnormal_states=abnormal_states,
            templates=templates,
            sigma=sigma,
        )
        super().__init__(
            pre_processor=self.configure_pre_processor(image_size) if pre_processor is True else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.model = model
        self.loss = AdaClipLoss()
        self.class_name = class_name
        self.lr = lr
        if learned:
            self.load_weights(learned)

    @classmethod
    def read_weights(cls, weights: str | Path | None) -> LearnedWeights | None:
        """Read learned weights; much of how they were made can be told from the reference's names and shapes."""
        learned = super().read_weights(weights)
        return replace(learned, arguments={**_told_by(learned.state), **learned.arguments}) if learned else None

    def setup(self, stage: str) -> None:
        """Make ready: know what the images show, and that it can be put in words, before anything long starts."""
        super().setup(stage)
        datamodule = getattr(self.trainer, "datamodule", None)
        self.model.class_name = self.class_name or getattr(datamodule, "category", None) or DEFAULT_CLASS_NAME
        self.model.check_class_names({self.model.class_name, *([] if self.class_name else _categories(datamodule))})

    def class_names(self, batch: Batch) -> list[str]:
        """Name what each image of a batch shows.

        ``class_name`` comes first, then the image's own category, then, where batches know no categories, that of the
        datamodule. Images that nobody knows anything about are an "object", whatever the rest of the batch shows.
        """
        fallback = None if isinstance(batch, CategoryBatch) else self.model.class_name
        return class_names_of(categories_of(batch), self.class_name, fallback)

    def _infer(self, batch: Batch) -> Batch:
        predictions = self.model(batch.image, self.class_names(batch))
        return batch.update(**predictions._asdict())

    def training_step(self, batch: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute the loss of a batch of images with masks."""
        del args, kwargs
        probabilities = self.model.probabilities(batch.image, self.class_names(batch))
        loss = self.loss(probabilities, batch.gt_mask, batch.gt_label)
        self.log("train_loss", loss, on_epoch=True, prog_bar=True, batch_size=len(batch.image))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Configure AdamW at a constant learning rate."""
        parameters = [value for value in self.model.parameters() if value.requires_grad]
        return torch.optim.AdamW(parameters, lr=self.lr, betas=ADAM_BETAS, weight_decay=WEIGHT_DECAY)


def _told_by(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Tell depth, length, type and branch from learned prompts, as far as they show them."""
    static = [key for key in state if ".static." in key]
    dynamic = [key for key in state if ".dynamic." in key and key.endswith(".weight")]
    told: dict[str, Any] = {"prompting_type": ("S" if static else "") + ("D" if dynamic else "")}
    if dynamic:
        told["prompting_length"] = 1 + max(int(key.split(".")[-2]) for key in dynamic)
    if static:  # only they know their towers and layers: the reference saves both towers' generators, used or not
        told["prompting_length"] = len(state[static[0]])
        told["prompting_depth"] = 1 + max(int(key.split(".")[-1]) for key in static)
        towers = [tower for tower, part in PROMPTED_TOWERS.items() if any(key.startswith(part) for key in static)]
        told["prompting_branch"] = "".join(towers)
    return {name: value for name, value in told.items() if value}


def _categories(datamodule: Any) -> set[str]:
    """Return all categories of a datamodule's images."""
    datasets = [getattr(datamodule, name, None) for name in ("train_data", "val_data", "test_data")]
    tables = [dataset.samples for dataset in datasets if dataset is not None and "category" in dataset.samples]
    return {category for table in tables for category in table["category"].dropna()}
