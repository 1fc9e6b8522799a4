# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Random draws of training that depend on the seed, the epoch and the image alone.

Neither the number of worker processes changes them, nor an interruption: Lightning resumes a run with other random
numbers than the run had when it stopped, so nothing here draws from a generator that goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset, DatasetItem
from pandas import DataFrame
from torch import distributed
from torch.utils.data import DataLoader, Dataset, DistributedSampler

# Splits and draws that have no seed of their own would come out differently in every process.
DEFAULT_SEED = 0


def run_seed() -> int:
    """Return the seed that Lightning's ``seed_everything`` was given, 0 without one; the same in every process."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def derive_seed(*numbers: int) -> int:
    """Make one seed of several numbers, such as a seed, an epoch and an index."""
    entropy = [len(numbers), *(number % 2**32 for number in numbers)]  # without the length, (1,) would be (1, 0)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


class SeededDataset(Dataset):
    """A dataset whose random draws (mosaics, augmentations) depend on seed, epoch and index alone.

    Args:
        dataset: The dataset, which draws from PyTorch's default generator.
        seed: Seed of its draws.
    """

    def __init__(self, dataset: AnomalibDataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.variants: int | None = None  # after so many epochs their draws come again
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that outlive an epoch

    @property
    def samples(self) -> DataFrame:
        """Table of the dataset's samples."""
        return self.dataset.samples

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> DatasetItem:
        """Read one item; the generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            epoch = int(self.epoch) % self.variants if self.variants else int(self.epoch)
            torch.default_generator.manual_seed(derive_seed(self.seed, epoch, index))
            return self.dataset[index]


class EpochSampler(DistributedSampler):
    """Shuffle by seed and epoch, shared between the processes, and tell the dataset the epoch.

    Args:
        dataset: The dataset to shuffle.
    """

    def __init__(self, dataset: SeededDataset) -> None:
        shared = distributed.is_available() and distributed.is_initialized()
        processes, rank = (distributed.get_world_size(), distributed.get_rank()) if shared else (1, 0)
        super().__init__(dataset, processes, rank, seed=derive_seed(dataset.seed))

    def set_epoch(self, epoch: int) -> None:
        """Take the epoch's order; Lightning calls this before every epoch."""
        super().set_epoch(epoch)
        self.dataset.epoch.fill_(epoch)  # type: ignore[attr-defined]


class LateLoader(DataLoader):
    """A loader that starts to read when it is asked for the first batch.

    Lightning makes a resumed run's iterator before it tells the sampler the epoch; worker processes would by then read
    the first epoch's images.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()


def training_loader(datamodule: AnomalibDataModule) -> DataLoader:
    """Load a datamodule's training images in random order; order and draws depend on seed, epoch and image alone.

    Args:
        datamodule: The datamodule, set up. Its own seed counts, and the run's (:func:`run_seed`).

    Returns:
        The loader.
    """
    dataset = SeededDataset(datamodule.train_data, derive_seed(run_seed(), datamodule.seed or DEFAULT_SEED))
    return LateLoader(
        dataset,
        batch_size=datamodule.train_batch_size,
        sampler=EpochSampler(dataset),
        num_workers=datamodule.num_workers,
        collate_fn=datamodule.external_collate_fn or datamodule.train_data.collate_fn,
    )
