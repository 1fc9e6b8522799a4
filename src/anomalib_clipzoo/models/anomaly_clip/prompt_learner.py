# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What AnomalyClip and Crane share as anomalib models: prompts for any object are all that is learned."""

from typing import Any, ClassVar

import torch
from torch import nn

from anomalib_clipzoo.clip import Backbone
from anomalib_clipzoo.models.components.arguments import defaults_of
from anomalib_clipzoo.models.components.few_shot import FewShotModule
from anomalib_clipzoo.models.components.weights import Lengths, number_of, size_of

from .torch_model import ImageFeatures


class PromptLearner(FewShotModule):
    """Mixin for models that learn :class:`~.prompting.ObjectAgnosticPrompts`, see :class:`FewShotModule`.

    Their torch model is an :class:`~.torch_model.AnomalyClipModel`, and they have a loss of images and maps.
    """

    QUICK_GELU: ClassVar[bool] = True
    POSITIONS: ClassVar[dict[str, Any]] = {"interpolation": "bilinear", "antialias": False}
    FEATURES_DEPEND_ON: ClassVar[tuple[str, ...]] = ("layers", "dpam_layer", "local_attention")
    REFERENCE_KEYS: ClassVar[dict[str, str | None]] = {
        "prompt_learner.ctx_pos": "prompts.normal",
        "prompt_learner.ctx_neg": "prompts.abnormal",
        "prompt_learner.compound_prompts_text.": "prompts.deep.",
        "prompt_learner.token_prefix_": None,  # CLIP's own token embeddings
        "prompt_learner.token_suffix_": None,
        "prompt_learner.tokenized_prompts_": None,
    }
    LENGTHS: ClassVar[Lengths] = {
        "n_ctx": size_of("model.prompts.normal", -2),
        "depth": number_of("model.prompts.deep.", more=1),
        "t_n_ctx": size_of("model.prompts.deep.0", 0),
    }
    ADAM_BETAS: ClassVar[tuple[float, float]]

    loss: nn.Module

    def paper_arguments(self, clip: Backbone) -> dict[str, Any]:
        """Return the paper's values for this CLIP."""
        defaults = defaults_of(self.MODEL)
        return {**defaults, "layers": (clip.vision.depth,), "depth": min(defaults["depth"], clip.text.depth)}

    def training_step(self, batch: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute the loss of a batch of images with labels and masks."""
        del args, kwargs
        features = ImageFeatures.of_frozen(self.frozen_features(batch.image))
        logits, patches = self.model.compare(features, self.training_text(features))
        loss = self.loss(logits, self.model.layer_maps(patches), batch.gt_label, batch.gt_mask)
        self.log("train_loss", loss, on_epoch=True, prog_bar=True, batch_size=len(batch.image))
        return loss

    def training_text(self, features: ImageFeatures) -> torch.Tensor:
        """Encode the prompts that a batch is compared with in training, ``(2, E)`` or ``(B, 2, E)``."""
        del features
        return self.model.encode_text()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Configure Adam on the prompts."""
        return torch.optim.Adam(self.model.prompts.parameters(), lr=self.hparams["lr"], betas=self.ADAM_BETAS)
