# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Patches of how anomalib reads and draws images."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.pytorch import Trainer

_common_folder: ContextVar[Path | None] = ContextVar("common_folder", default=None)
_folders: WeakKeyDictionary[Trainer, tuple[Any, Path | None]] = WeakKeyDictionary()
"""Loaders of a trainer's present run, and the folder that their images are in."""


def let_printable_paths_through(contains: Callable[..., bool]) -> Callable[..., bool]:  # noqa: ARG001
    """Take paths with letters outside ASCII for printable; ``Prüfbilder`` was refused."""

    def contains_non_printable_characters(path: str | Path) -> bool:
        text = str(path)
        return not text or any(not (char.isprintable() or unicodedata.category(char) == "Zs") for char in text)

    return contains_non_printable_characters


def keep_folders(generate: Callable[..., Path]) -> Callable[..., Path]:
    """Keep all folders below the one that all images of a run are in, where anomalib keeps the last one alone.

    The heatmaps of ``mon/cam1/1.png`` and ``tue/cam1/1.png`` were one file, ``cam1/1.png``.
    """

    def generate_output_filename(
        input_path: str | Path,
        output_path: str | Path,
        dataset_name: str | None = None,
        category: str | None = None,
        mkdir: bool = True,
    ) -> Path:
        image, common = Path(input_path), _common_folder.get()
        path = generate(image, output_path, dataset_name, category, mkdir=False)
        if common is not None and image.is_relative_to(common):
            kept = Path(output_path) / image.relative_to(common)
            in_dataset = (dataset_name or "").lower() in map(str.lower, image.parts)
            path = path if in_dataset and len(path.parts) >= len(kept.parts) else kept
        if mkdir:
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    return generate_output_filename


def tell_folder(draw: Callable[..., None]) -> Callable[..., None]:
    """Tell :func:`keep_folders` which folder all images of the run are in."""

    def on_test_batch_end(self: Any, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        with names_of(trainer):
            draw(self, trainer, *args, **kwargs)

    return on_test_batch_end


@contextmanager
def names_of(trainer: Trainer) -> Iterator[None]:
    """Give heatmaps the names that they have in the run of a trainer."""
    loaders = trainer.predict_dataloaders if trainer.predicting else trainer.test_dataloaders
    known = _folders.get(trainer)
    if known is None or known[0] is not loaders:  # as long as the list of images, so not for each batch
        folders = set(map(os.path.dirname, image_paths(loaders)))
        known = _folders[trainer] = loaders, common_folder(folders) if len(folders) > 1 else None  # one needs no names
    token = _common_folder.set(known[1])
    try:
        yield
    finally:
        _common_folder.reset(token)


def common_folder(folders: Iterable[str]) -> Path | None:
    """Find the folder that folders are in, or are; ``None`` if there is none."""
    distinct = set(folders)
    try:
        return Path(os.path.commonpath(distinct)) if distinct else None
    except ValueError:  # on several drives, or some absolute and some not
        return None


def image_paths(loaders: Any) -> Iterator[str]:
    """List the images of data loaders whose datasets are anomalib's, or are made like them."""
    for loader in loaders if isinstance(loaders, list) else [loaders]:
        dataset = getattr(loader, "dataset", None)
        samples = getattr(dataset, "samples", {})  # a table, with annotations; PredictDataset has the names alone
        paths = samples["image_path"] if "image_path" in samples else getattr(dataset, "image_filenames", ())
        yield from map(str, paths)


def draw_unless_dry(draw: Callable[..., None]) -> Callable[..., None]:
    """Draw nothing in runs that are to leave nothing behind: ``fast_dev_run`` and ``barebones``."""

    def on_test_batch_end(self: Any, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if not (trainer.fast_dev_run or trainer.barebones):  # type: ignore[attr-defined]
            draw(self, trainer, *args, **kwargs)

    return on_test_batch_end
