# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What happens to training images before the pre-processor resizes and normalises them."""

import logging
from typing import Any

from anomalib.data import Batch
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

logger = logging.getLogger(__name__)


class TrainingImages(Callback):
    """Synthesise anomalies where a training set has none, and augment, on images as they were read.

    Args:
        augmentation: Maps a batch's images ``(B, 3, H, W)``, 0..1, and masks ``(B, H, W)`` to augmented ones.
    """

    def __init__(self, augmentation: nn.Module | None = None) -> None:
        self.augmentation = augmentation
        self.synthesize: nn.Module | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look whether the training set has annotated anomalies to learn from."""
        if not _has_no_anomalies(trainer):
            return
        logger.warning(
            "The training images have no annotated anomalies: %s learns on synthetic (Perlin noise) anomalies. "
            "For the paper's protocol, learn on another dataset's annotated images with CrossDataset.",
            type(pl_module).__name__,
        )
        self.synthesize = PerlinAnomalyGenerator()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Change the batch in place."""
        del trainer, pl_module, batch_idx
        if self.synthesize is not None:
            batch.image, masks = self.synthesize(batch.image)
            batch.gt_mask = masks.squeeze(1).bool()
            batch.gt_label = batch.gt_mask.flatten(1).any(dim=1)
        if self.augmentation is not None:
            batch.image, batch.gt_mask = self.augmentation(batch.image, batch.gt_mask)


def _has_no_anomalies(trainer: Any) -> bool:
    """Tell whether the training set is known to have no anomalous image."""
    samples = getattr(getattr(trainer.datamodule, "train_data", None), "samples", None)
    if samples is None or "label_index" not in samples:
        return False
    return not (samples["label_index"] == 1).any()
