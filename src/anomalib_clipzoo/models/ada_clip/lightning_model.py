# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AdaCLIP as an anomalib model."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from torch import nn

from anomalib_clipzoo.clip import Backbone, quarter_layers
from anomalib_clipzoo.models.components.arguments import AUTO, defaults_of
from anomalib_clipzoo.models.components.feature_cache import CACHE_SIZE, CacheDtype
from anomalib_clipzoo.models.components.few_shot import FewShotModule
from anomalib_clipzoo.models.components.types import (
    Count,
    CountFrom0,
    ImageSize,
    Layers,
    Name,
    PixelMean,
    PixelSpread,
    PositiveNumber,
    PositiveShare,
    Rate,
    Share,
    Sigma,
    Words,
)
from anomalib_clipzoo.models.components.weights import Lengths, State
from anomalib_clipzoo.results.predictions import Predictions

from .fusion import HsfMode
from .loss import AdaClipLoss
from .prompting import PromptingBranch, PromptingType
from .torch_model import AdaClipModel

ADAM_BETAS = (0.5, 0.999)
WEIGHT_DECAY = 0.01
PROMPTED_TOWERS = {"V": "model.visual_prompts", "L": "model.text_prompts"}


# Only static prompts know their towers and layers: the reference saves both towers' generators, used or not.


def _static(state: State) -> list[str]:
    return [key for key in state if ".static." in key]


def _dynamic(state: State) -> list[str]:
    return [key for key in state if ".dynamic." in key and key.endswith(".weight")]


def _prompting_type(state: State) -> str | None:
    return ("S" if _static(state) else "") + ("D" if _dynamic(state) else "") or None


def _prompting_length(state: State) -> int | None:
    if static := _static(state):
        return state[static[0]].shape[0]
    return max((1 + int(key.split(".")[-2]) for key in _dynamic(state)), default=None)


def _prompting_depth(state: State) -> int | None:
    return max((1 + int(key.split(".")[-1]) for key in _static(state)), default=None)


def _prompting_branch(state: State) -> str | None:
    towers = [tower for tower, part in PROMPTED_TOWERS.items() if any(key.startswith(part) for key in _static(state))]
    return "".join(towers) or None


