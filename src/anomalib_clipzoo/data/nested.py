# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Datamodules inside datamodules: what ``MultiCategory`` and ``CrossDataset`` share."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from anomalib.data import AnomalibDataModule, AnomalibDataset
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import distributed
from torch.utils.data import DataLoader, Dataset

from anomalib_clipzoo.data.alike import AlikeBatches, all_alike
from anomalib_clipzoo.data.seeding import DEFAULT_SEED, training_loader

SUBSETS = ("train_data", "val_data", "test_data")


def as_datamodule(config: AnomalibDataModule | Mapping | DictConfig | Namespace) -> AnomalibDataModule:
    """Build a datamodule from its configuration.

    Args:
        config: ``{"class_path": ..., "init_args": {...}}`` as a dictionary, an OmegaConf or a jsonargparse node, with a
            short class name or a dotted path; or a datamodule, which is returned as it is.

    Returns:
        The datamodule.

    Raises:
        ValueError: If there is no such class or it does not take these arguments.
    """
    if isinstance(config, AnomalibDataModule):
        return config
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("data", type=AnomalibDataModule)
    try:
        parsed = parser.parse_object({"data": _plain(config)})
    except ArgumentError as error:
        msg = f"This does not describe a datamodule: {config}. {error}"
        raise ValueError(msg) from error
    return parser.instantiate_classes(parsed).data


def _plain(config: Any) -> Any:
    """Turn configuration nodes into dictionaries and lists."""
    if isinstance(config, Namespace):
        return config.as_dict()
    if isinstance(config, (DictConfig, ListConfig)):
        return OmegaConf.to_container(config, resolve=True)
    if isinstance(config, Mapping):
        return {key: _plain(value) for key, value in config.items()}
    return config


def fresh_copy(datamodule: AnomalibDataModule, **changes: Any) -> AnomalibDataModule:
    """Copy a datamodule as if it had just been built, with some of its attributes changed.

    Args:
        datamodule: The datamodule, set up or not; it is left as it is.
        **changes: Attributes of the copy.

    Returns:
        The copy, not set up. A seed is filled in where there is none, so that every process splits alike.
    """
    inner = copy.copy(datamodule)
    inner.trainer = None
    inner._is_setup = False
    for subset in SUBSETS:
        vars(inner).pop(subset, None)
    inner.seed = DEFAULT_SEED if datamodule.seed is None else datamodule.seed
    for name, value in changes.items():
        setattr(inner, name, value)
    return inner


def set_up(datamodule: AnomalibDataModule) -> AnomalibDataModule:
    """Set up a datamodule, and say which one it was if that fails.

    Args:
        datamodule: The datamodule; its data are on disk.

    Returns:
        The same datamodule.

    Raises:
        ValueError: If its files are missing or do not fit together.
    """
    try:
        datamodule.setup()
    except (ValueError, RuntimeError, OSError, LookupError) as error:
        category = f", category '{datamodule.category}'" if datamodule.category else ""
        msg = f"{type(datamodule).__name__}{category}, in {getattr(datamodule, 'root', None)}, cannot be read: {error}"
        raise ValueError(msg) from error
    return datamodule


class NestedDataModule(AnomalibDataModule):
    """A datamodule whose data come from other datamodules, which do their own splitting."""

    def _create_test_split(self) -> None:
        """Leave the test split to the datamodules inside."""

    def _create_val_split(self) -> None:
        """Leave the validation split to ``_setup``."""

    def train_dataloader(self) -> DataLoader:
        """Batches of the training split in random order, the same for the same seed and epoch."""
        return training_loader(self)

    def val_dataloader(self) -> DataLoader | list:
        """Batches of the validation split; none where there is no such split."""
        return self._eval_dataloader(self.val_data) if hasattr(self, "val_data") else []

    def test_dataloader(self) -> DataLoader:
        """Batches of the test split."""
        return self._eval_dataloader(self.test_data)

    def _eval_dataloader(self, dataset: AnomalibDataset) -> DataLoader:
        """Batches in order, every image once, however many processes share them.

        Lightning's own sampler repeats images until all processes have equally many, and metrics would count them
        twice.
        """
        collate_fn = self.external_collate_fn or dataset.collate_fn
        apart = not all_alike(dataset)
        read: Dataset = AlikeBatches(dataset, self.eval_batch_size, collate_fn) if apart else dataset
        shared = distributed.is_available() and distributed.is_initialized()
        return DataLoader(
            read,
            batch_size=None if apart else self.eval_batch_size,
            sampler=UnrepeatedDistributedSampler(read, shuffle=False) if shared else None,
            num_workers=self.num_workers,
            collate_fn=None if apart else collate_fn,
        )
