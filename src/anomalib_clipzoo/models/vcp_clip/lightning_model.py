# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""VCP-CLIP as an anomalib model."""

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
from anomalib_clipzoo.models.components.weights import Lengths, size_of
from anomalib_clipzoo.results.predictions import Predictions

from .augmentation import TrainingAugmentation
from .loss import VcpClipLoss
from .torch_model import Branch, VcpClipModel

ADAM_BETAS = (0.5, 0.999)


class VcpClip(FewShotModule, AnomalibModule):
    """VCP-CLIP: visual context prompting for zero-shot anomaly segmentation (ECCV 2024, arXiv 2407.12276).

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
        prompt_len: Number of learned vectors in place of the product's name. [2]
        deep_prompt_len: Number of learned tokens in every text block, 0 for none. [1]
        use_global: Whether the image's global feature shapes the prompt (Pre-VCP). [yes]
        branch: "fused" for both maps, "base" or "post" for one of them alone. ["fused"]
        base_weight: Weight of the base map in the fused map, 0..1. [0.2]
        normal_prompts: Sentences for the normal state; {} is where the learned vectors go. ["a photo of a good {}"]
        abnormal_prompts: Sentences for the abnormal state. ["a photo of a damaged {}"]
        test_normal_prompts: Sentences for the normal state at test, where they differ from those of training.
        test_abnormal_prompts: Sentences for the abnormal state at test, where they differ from those of training.
        top_pixels: How many of the largest pixels make the image score. [2,000 of 518 x 518, scaled by area]
        sigma: Gaussian smoothing of the map in pixels. [8 of 518, scaled by height]
        quick_gelu: Whether CLIP runs with QuickGELU. [no: the reference code runs OpenAI's weights with the exact GELU]
        mean: Mean of red, green and blue, 0..1, that images are normalised by. [the pretrained tag's, else OpenAI's]
        std: Their standard deviation. [the pretrained tag's, else OpenAI's]
        k_shot: Number of normal reference images of each category. 0 goes without, unless ``weights`` hold some.
        few_shot_source: Folder of normal images to choose the references from, with or without a subfolder for each
            category. ``None``: the datamodule's normal training images.
        seed: Seed of the choice of references; nothing else depends on it.
        reference_layers: Image blocks whose patch tokens, as CLIP has them, are compared with the references'. [the
            same as ``layers``]
        reference_weight: Share of the references in map and score, 0..1. [0.5]
        coreset_ratio: Share of the references' positions that is kept, above 0, to 1, chosen so that each one left out
            has one kept near it (k-center greedy). [all]
        reference_block: How many positions of references are compared at once, which bounds the memory. [2048]
        rotate_references: Whether references are kept turned by 90, 180 and 270 degrees, too, for parts that lie any
            way round.
        allow_overlap: Whether ``few_shot_source`` may hold test images.
        lr: Learning rate: 4e-5 in the paper's code when learning on VisA, 2e-5 on MVTec AD.
        temperature_lr: Learning rate of the two temperatures.
        augment: Whether training images are rotated, recoloured, blurred and made noisy, as in the reference code; see
            also ``cache_variants``.
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

    MODEL: ClassVar[type[nn.Module]] = VcpClipModel
    PAPER_EPOCHS: ClassVar[int] = 10
    REFERENCE_KEYS: ClassVar[dict[str, str | None]] = {
        "trainable_linearlayer.fc.": "patch_projections.",
        "New_Lan_Embed.prompt_query": "pre_vcp.query",
        "New_Lan_Embed.prompt_temp": "temperature",
        "New_Lan_Embed.prompt_linear1.fc.": "pre_vcp.convolution.",
        "Zero_try.prompt_temp_l1": "post_vcp.temperature",
        "Zero_try.q_proj_pre.": "post_vcp.query.",
        "Zero_try.k_proj_pre_1.": "post_vcp.key.",
        "Zero_try.v_proj_pre_1.": "post_vcp.value.",
        "Zero_try.proj_post_t.": "post_vcp.output.",
        "prompt_embeddings": "deep_prompts.first",
        "deep_prompt_embeddings": "deep_prompts.deep",
        "prompt_proj.": "deep_prompts.projection.",
        "prompt_norm.": "deep_prompts.norm.",
        "prompt_text_projection": None,  # the reference saves it and never uses it
    }
    LENGTHS: ClassVar[Lengths] = {
        "prompt_len": size_of("model.pre_vcp.query", 1),
        "deep_prompt_len": size_of("model.deep_prompts.deep", 1, absent=0),  # the projection is there even then
    }

    def __init__(
        self,
        backbone: str | None = None,
        pretrained: str | Path | None = AUTO,
        weights: str | Path | None = None,
        fine_tune: bool = False,
        image_size: ImageSize | None = None,
        layers: Layers | None = None,
        prompt_len: Count | None = None,
        deep_prompt_len: CountFrom0 | None = None,
        use_global: bool | None = None,
        branch: Branch | None = None,
        base_weight: Share | None = None,
        normal_prompts: Words | None = None,
        abnormal_prompts: Words | None = None,
        test_normal_prompts: Words | None = None,
        test_abnormal_prompts: Words | None = None,
        top_pixels: Count | None = None,
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
        lr: PositiveNumber = 4e-5,
        temperature_lr: NonNegativeNumber = 0.01,
        augment: bool = True,
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
        self.loss = VcpClipLoss()

    def paper_arguments(self, clip: Backbone) -> dict[str, Any]:
        """Return the paper's values for this CLIP."""
        return {**defaults_of(VcpClipModel), "layers": quarter_layers(clip.vision.depth)}

    def configure_augmentation(self) -> nn.Module | None:
        """Configure the reference code's augmentation."""
        return TrainingAugmentation(self.model.backbone.vision.image_size) if self.hparams["augment"] else None

    def training_step(self, batch: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute the loss of a batch of images with masks."""
        del args, kwargs
        loss = self.loss(self.model.layer_maps_of(self.frozen_features(batch.image)), batch.gt_mask)
        self.log("train_loss", loss, on_epoch=True, prog_bar=True, batch_size=len(batch.image))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Configure Adam at a constant learning rate, with another one for the temperatures."""
        learned = [(name, value) for name, value in self.model.named_parameters() if value.requires_grad]
        temperatures = [value for name, value in learned if name.endswith("temperature")]
        others = [value for name, value in learned if not name.endswith("temperature")]
        rates = self.hparams
        groups: list[dict[str, Any]] = [{"params": others}, {"params": temperatures, "lr": rates["temperature_lr"]}]
        return torch.optim.Adam(groups, lr=rates["lr"], betas=ADAM_BETAS)
