# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""WinCLIP and WinCLIP+ as an anomalib model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from torch import nn

from anomalib_clipzoo.clip import Backbone
from anomalib_clipzoo.models.components.arguments import AUTO, defaults_of
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
    Words,
)
from anomalib_clipzoo.results.predictions import Predictions

from .scores import VARIANT_FIELDS, Aggregation, Mean, PatchTerm, Score, VariantName, make_variant
from .torch_model import Precision, WinClipPlusModel


class WinClipPlus(FewShotModule, AnomalibModule):
    """WinCLIP and WinCLIP+: zero- and few-shot anomaly detection with windows (CVPR 2023, arXiv 2303.14814).

    Nothing is learned. Sentences about normal and abnormal objects are compared with the image and its windows
    (WinCLIP); with ``k_shot`` normal images or more, the windows and patches of those are compared too (WinCLIP+).
    These references are kept with checkpoints and weights: predicting and exporting need no datamodule.
    What is left open is as ``weights`` were made with, else the paper's, in brackets.

    Args:
        backbone: An open_clip name with a plain ViT tower, a path to an open_clip JSON config, or "toy".
            [ViT-B-16-plus-240]
        pretrained: An open_clip tag, a path to a file of CLIP weights, or ``None`` for random weights; "auto" leaves it
            open. [laion400m_e31]
        weights: What an earlier run left: references, thresholds and the arguments that they depend on, as
            .safetensors or .ckpt.
        image_size: Height and width in pixels, multiples of the patch size. [the backbone's native size, 240]
        scales: Sides of the windows in patches. [(2, 3)]
        stride: Steps between windows in patches. [1]
        variant: Whose reading of the paper sets what follows: "zqhang", "caoyunkang" or "anomalib". ["zqhang", whose
            published figures are closest to the paper's]
        temperature: What cosines are divided by before the softmax. [the variant's, as all that follows]
        aggregation: Whether the map is made from the "abnormal" or the "normal" probability.
        image_term: Whether the whole image is one more scale of the map.
        patch_term: Patch tokens compared with the references': "raw", "normalized", "none".
        reference_mean: Mean over windows of distances, "harmonic" or "arithmetic".
        fusion: Mean of the text's and the references' map, "arithmetic" or "harmonic".
        score: "image" or "map": what the image score is taken from.
        normal_states: States of a normal object, {} is where the class name goes.
        abnormal_states: States of an object with an anomaly.
        templates: Sentences, {} is where the object in its state goes.
        tidy: Whether class names are written in words ("metal nut" for metal_nut) and a sentence counts once however
            often it is listed. [no: the reproductions do neither]
        class_name: What all images show. [each image's own category where known, else "object"]
        k_shot: Number of normal reference images of each category. 0 goes without, unless ``weights`` hold some.
        few_shot_source: Folder of normal images to choose the references from, with or without a subfolder for each
            category. ``None``: the datamodule's normal training images.
        seed: Seed of the choice of references; nothing else depends on it.
        reference_weight: Share of the references in map and score, 0..1. [0.5, the paper's plain mean]
        coreset_ratio: Share of the references' positions that is kept, above 0, to 1, chosen so that each one left out
            has one kept near it (k-center greedy). [all]
        reference_block: How many positions of references are compared at once, which bounds the memory. [2048]
        rotate_references: Whether references are kept turned by 90, 180 and 270 degrees, too, for parts that lie any
            way round.
        allow_overlap: Whether ``few_shot_source`` may hold test images.
        window_batch: Windows that go through the transformer at once, which bounds the memory. [128]
        precision: Precision of the image tower: "float32", "bfloat16" (fast) or "float16". ["float32"]
        quick_gelu: Whether CLIP runs with QuickGELU, which OpenAI's weights were trained with and LAION's were
            not. [no]
        mean: Mean of red, green and blue, 0..1, that images are normalised by. [the pretrained tag's, else OpenAI's]
        std: Their standard deviation. [the pretrained tag's, else OpenAI's]
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

    MODEL: ClassVar[type[nn.Module]] = WinClipPlusModel
    PAPER_CLIP: ClassVar[tuple[str, str]] = ("ViT-B-16-plus-240", "laion400m_e31")
    PAPER_SIZE: ClassVar[int | None] = None
    LEARNS: ClassVar[bool] = False

    def __init__(
        self,
        backbone: str | None = None,
        pretrained: str | Path | None = AUTO,
        weights: str | Path | None = None,
        image_size: ImageSize | None = None,
        scales: Layers | None = None,
        stride: Count | None = None,
        variant: VariantName | None = None,
        temperature: PositiveNumber | None = None,
        aggregation: Aggregation | None = None,
        image_term: bool | None = None,
        patch_term: PatchTerm | None = None,
        reference_mean: Mean | None = None,
        fusion: Mean | None = None,
        score: Score | None = None,
        normal_states: Words | None = None,
        abnormal_states: Words | None = None,
        templates: Words | None = None,
        tidy: bool | None = None,
        class_name: Name | None = None,
        k_shot: CountFrom0 = 0,
        few_shot_source: str | Path | None = None,
        seed: int = 0,
        reference_weight: Share | None = None,
        coreset_ratio: PositiveShare | None = None,
        reference_block: Count | None = None,
        rotate_references: bool = False,
        allow_overlap: bool = False,
        window_batch: Count | None = None,
        precision: Precision | None = None,
        quick_gelu: bool | None = None,
        mean: PixelMean | None = None,
        std: PixelSpread | None = None,
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

    def paper_arguments(self, clip: Backbone) -> dict[str, Any]:
        """Return the paper's values; those of a variant's parts are the variant's."""
        del clip
        return {**defaults_of(WinClipPlusModel), "variant": "zqhang"}

    def build_model(self, clip: Backbone, arguments: Mapping[str, Any]) -> nn.Module:
        """Build the torch model of a variant, its parts changed where the user says so."""
        parts = {name: arguments[name] for name in VARIANT_FIELDS}
        return super().build_model(clip, {**arguments, "variant": make_variant(arguments["variant"], **parts)})

    def configure_optimizers(self) -> None:
        """Configure none."""
