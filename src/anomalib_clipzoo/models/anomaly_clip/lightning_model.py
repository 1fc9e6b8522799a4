# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AnomalyCLIP as an anomalib model."""

from pathlib import Path
from typing import ClassVar

from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from torch import nn

from anomalib_clipzoo.models.components.arguments import AUTO
from anomalib_clipzoo.models.components.feature_cache import CACHE_SIZE, CacheDtype
from anomalib_clipzoo.models.components.types import (
    Count,
    CountFrom0,
    ImageSize,
    Layers,
    Name,
    NonNegativeNumber,
    PixelMean,
    PixelSpread,
    PositiveNumber,
    PositiveShare,
    Rate,
    Share,
    Sigma,
    Words,
)
from anomalib_clipzoo.models.components.weights import Companions
from anomalib_clipzoo.results.predictions import Predictions

from .dual_path import LocalAttention
from .loss import LOCAL_WEIGHT, AnomalyClipLoss
from .prompt_learner import PromptLearner
from .torch_model import AnomalyClipModel


class AnomalyClip(PromptLearner, AnomalibModule):
    """AnomalyCLIP: object-agnostic prompt learning for zero-shot anomaly detection (ICLR 2024, arXiv 2310.18961).

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
        layers: Image blocks whose patches are compared with the texts, counted from 1. [the last alone, which all
            published numbers were made with; the paper describes (6, 12, 18, 24) of 24]
        dpam_layer: Where the local stream begins, in the reference code's counting: the last ``dpam_layer - 1`` blocks
            have one, 1 goes without. [20 of 24, scaled by depth]
        local_attention: Attention of the local stream: "vv" (values to values), "qq" or "kk". ["vv"]
        normal_states: States of things in order, averaged; {} is where the object goes, which else comes last. [the
            object alone]
        abnormal_states: States of things with an anomaly, averaged, such as "cracked" or "{} with a missing part".
            ["damaged"]
        class_name: The word for any object. ["object"]
        n_ctx: Number of learned words in a prompt. [12]
        depth: How many blocks of the text tower get learned tokens, the first with its learned words included. [9, or
            all where the tower has fewer]
        t_n_ctx: Number of learned tokens in a block. [4]
        half_prompts: Whether the learned tokens pass through half precision, as in the reference code. [yes]
        sigma: Gaussian smoothing of the map in pixels. [4 of 518, scaled by height]
        quick_gelu: Whether CLIP runs with QuickGELU. [yes, as OpenAI's weights were trained with]
        mean: Mean of red, green and blue, 0..1, that images are normalised by. [the pretrained tag's, else OpenAI's]
        std: Their standard deviation. [the pretrained tag's, else OpenAI's]
        k_shot: Number of normal reference images of each category. 0 goes without, unless ``weights`` hold some.
        few_shot_source: Folder of normal images to choose the references from, with or without a subfolder for each
            category. ``None``: the datamodule's normal training images.
        seed: Seed of the choice of references; nothing else depends on it.
        reference_layers: Image blocks whose patch tokens, of CLIP's own stream, are compared with the references'. [the
            same as ``layers``]
        reference_weight: Share of the references in map and score, 0..1. [0.5]
        coreset_ratio: Share of the references' positions that is kept, above 0, to 1, chosen so that each one left out
            has one kept near it (k-center greedy). [all]
        reference_block: How many positions of references are compared at once, which bounds the memory. [2048]
        rotate_references: Whether references are kept turned by 90, 180 and 270 degrees, too, for parts that lie any
            way round.
        allow_overlap: Whether ``few_shot_source`` may hold test images.
        lr: Learning rate.
        local_weight: Weight of the maps' losses, which add up over layers; that of the images' loss is 1.
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

    MODEL: ClassVar[type[nn.Module]] = AnomalyClipModel
    PAPER_EPOCHS: ClassVar[int] = 15
    ADAM_BETAS: ClassVar[tuple[float, float]] = (0.5, 0.999)
    REFERENCE_KEYS: ClassVar[dict[str, str | None]] = {
        **PromptLearner.REFERENCE_KEYS,
        "prompt_learner.compound_prompt_projections.": None,  # the reference saves them and never uses them
    }
    # Crane's files have the same keys but for the projections.
    REFERENCE_COMPANIONS: ClassVar[Companions] = {
        ("prompt_learner.compound_prompts_text.", "prompt_learner.token_prefix_"): (
            "prompt_learner.compound_prompt_projections."
        )
    }

    def __init__(
        self,
        backbone: str | None = None,
        pretrained: str | Path | None = AUTO,
        weights: str | Path | None = None,
        fine_tune: bool = False,
        image_size: ImageSize | None = None,
        layers: Layers | None = None,
        dpam_layer: Count | None = None,
        local_attention: LocalAttention | None = None,
        normal_states: Words | None = None,
        abnormal_states: Words | None = None,
        class_name: Name | None = None,
        n_ctx: Count | None = None,
        depth: Count | None = None,
        t_n_ctx: Count | None = None,
        half_prompts: bool | None = None,
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
        lr: PositiveNumber = 1e-3,
        local_weight: NonNegativeNumber = LOCAL_WEIGHT,
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
        self.loss = AnomalyClipLoss(self.hparams["local_weight"])
