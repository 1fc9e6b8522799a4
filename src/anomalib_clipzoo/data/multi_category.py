# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Many categories of one dataset in one run."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from anomalib.data import AnomalibDataModule, AnomalibDataset
from tqdm import tqdm

from anomalib_clipzoo.data.alike import warn_of_missing_masks
from anomalib_clipzoo.data.category import CategoryDataset
from anomalib_clipzoo.data.checks import check_files
from anomalib_clipzoo.data.nested import (
    SUBSETS,
    NestedDataModule,
    as_datamodule,
    fresh_copy,
    set_up,
)

logger = logging.getLogger(__name__)

ALL = "all"
# A folder that holds one of these looks like a category of a dataset.
SPLIT_FOLDERS = ("train", "test")


class MultiCategory(NestedDataModule):
    """Any anomalib image datamodule that takes a category, over several of them or all, in one run.

    One datamodule per category splits its own data as ever; their train, validation and test images are then joined.
    Every item knows its category, see :func:`~anomalib_clipzoo.data.categories_of`.

    Args:
        data: The datamodule, or its configuration ``{"class_path": ..., "init_args": {...}}``. Its own category does
            not matter; its splits, augmentations and seed are taken over.
        categories: Names of categories; ``"all"`` are those found in the datamodule's folder, or all that the dataset
            has where nothing is on disk yet.
        train_batch_size: Images per training batch; ``data``'s own if not given.
        eval_batch_size: Images per validation and test batch; ``data``'s own if not given.
        num_workers: Processes that read images; ``data``'s own if not given.

    Raises:
        ValueError: If the datamodule takes no category, or a category does not exist (the message lists those that do).

    Example:
        >>> from anomalib.data import MVTecAD
        >>> datamodule = MultiCategory(MVTecAD(root="./datasets/MVTecAD"), categories=["bottle", "cable"])
    """

    def __init__(
        self,
        data: AnomalibDataModule,
        categories: list[str] | str = ALL,
        train_batch_size: int | None = None,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
    ) -> None:
        self.data = as_datamodule(data)
        self.categories = choose_categories(self.data, categories)
        # Switched off by a datamodule around this one, which looks at those files that it uses.
        self.checks_files = True
        super().__init__(
            train_batch_size=self.data.train_batch_size if train_batch_size is None else train_batch_size,
            eval_batch_size=self.data.eval_batch_size if eval_batch_size is None else eval_batch_size,
            num_workers=self.data.num_workers if num_workers is None else num_workers,
            train_augmentations=self.data.train_augmentations,
            val_augmentations=self.data.val_augmentations,
            test_augmentations=self.data.test_augmentations,
            val_split_mode=self.data.val_split_mode,
            seed=self.data.seed,
        )

    @property
    def name(self) -> str:  # type: ignore[override]
        """The dataset's folder, by which anomalib's visualizer keeps the categories' heatmaps apart."""
        root = getattr(self.data, "root", None)
        return Path(root).resolve().name if root else self.data.name

    def _datamodules(self) -> list[AnomalibDataModule]:
        """One datamodule per category, not set up."""
        return [
            fresh_copy(self.data, category=category, val_split_mode=self.val_split_mode) for category in self.categories
        ]

    def prepare_data(self) -> None:
        """Let the datamodule of every category download or draw what it needs."""
        title = f"Preparing {type(self.data).__name__}"
        for datamodule in tqdm(self._datamodules(), title, leave=False, disable=None):  # no bar where nobody looks
            datamodule.prepare_data()

    def _setup(self, _stage: str | None = None) -> None:
        """Read the categories and join their splits."""
        datamodules = [set_up(datamodule) for datamodule in self._datamodules()]
        for subset in SUBSETS:
            parts: dict[str, AnomalibDataset] = {
                datamodule.category: getattr(datamodule, subset)
                for datamodule in datamodules
                if hasattr(datamodule, subset)
            }
            if parts:
                setattr(self, subset, CategoryDataset(list(parts.values()), list(parts)))
        if self.checks_files:
            used = [getattr(self, subset).samples for subset in SUBSETS if hasattr(self, subset)]
            check_files(pd.concat(used).drop_duplicates("image_path"))
            warn_of_missing_masks(self.test_data)


def choose_categories(datamodule: AnomalibDataModule, categories: Iterable[str] | str) -> list[str]:
    """Turn the argument ``categories`` into names that exist.

    Args:
        datamodule: The datamodule that would read them.
        categories: ``"all"``, one name, or several.

    Returns:
        The names, each once, in the order given.

    Raises:
        ValueError: If the datamodule takes no category, or one of the names does not exist.
    """
    title = type(datamodule).__name__
    if "category" not in inspect.signature(type(datamodule).__init__).parameters:
        msg = f"{title} takes no category; MultiCategory needs a datamodule that does, such as MVTecAD."
        raise ValueError(msg)
    existing = existing_categories(datamodule)
    given = [categories] if isinstance(categories, str) else categories
    wanted = existing if categories == ALL else list(dict.fromkeys(given))
    if not wanted:
        msg = f"No categories are given, or none were found for {title} in {getattr(datamodule, 'root', None)}."
        raise ValueError(msg)
    unknown = [category for category in wanted if category not in existing]
    if unknown:
        msg = f"{title} has no category {', '.join(map(repr, unknown))} in {getattr(datamodule, 'root', None)}. "
        msg += f"There are: {', '.join(existing) or 'none'}."
        raise ValueError(msg)
    return wanted


def existing_categories(datamodule: AnomalibDataModule) -> list[str]:
    """Find the categories that a datamodule could read.

    Args:
        datamodule: A datamodule that takes a category.

    Returns:
        The class's own ``CATEGORIES``, if it has that attribute; else the category folders in its ``root``; where there
        are none yet, the categories that its dataset is known for.
    """
    if hasattr(datamodule, "CATEGORIES"):
        return list(datamodule.CATEGORIES)
    known = known_categories(type(datamodule))
    root = getattr(datamodule, "root", None)
    found = category_folders(root, known)
    missing = [category for category in known if category not in found]
    if found and missing:
        logger.warning("%s lacks %d of %d categories: %s.", root, len(missing), len(known), ", ".join(missing))
    return found or known


def category_folders(root: Path | str | None, known: Sequence[str]) -> list[str]:
    """List the folders in ``root`` that bear a known category's name or hold splits, in order of their names."""
    if root is None or not Path(root).is_dir():
        return []
    folders = sorted(path for path in Path(root).iterdir() if path.is_dir())
    return [
        folder.name
        for folder in folders
        if folder.name in known or any((folder / split).is_dir() for split in SPLIT_FOLDERS)
    ]


def known_categories(datamodule_class: type[AnomalibDataModule]) -> list[str]:
    """Look up the constant ``CATEGORIES`` in the modules of the dataset classes that a datamodule's module uses."""
    for base in datamodule_class.__mro__[: datamodule_class.__mro__.index(AnomalibDataModule)]:
        for value in vars(sys.modules[base.__module__]).values():
            if isinstance(value, type) and issubclass(value, AnomalibDataset):
                categories = getattr(sys.modules[value.__module__], "CATEGORIES", None)
                if categories:
                    return list(categories)
    return []
