# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""VCP-CLIP as an anomalib model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from torch import nn

from anomalib_clipzoo.clip import Backbone, default_image_size, quarter_layers
from anomalib_clipzoo.models.components.module import ClipZooModule, choose
from anomalib_clipzoo.models.components.weights import LearnedWeights

from .augmentation import TrainingAugmentation
from .loss import VcpClipLoss
from .torch_model import ABNORMAL_PROMPTS, NORMAL_PROMPTS, PAPER_SIZE, Branch, VcpClipModel

ADAM_BETAS = (0.5, 0.999)
QUERY = "model.pre_vcp.query"
DEEP_PROMPTS = "model.deep_prompts.deep"


class VcpClip(ClipZooModule, AnomalibModule):  # type: ignore[misc]  # Lightning and anomalib disagree on to_onnx
    """VCP-CLIP: visual context prompting for zero-shot anomaly segmentation (ECCV 2024, arXiv 2407.12276).

    It learns on one dataset's annotated images and is used on products that it never saw. Without annotated anomalies
    it learns on synthetic ones; with ``weights`` nothing is learned.

    Args:
        backbone: An open_clip name with a plain ViT tower, a path to an open_clip JSON config, or "toy".
        pretrained: An open_clip tag, a path to a file of CLIP weights, or ``None`` for random weights.
        weights: Learned weights: a .safetensors or .ckpt of this package, or the reference repository's own .pth.
        image_size: Height and width in pixels, multiples of the patch size. ``None``: that of ``weights``, or the
            paper's 518 where the patch size divides it, or the backbone's native size.
        layers: Image blocks whose patch tokens are used, counted from 1. ``None``: those of ``weights``, or the quarter
            points of the tower, the paper's (6, 12, 18, 24) of 24.
        prompt_len: Number of learned vectors in place of the product's name. ``None``: that of ``weights``, or 2.
        deep_prompt_len: Number of learned tokens in every text block, 0 for none. ``None``: that of ``weights``, or 1.
        use_global: Whether the image's global feature shapes the prompt (Pre-VCP). ``None``: as ``weights``, or yes.
        branch: "fused" for both maps, "base" or "post" for one of them alone. ``None``: as ``weights``, or "fused".
        base_weight: Weight of the base map in the fused map.
        normal_prompts: Sentences for the normal state; {} is where the learned vectors go. ``None``: those of
            ``weights``, or "a photo of a good {}".
        abnormal_prompts: Sentences for the abnormal state. ``None``: as ``weights``, or "a photo of a damaged {}".
        test_normal_prompts: Sentences for the normal state at test, where they differ from those of training.
        test_abnormal_prompts: Sentences for the abnormal state at test, where they differ from those of training.
        top_pixels: How many of the largest pixels make the image score. ``None``: that of ``weights``, or 2,000 of
            518 x 518, scaled by area.
        sigma: Gaussian smoothing of the map in pixels. ``None``: that of ``weights``, or 8 of 518, scaled by height.
        quick_gelu: Whether CLIP runs with QuickGELU. The reference code runs OpenAI's weights with the exact GELU.
        lr: Learning rate: 4e-5 in the paper's code when learning on VisA, 2e-5 on MVTec AD.
        temperature_lr: Learning rate of the two temperatures.
        augment: Whether training images are rotated, recoloured, blurred and made noisy, as in the reference code.
        pre_processor: Pre-processor, or whether to use the default.
        post_processor: Post-processor, or whether to use the default.
        evaluator: Evaluator, or whether to use the default.
        visualizer: Visualizer, or whether to use the default.

    Raises:
        ValueError: If backbone, weights, image size, layers or prompts do not fit together; the message says how.
        FileNotFoundError: If a file does not exist or CLIP's weights cannot be downloaded.
    """

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

    def __init__(
        self,
        backbone: str = "ViT-L-14-336",
        pretrained: str | Path | None = "openai",
        weights: str | Path | None = None,
        image_size: int | Sequence[int] | None = None,
        layers: Sequence[int] | None = None,
        prompt_len: int | None = None,
        deep_prompt_len: int | None = None,
        use_global: bool | None = None,
        branch: Branch | None = None,
        base_weight: float = 0.2,
        normal_prompts: Sequence[str] | None = None,
        abnormal_prompts: Sequence[str] | None = None,
        test_normal_prompts: Sequence[str] | None = None,
        test_abnormal_prompts: Sequence[str] | None = None,
        top_pixels: int | None = None,
        sigma: float | None = None,
        quick_gelu: bool = False,
        lr: float = 4e-5,
        temperature_lr: float = 0.01,
        augment: bool = True,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        learned = self.read_weights(weights)
        image_size = choose(image_size, learned, "image_size", default_image_size(backbone, PAPER_SIZE))
        clip = Backbone(backbone, pretrained, quick_gelu=quick_gelu, image_size=image_size)
        image_size = clip.vision.image_size
        layers = choose(layers, learned, "layers", quarter_layers(clip.vision.depth))
        prompt_len = choose(prompt_len, learned, "prompt_len", 2)
        deep_prompt_len = choose(deep_prompt_len, learned, "deep_prompt_len", 1)
        use_global = choose(use_global, learned, "use_global", True)
        branch = choose(branch, learned, "branch", "fused")
        normal_prompts = choose(normal_prompts, learned, "normal_prompts", NORMAL_PROMPTS)
        abnormal_prompts = choose(abnormal_prompts, learned, "abnormal_prompts", ABNORMAL_PROMPTS)
        top_pixels = choose(top_pixels, learned, "top_pixels", None)
        sigma = choose(sigma, learned, "sigma", None)
        model = VcpClipModel(
            clip,
            layers=layers,
            prompt_len=prompt_len,
            deep_prompt_len=deep_prompt_len,
            use_global=use_global,
            branch=branch,
            base_weight=base_weight,
            normal_prompts=normal_prompts,
            abnormal_prompts=abnormal_prompts,
            test_normal_prompts=test_normal_prompts,
            test_abnormal_prompts=test_abnormal_prompts,
            top_pixels=top_pixels,
            sigma=sigma,
        )
        super().__init__(
            pre_processor=self.configure_pre_processor(image_size) if pre_processor is True else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.model = model
        self.loss = VcpClipLoss()
        self.augment = augment
        self.lr = lr
        self.temperature_lr = temperature_lr
        if learned:
            self.load_weights(learned)

    @classmethod
    def read_weights(cls, weights: str | Path | None) -> LearnedWeights | None:
        """Read learned weights; the lengths of their prompts can be told from their shapes."""
        learned = super().read_weights(weights)
        if learned is None:
            return None
        state = dict(learned.state)
        if DEEP_PROMPTS not in state:  # the reference saves the other deep-prompt weights even where it has none
            state = {key: value for key, value in state.items() if not key.startswith("model.deep_prompts.")}
        for key in state:
            if key.startswith("model.post_vcp."):  # the reference has convolutions of kernel 1: (out, in, 1)
                state[key] = state[key].flatten(1) if state[key].dim() > 1 else state[key]
        lengths = {
            "prompt_len": state[QUERY].shape[1] if QUERY in state else None,
            "deep_prompt_len": state[DEEP_PROMPTS].shape[1] if DEEP_PROMPTS in state else 0,
        }
        return replace(learned, state=state, arguments={**learned.arguments, **lengths})

    def configure_augmentation(self) -> nn.Module | None:
        """Configure the reference code's augmentation."""
        return TrainingAugmentation(self.model.backbone.vision.image_size) if self.augment else None

    def training_step(self, batch: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute the loss of a batch of images with masks."""
        del args, kwargs
        loss = self.loss(self.model.layer_maps(batch.image), batch.gt_mask)
        self.log("train_loss", loss, on_epoch=True, prog_bar=True, batch_size=len(batch.image))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Configure Adam with two groups: the temperatures learn faster."""
        learned = [(name, value) for name, value in self.model.named_parameters() if value.requires_grad]
        temperatures = [value for name, value in learned if name.endswith("temperature")]
        others = [value for name, value in learned if not name.endswith("temperature")]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": temperatures, "lr": self.temperature_lr}]
        return torch.optim.Adam(groups, lr=self.lr, betas=ADAM_BETAS)
