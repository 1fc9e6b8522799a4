# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Images that have labels and masks, beside others that lack them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import groupby

from anomalib import TaskType
from anomalib.data import AnomalibDataset, Batch
from anomalib.data.utils import LabelName
from torch.utils.data import BatchSampler, Dataset

from anomalib_clipzoo.data.checks import mask_paths

logger = logging.getLogger(__name__)


def annotations_of(dataset: AnomalibDataset) -> list[tuple[bool, bool]]:
    """Say of each image whether its label is known, and whether it lacks a mask that others of the dataset have."""
    samples = dataset.samples
    known = samples["label_index"] != LabelName.UNKNOWN
    maskless = samples["mask_path"].map(lambda cell: not mask_paths(cell)) & (dataset.task == TaskType.SEGMENTATION)
    lacks = maskless & (samples["label_index"] != LabelName.NORMAL)
    return list(zip(known, lacks, strict=True))


def all_alike(dataset: AnomalibDataset) -> bool:
    """Tell whether all images are annotated alike."""
    return len(set(annotations_of(dataset))) <= 1


class AlikeBatches(Dataset):
    """Batches of a dataset, in order, of images that are annotated alike.

    A tensor of masks cannot have holes: beside an anomalous image without a mask, all others would lose theirs.

    Args:
        dataset: The images.
        batch_size: The most images in one batch.
        collate_fn: What makes a batch of items.
    """

    def __init__(self, dataset: AnomalibDataset, batch_size: int, collate_fn: Callable) -> None:
        self.dataset = dataset
        self.collate_fn = collate_fn
        groups = groupby(range(len(dataset)), key=annotations_of(dataset).__getitem__)
        self.batches = [rows for _, group in groups for rows in BatchSampler(group, batch_size, drop_last=False)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Batch:
        """Read a batch."""
        return self.collate_fn([self.dataset[row] for row in self.batches[number]])


def warn_of_missing_masks(dataset: AnomalibDataset) -> None:
    """Say which anomalous images count in no pixel metric, since they have no mask."""
    lacking = dataset.samples[[lacks for _, lacks in annotations_of(dataset)]]
    lacking = lacking[lacking["label_index"] == LabelName.ABNORMAL]
    if len(lacking):
        counts = lacking["category"].fillna("-").value_counts(sort=False)
        logger.warning(
            "%d anomalous test images have no mask and count in no pixel metric: %s.",
            len(lacking),
            ", ".join(f"{category} ({count})" for category, count in counts.items()),
        )
