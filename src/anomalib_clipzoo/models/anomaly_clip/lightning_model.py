# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AnomalyCLIP as an anomalib model."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from torch import nn

from anomalib_clipzoo.clip import Backbone, default_image_size
from anomalib_clipzoo.models.components.module import ClipZooModule, choose
from anomalib_clipzoo.models.components.weights import LearnedWeights

from .dual_path import LocalAttention
from .loss import LOCAL_WEIGHT, AnomalyClipLoss
from .prompting import ABNORMAL_STATES, CLASS_NAME, DEPTH, N_CTX, NORMAL_STATES, T_N_CTX
from .torch_model import PAPER_SIZE, AnomalyClipModel

logger = logging.getLogger(__name__)

ADAM_BETAS = (0.5, 0.999)
CONTEXT = "model.prompts.normal"
DEEP_PROMPTS = "model.prompts.deep."


class AnomalyClip(ClipZooModule, AnomalibModule):  # type: ignore[misc]  # Lightning and anomalib disagree on to_onnx
    """AnomalyCLIP: object-agnostic prompt learning for zero-shot anomaly detection (ICLR 2024, arXiv 2310.18961).

    It learns on one dataset's annotated images and is used on products that it never saw. Without annotated anomalies
    it learns on synthetic ones; with ``weights`` nothing is learned.

    Args:
        backbone: An open_clip name with a plain ViT tower, a path to an open_clip JSON config, or "toy".
        pretrained: An open_clip tag, a path to a file of CLIP weights, or ``None`` for random weights.
        weights: Learned weights: a .safetensors or .ckpt of this package, or the reference repository's own .pth.
        image_size: Height and width in pixels, multiples of the patch size. ``None``: that of ``weights``, or the
            paper's 518 where the patch size divides it, or the backbone's native size.
        layers: Image blocks whose patches are compared with the texts, counted from 1. ``None``: those of ``weights``,
            or the last alone, which all published numbers were made with. The paper describes (6, 12, 18, 24) of 24.
        dpam_layer: Where the local stream begins, in the reference code's counting: the last ``dpam_layer - 1`` blocks
            have one, 1 goes without. ``None``: that of ``weights``, or 20 of 24, scaled by depth.
        local_attention: Attention of the local stream: "vv" (values to values), "qq" or "kk". ``None``: that of
            ``weights``, or "vv".
        normal_states: States of things in order, averaged; {} is where the object goes, which else comes last.
            ``None``: those of ``weights``, or the object alone.
        abnormal_states: States of things with an anomaly, averaged, such as "cracked" or "{} with a missing part".
            ``None``: those of ``weights``, or "damaged".
        class_name: The word for any object. ``None``: that of ``weights``, or "object".
        n_ctx: Number of learned words in a prompt. ``None``: that of ``weights``, or 12.
        depth: How many blocks of the text tower get learned tokens, the first with its learned words included.
            ``None``: that of ``weights``, or 9, or all where the tower has fewer.
        t_n_ctx: Number of learned tokens in a block. ``None``: that of ``weights``, or 4.
        half_prompts: Whether the learned tokens pass through half precision, as in the reference code. ``None``: as
            ``weights``, or yes.
        sigma: Gaussian smoothing of the map in pixels. ``None``: 4 of 518, scaled by height.
        quick_gelu: Whether CLIP runs with QuickGELU, as OpenAI's weights were trained with.
        lr: Learning rate.
        local_weight: Weight of the maps' losses, which add up over layers; that of the images' loss is 1.
        pre_processor: Pre-processor, or whether to use the default.
        post_processor: Post-processor, or whether to use the default.
        evaluator: Evaluator, or whether to use the default.
        visualizer: Visualizer, or whether to use the default.

    Raises:
        ValueError: If backbone, weights, image size, layers or prompts do not fit together; the message says how.
        FileNotFoundError: If a file does not exist or CLIP's weights cannot be downloaded.
    """

    PAPER_EPOCHS: ClassVar[int] = 15
    REFERENCE_KEYS: ClassVar[dict[str, str | None]] = {
        "prompt_learner.ctx_pos": "prompts.normal",
        "prompt_learner.ctx_neg": "prompts.abnormal",
        "prompt_learner.compound_prompts_text.": "prompts.deep.",
        "prompt_learner.token_prefix_": None,  # CLIP's own token embeddings
        "prompt_learner.token_suffix_": None,
        "prompt_learner.tokenized_prompts_": None,
        "prompt_learner.compound_prompt_projections.": None,  # the reference saves them and never uses them
    }

    def __init__(
        self,
        backbone: str = "ViT-L-14-336",
        pretrained: str | Path | None = "openai",
        weights: str | Path | None = None,
        image_size: int | Sequence[int] | None = None,
        layers: Sequence[int] | None = None,
        dpam_layer: int | None = None,
        local_attention: LocalAttention | None = None,
        normal_states: Sequence[str] | None = None,
        abnormal_states: Sequence[str] | None = None,
        class_name: str | None = None,
        n_ctx: int | None = None,
        depth: int | None = None,
        t_n_ctx: int | None = None,
        half_prompts: bool | None = None,
        sigma: float | None = None,
        quick_gelu: bool = True,
        lr: float = 1e-3,
        local_weight: float = LOCAL_WEIGHT,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        learned = self.read_weights(weights)
        image_size = choose(image_size, learned, "image_size", default_image_size(backbone, PAPER_SIZE))
        clip = Backbone(
            backbone,
            pretrained,
            quick_gelu=quick_gelu,
            image_size=image_size,
            interpolation="bilinear",
            antialias=False,
        )
        image_size = clip.vision.image_size
        layers = choose(layers, learned, "layers", (clip.vision.depth,))
        dpam_layer = choose(dpam_layer, learned, "dpam_layer", None)
        local_attention = choose(local_attention, learned, "local_attention", "vv")
        normal_states = choose(normal_states, learned, "normal_states", NORMAL_STATES)
        abnormal_states = choose(abnormal_states, learned, "abnormal_states", ABNORMAL_STATES)
        class_name = choose(class_name, learned, "class_name", CLASS_NAME)
        half_prompts = choose(half_prompts, learned, "half_prompts", True)
        n_ctx, depth, t_n_ctx = choose_lengths(
            {"n_ctx": n_ctx, "depth": depth, "t_n_ctx": t_n_ctx},
            learned,
            {"n_ctx": N_CTX, "depth": min(DEPTH, clip.text.depth), "t_n_ctx": T_N_CTX},
        )
        model = AnomalyClipModel(
            clip,
            layers=layers,
            dpam_layer=dpam_layer,
            local_attention=local_attention,
            normal_states=normal_states,
            abnormal_states=abnormal_states,
            class_name=class_name,
            n_ctx=n_ctx,
            depth=depth,
            t_n_ctx=t_n_ctx,
            half_prompts=half_prompts,
            sigma=sigma,
        )
        super().__init__(
            pre_processor=self.configure_pre_processor(image_size) if pre_processor is True else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.model = model
        self.loss = AnomalyClipLoss(local_weight)
        self.lr = lr
        if learned:
            self.load_weights(learned)

    @classmethod
    def read_weights(cls, weights: str | Path | None) -> LearnedWeights | None:
        """Read learned weights; the lengths of their prompts can be told from their shapes."""
        learned = super().read_weights(weights)
        return learned and replace(learned, arguments={**learned.arguments, **_lengths_of(learned.state)})

    def training_step(self, batch: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute the loss of a batch of images with labels and masks."""
        del args, kwargs
        features = self.model.image_features(batch.image)
        logits, patches = self.model.compare(features, self.model.encode_text())
        loss = self.loss(logits, self.model.layer_maps(patches), batch.gt_label, batch.gt_mask)
        self.log("train_loss", loss, on_epoch=True, prog_bar=True, batch_size=len(batch.image))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Configure Adam on the prompts."""
        return torch.optim.Adam(self.model.prompts.parameters(), lr=self.lr, betas=ADAM_BETAS)


def choose_lengths(
    given: Mapping[str, int | None],
    learned: LearnedWeights | None,
    default: Mapping[str, int],
) -> list[int]:
    """Return the prompts' lengths: those of the learned weights, else what the user gave, else the default.

    Raises:
        ValueError: If the user gave others than the weights have.
    """
    found = {name: learned.arguments[name] for name in given if name in learned.arguments} if learned else {}
    if learned and any(value not in {None, found.get(name, value)} for name, value in given.items()):
        msg = f"The prompts in {learned.path} have {_say(found)}: leave these arguments out, or give the same."
        raise ValueError(msg)
    if learned and not learned.fingerprint and found != {name: default[name] for name in found}:
        logger.warning("The prompts in %s have %s: the model is made to fit.", learned.path, _say(found))
    return [choose(value, learned, name, default[name]) for name, value in given.items()]


def _lengths_of(state: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Tell the lengths of prompts from the shapes of their tensors, as far as they are there."""
    deep = [value for name, value in state.items() if name.startswith(DEEP_PROMPTS)]
    lengths = {"n_ctx": state[CONTEXT].shape[-2]} if CONTEXT in state else {}
    return {**lengths, "depth": len(deep) + 1, **({"t_n_ctx": deep[0].shape[0]} if deep else {})}


def _say(lengths: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in lengths.items())
