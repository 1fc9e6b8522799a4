# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What happens to training images before the pre-processor resizes and normalises them."""

import logging
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from anomalib.data import Batch
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import ConcatDataset, RandomSampler, Subset

from anomalib_clipzoo.data.checks import check_masks_given
from anomalib_clipzoo.data.seeding import SeededDataset, derive_seed, run_seed

from .feature_cache import image_hash

logger = logging.getLogger(__name__)


class TrainingImages(Callback):
    """Synthesise anomalies where a training set has none, and augment, on images as they were read.

    All random numbers of a batch, those of the training step included, depend on the run's seed, the epoch and the
    batch's number alone, and the order of images on seed and epoch, so that a resumed run goes on as if it had not
    stopped. Worker processes of loaders that are not this package's get the order too late in the first epoch after
    that.

    Args:
        augmentation: Maps a batch's images ``(B, 3, H, W)``, 0..1, and masks ``(B, H, W)`` to augmented ones.
        variants: In how many variants each image comes, one epoch after the other, over and over: first without
            augmentation, then with. ``None`` for a new one in every epoch.
    """

    def __init__(self, augmentation: nn.Module | None = None, variants: int | None = None) -> None:
        self.augmentation = augmentation
        self.variants = variants
        self.synthesize: nn.Module | None = None
        self.order = torch.Generator()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed what the loader's workers draw."""
        del pl_module
        _seed(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look whether the training set has annotated anomalies to learn from.

        Raises:
            ValueError: If it has anomalous images without masks.
        """
        sampler = getattr(trainer.train_dataloader, "sampler", None)
        if isinstance(sampler, RandomSampler) and sampler.generator is None:
            sampler.generator = self.order
        model, dataset = type(pl_module).__name__, getattr(trainer.train_dataloader, "dataset", None)
        if isinstance(dataset, SeededDataset):
            dataset.variants = self.variants
        samples = known_samples(dataset)
        if samples is None:
            logger.warning(
                "The training set has no table of its samples, so nobody can see whether it has annotated anomalies. "
                "%s needs some: from normal images alone it learns that everything is normal.",
                model,
            )
        elif (samples["label_index"] == 1).any():
            check_masks_given(samples, "the training set")
        else:
            logger.warning(
                "The training images have no annotated anomalies: %s learns on synthetic (Perlin noise) anomalies. "
                "For the paper's protocol, learn on another dataset's annotated images with CrossDataset.",
                model,
            )
            self.synthesize = PerlinAnomalyGenerator()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed the epoch's order, and what the loader's workers draw."""
        del pl_module
        _seed(trainer, trainer.current_epoch)
        self.order.manual_seed(derive_seed(run_seed(), trainer.current_epoch))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Change the batch in place.

        Raises:
            ValueError: If it has an anomalous image, but no masks.
        """
        del pl_module
        _seed(trainer, trainer.current_epoch, batch_idx)
        variant = None if self.variants is None else trainer.current_epoch % self.variants
        if self.synthesize is not None:
            batch.image, masks = _change(self.synthesize, variant, batch.image)
            batch.gt_mask = masks.squeeze(1).bool()
            batch.gt_label = batch.gt_mask.flatten(1).any(dim=1)
        elif batch.gt_mask is None:
            batch.gt_mask = _masks_of_normal_images(batch)
        if self.augmentation is not None and variant != 0:
            batch.image, batch.gt_mask = _change(self.augmentation, variant, batch.image, batch.gt_mask)
        if variant is not None:
            _seed(trainer, trainer.current_epoch, batch_idx)


def known_samples(dataset: Any) -> pd.DataFrame | None:
    """Find the table of a dataset's samples, through PyTorch's own wrappers.

    Args:
        dataset: Any dataset.

    Returns:
        The table with the column ``label_index``, or ``None`` where there is none.
    """
    if isinstance(dataset, Subset):
        samples = known_samples(dataset.dataset)
        return None if samples is None else samples.iloc[list(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        parts = [known_samples(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else pd.concat(parts)
    samples = getattr(dataset, "samples", None)
    return samples if isinstance(samples, pd.DataFrame) and "label_index" in samples else None


def _masks_of_normal_images(batch: Any) -> torch.Tensor:
    """Return empty masks ``(B, H, W)`` for a batch of normal images."""
    if batch.gt_label is None or batch.gt_label.any():
        msg = "Anomalous training images, or images without labels, have no masks, which learning needs. "
        msg += f"They are among: {', '.join(batch.image_path or ['(a batch without paths)'])}."
        raise ValueError(msg)
    return torch.zeros_like(batch.image[:, 0], dtype=torch.bool)


def _change(change: nn.Module, variant: int | None, *tensors: Any) -> Sequence[torch.Tensor]:
    """Change images and what belongs to them, all at once, or each by itself to a variant that depends on it alone."""
    if variant is None:
        return change(*tensors)
    changed = []
    for row in zip(*(tensor.split(1) for tensor in tensors), strict=True):
        torch.manual_seed(derive_seed(run_seed(), variant, int(image_hash(row[0])[:8], 16)))
        changed.append(change(*row))
    return [torch.cat(rows) for rows in zip(*changed, strict=True)]


def _seed(trainer: Trainer, *place: int) -> None:
    """Seed PyTorch for a place in the run, differently in every process."""
    torch.manual_seed(derive_seed(run_seed(), trainer.global_rank, *place))