class AdaClip(FewShotModule, AnomalibModule):
    """AdaCLIP: hybrid learnable prompts for zero-shot anomaly detection (ECCV 2024, arXiv 2407.15795).

    It learns on one dataset's annotated images and is used on products that it never saw. Without annotated anomalies
    it learns on synthetic ones; with ``weights`` nothing is learned, unless ``fine_tune`` says so.
    What is left open is as ``weights`` were made with, else the paper's, in brackets.

    Args:
        backbone: An open_clip name with a plain ViT tower, a path to an open_clip JSON config, or "toy". [ViT-L-14-336]
        pretrained: An open_clip tag, a path to a file of CLIP weights, or ``None`` for random weights; "auto" leaves it
            open. [openai]
        weights: Learned weights: a .safetensors or .ckpt of this package, or the reference repository's own .pth.
        fine_tune: Whether fitting goes on from ``weights`` instead of using them as they are.
        image_size: Height and width in pixels, multiples of the patch size. [518 where the patch size divides it, else
            the backbone's native size]
        layers: Image blocks whose patch tokens are used, counted from 1. [the quarter points, (6, 12, 18, 24) of 24]
        prompting_depth: Number of layers of both towers that are prompted. [4, or all of a shallower tower]
        prompting_length: Number of tokens of a prompt. [5]
        prompting_branch: Towers that are prompted: "V" image (vision), "L" text (language), "VL" both, "" none. ["VL"]
        prompting_type: "S" for static prompts, "D" for dynamic ones, made from the image, "SD" for their sum. ["SD"]
        half_prompts: Whether prompts pass through half precision, as the reference code's do on a GPU. [no]
        hsf: Hybrid semantic fusion: "clusters" (or true) as in the reference code, "most_anomalous" as in the paper,
            false to go without. ["clusters"]
        k_clusters: Number of its clusters. [20, or as many as there are patches]
        class_name: What the images show, for all of them. [each image's own category where it is known, else "object"]
        normal_states: Normal states, each with one {} for the class name. [the paper's seven]
        abnormal_states: Abnormal states. [the paper's five]
        templates: Sentences, each with one {} for the object in its state. [the paper's four]
        sigma: Gaussian smoothing of the map in pixels. [4 of 518, scaled by height]
        quick_gelu: Whether CLIP runs with QuickGELU. [no: the reference code runs OpenAI's weights with the exact GELU]
        mean: Mean of red, green and blue, 0..1, that images are normalised by. [the pretrained tag's, else OpenAI's]
        std: Their standard deviation. [the pretrained tag's, else OpenAI's]
        k_shot: Number of normal reference images of each category. 0 goes without, unless ``weights`` hold some.
        few_shot_source: Folder of normal images to choose the references from, with or without a subfolder for each
            category. ``None``: the datamodule's normal training images.
        seed: Seed of the choice of references; nothing else depends on it.
        reference_layers: Image blocks whose patch tokens, of CLIP without prompts, are compared with the references'.
            [the same as ``layers``]
        reference_weight: Share of the references in map and score, 0..1. [0.5]
        coreset_ratio: Share of the references' positions that is kept, above 0, to 1, chosen so that each one left out
            has one kept near it (k-center greedy). [all]
        reference_block: How many positions of references are compared at once, which bounds the memory. [2048]
        rotate_references: Whether references are kept turned by 90, 180 and 270 degrees, too, for parts that lie any
            way round.
        allow_overlap: Whether ``few_shot_source`` may hold test images.
        lr: Learning rate.
        dice_per_row: Whether the dice loss counts each row of a map by itself, as the code did that made the published
            weights.
        feature_cache: Where the frozen CLIP's features of training images are kept, which later epochs need not compute
            then: "memory", or a folder, which later runs use as well. ``None`` computes them in every epoch.
        cache_size: Most gigabytes to keep, for each process in memory, for all together in a folder.
        cache_dtype: Precision in which they are kept: "float32", or "bfloat16" or "float16" in half of the bytes.
        cache_variants: With a cache, in how many variants an image comes, as random changes cannot be kept: 1 goes
            without augmentation, 4 has the image as it is and three augmented ones. Mosaics and synthetic anomalies are
            the same ones again after so many epochs.
        compile: Whether blocks of CLIP's towers run compiled (``torch.compile``), which needs a C++ compiler.
        false_alarm_rate: Share of new normal images that may be called anomalous, in 0..1, for thresholds from normal
            validation images alone. [none: thresholds of the best F1 score on validation images]
        predictions: Callback that writes the table ``predictions.csv`` of tests and predictions, or whether to use the
            default.
        pre_processor: Pre-processor, or whether to use the default.
        post_processor: Post-processor, or whether to use the default.
        evaluator: Evaluator, or whether to use the default.
        visualizer: Visualizer, or whether to use the default.

    Raises:
        ValueError: If arguments, weights and backbone do not fit together; the message says how.
        FileNotFoundError: If a file does not exist or CLIP's weights cannot be downloaded.
    """

    MODEL: ClassVar[type[nn.Module]] = AdaClipModel
    PAPER_EPOCHS: ClassVar[int] = 5
    POSITIONS: ClassVar[dict[str, Any]] = {"antialias": False}  # open_clip resizes them with antialiasing
    REFERENCE_KEYS: ClassVar[dict[str, str | None]] = {
        "clip_model.visual_prompter.static_prompts.": "visual_prompts.static.",
        "clip_model.dynamic_visual_prompt_generator.head.": "visual_prompts.dynamic.",
        "clip_model.text_prompter.static_prompts.": "text_prompts.static.",
        "clip_model.dynamic_text_prompt_generator.head.": "text_prompts.dynamic.",
        "clip_model.patch_token_layer.head.": "patch_projections.",
        "clip_model.cls_token_layer.head.0.": "class_projection.",
    }
    FEATURES_DEPEND_ON: ClassVar[tuple[str, ...]] = ("layers", "prompting_branch", "prompting_type")
    LENGTHS: ClassVar[Lengths] = {
        "prompting_type": _prompting_type,
        "prompting_length": _prompting_length,
        "prompting_depth": _prompting_depth,
        "prompting_branch": _prompting_branch,
    }

    def __init__(
        self,
        backbone: str | None = None,
        pretrained: str | Path | None = AUTO,
        weights: str | Path | None = None,
        fine_tune: bool = False,
        image_size: ImageSize | None = None,
        layers: Layers | None = None,
        prompting_depth: Count | None = None,
        prompting_length: Count | None = None,
        prompting_branch: PromptingBranch | None = None,
        prompting_type: PromptingType | None = None,
        half_prompts: bool | None = None,
        hsf: HsfMode | bool | None = None,
        k_clusters: Count | None = None,
        class_name: Name | None = None,
        normal_states: Words | None = None,
        abnormal_states: Words | None = None,
        templates: Words | None = None,
        sigma: Sigma | None = None,
        quick_gelu: bool | None = None,
        mean: PixelMean | None = None,
        std: PixelSpread | None = None,
        k_shot: CountFrom0 = 0,
        few_shot_source: str | Path | None = None,
        seed: int = 0,
        reference_layers: Layers | None = None,
        reference_weight: Share | None = None,
        coreset_ratio: PositiveShare | None = None,
        reference_block: Count | None = None,
        rotate_references: bool = False,
        allow_overlap: bool = False,
        lr: PositiveNumber = 0.01,
        dice_per_row: bool = False,
        feature_cache: Name | Path | None = None,
        cache_size: PositiveNumber = CACHE_SIZE,
        cache_dtype: CacheDtype = "float32",
        cache_variants: Count = 1,
        compile: bool = False,  # noqa: A002  # torch's word
        false_alarm_rate: Rate | None = None,
        predictions: Predictions | bool = True,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        arguments = self.collect(locals())
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        self.assemble(arguments)
        self.loss = AdaClipLoss(dice_per_row=self.hparams["dice_per_row"])

    def paper_arguments(self, clip: Backbone) -> dict[str, Any]:
        """Return the paper's values for this CLIP."""
        defaults = defaults_of(AdaClipModel)
        patches, shallower = clip.vision.grid[0] * clip.vision.grid[1], min(clip.vision.depth, clip.text.depth)
        return {
            **defaults,
            "layers": quarter_layers(clip.vision.depth),
            "prompting_depth": min(defaults["prompting_depth"], shallower),
            "k_clusters": min(defaults["k_clusters"], patches),
        }

    def training_step(self, batch: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute the loss of a batch of images with masks."""
        del args, kwargs
        logits = self.model.logits_of(self.frozen_features(batch.image), **self.context(self.categories(batch)))
        loss = self.loss(self.model.probabilities_of(logits), batch.gt_mask, batch.gt_label)
        self.log("train_loss", loss, on_epoch=True, prog_bar=True, batch_size=len(batch.image))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Configure AdamW at a constant learning rate."""
        parameters = [value for value in self.model.parameters() if value.requires_grad]
        return torch.optim.AdamW(parameters, lr=self.hparams["lr"], betas=ADAM_BETAS, weight_decay=WEIGHT_DECAY)
