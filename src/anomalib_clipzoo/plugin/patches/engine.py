# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Patches of anomalib's engine."""

from __future__ import annotations

import logging
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomalib.engine import Engine
    from anomalib.models import AnomalibModule

logger = logging.getLogger(__name__)


def test_what_was_learned(train: Callable[..., Any]) -> Callable[..., Any]:
    """Test a resumed run as it ended; the checkpoint that it went on from was loaded again and tested instead."""

    def train_and_test(
        self: Engine,
        model: AnomalibModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        test_dataloaders: Any = None,
        datamodule: Any = None,
        ckpt_path: str | Path | None = None,
    ) -> Any:
        from anomalib import LearningType

        learns = model.learning_type not in {LearningType.ZERO_SHOT, LearningType.FEW_SHOT}
        if ckpt_path is None or not learns:
            return train(self, model, train_dataloaders, val_dataloaders, test_dataloaders, datamodule, ckpt_path)
        self.fit(model, train_dataloaders, val_dataloaders, datamodule, ckpt_path)
        return self.trainer.test(model, test_dataloaders, datamodule=datamodule)

    return train_and_test


def validate_in_a_folder_of_its_own(validate: Callable[..., Any]) -> Callable[..., Any]:
    """Give a validation the folder that a test has; it wrote into the folder of all results."""
    if "_setup_workspace" in validate.__code__.co_names:  # anomalib does it by itself
        return validate

    def set_up_and_validate(
        self: Engine,
        model: AnomalibModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        datamodule: Any = None,
    ) -> Any:
        if model is not None and self._trainer is None:
            self._setup_workspace(model, val_dataloaders=dataloaders, datamodule=datamodule)
        return validate(self, model, dataloaders, ckpt_path, verbose, datamodule)

    return set_up_and_validate


def make_way_for_the_link(create: Callable[..., Path]) -> Callable[..., Path]:
    """Move a real folder ``latest`` aside before a run makes a link of that name.

    A test or a prediction before the first training writes into such a folder. Training then stopped at it with an
    IsADirectoryError; on Windows it deleted the folder and all that was in it.
    """

    def create_versioned_dir(root_dir: str | Path) -> Path:
        root = Path(root_dir).resolve()
        latest = root / "latest"
        if latest.is_dir() and latest.resolve() == latest:  # neither a link nor a junction
            free = next(path for path in (root / f"latest_{number}" for number in count()) if not path.exists())
            latest.rename(free)
            logger.info("What was in %s is in %s now.", latest, free)
        return create(root_dir)

    return create_versioned_dir


def read_what_can_be_read(predict: Callable[..., Any]) -> Callable[..., Any]:
    """Go on behind an image that cannot be read, where a table of predictions says which it was and why.

    One such file ended the run, and 16-bit images were read as white ones.
    """

    def predict_readable(
        self: Engine,
        model: AnomalibModule | None = None,
        dataloaders: Any = None,
        datamodule: Any = None,
        dataset: Any = None,
        return_predictions: bool | None = None,
        ckpt_path: str | Path | None = None,
        data_path: str | Path | None = None,
    ) -> Any:
        if data_path is not None and dataset is None and _writes_table(self, model):
            from anomalib_clipzoo.results.folder_images import FolderImages

            dataset, data_path = FolderImages(data_path), None
        return predict(self, model, dataloaders, datamodule, dataset, return_predictions, ckpt_path, data_path)

    return predict_readable


def _writes_table(engine: Engine, model: AnomalibModule | None) -> bool:
    """Tell whether a prediction leaves a table, which says what could not be read."""
    from collections.abc import Sequence

    from anomalib_clipzoo.results.predictions import Predictions

    own = [] if model is None else model.configure_callbacks()
    given = engine._cache.args["callbacks"] if engine._trainer is None else engine.trainer.callbacks  # type: ignore[attr-defined]
    return any(
        isinstance(callback, Predictions) for callback in (*given, *(own if isinstance(own, Sequence) else [own]))
    )
