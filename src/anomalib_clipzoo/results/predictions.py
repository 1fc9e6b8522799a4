# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Predictions as a table: which images are anomalous, how sure, and where."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

from anomalib.visualization import ImageVisualizer
from anomalib.visualization.image import visualizer as host
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from anomalib_clipzoo.digests import digest
from anomalib_clipzoo.plugin.patches.images import names_of
from anomalib_clipzoo.results.reading import PREDICTIONS_FILE, read_predictions
from anomalib_clipzoo.results.rows import COLUMNS, Thresholds, rows_of
from anomalib_clipzoo.results.run_record import (
    RUN_FILE,
    RunRecord,
    describe_data,
    installed_packages,
    now,
    seed_in_force,
)
from anomalib_clipzoo.results.summary import print_summary, summarize
from anomalib_clipzoo.results.table_file import TableFile
from anomalib_clipzoo.results.visualizer import HeatmapVisualizer, heatmap_tile, writes_nothing
from anomalib_clipzoo.writing import write_whole

logger = logging.getLogger(__name__)

PART_FILES = "predictions.rank*.csv"
EARLIER_FOLDER = "earlier"
KEPT = (PREDICTIONS_FILE, "predictions.parquet", RUN_FILE, PART_FILES, "metrics.csv", "metrics.md", "metrics.tex")
"""Files of a run that the next one in its folder does not overwrite."""


class RawScores(Callback):
    """Keep the scores of a batch as the model gave them; it has to come before anomalib's post-processor."""

    scores: Tensor | None = None

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Copy the scores; what comes after may change them in place."""
        del trainer, pl_module, batch, batch_idx, dataloader_idx
        score = outputs.pred_score
        self.scores = None if score is None else score.detach().clone()

    on_predict_batch_end = on_test_batch_end


class Predictions(Callback):
    """Write a row for each image that any anomalib model tests or predicts, to ``predictions.csv`` in the run's folder.

    Rows are appended as batches come: a run that is killed leaves the rows of the batches that it finished, and memory
    does not grow. At the end the terminal says how many images are anomalous at which threshold, and which are worst.
    ``run.json`` beside the table says what the run was. Tables that an earlier run left in the same folder are moved to
    ``earlier``. Where several processes predict, their rows end in one table. Nothing is written where Lightning only
    tries a run out (``fast_dev_run``, ``barebones``).

    It may stand anywhere among the callbacks: it puts itself behind anomalib's post-processor.

    Args:
        parquet: Whether to write ``predictions.parquet``, too, when the run has ended.
        worst: How many of the highest scores the terminal shows.

    Attributes:
        unreadable: After a run, how many images could not be read (in the first of several processes).

    Raises:
        ImportError: If Parquet is asked for and pyarrow is not installed.

    Example:
        >>> from anomalib.engine import Engine
        >>> engine = Engine(callbacks=[Predictions()])
    """

    def __init__(self, parquet: bool = False, worst: int = 10) -> None:
        if parquet and find_spec("pyarrow") is None:
            msg = "Parquet files need pyarrow: pip install 'anomalib-clipzoo[parquet]'"
            raise ImportError(msg)
        self.parquet = parquet
        self.worst = worst
        self.unreadable = 0
        self._raw = RawScores()
        self._table: TableFile | None = None
        self._record: RunRecord | None = None

    # ---- the run ----

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep raw scores before all other callbacks see a batch, and write rows after them."""
        del pl_module, stage
        others = [callback for callback in _callbacks(trainer) if callback not in (self, self._raw)]
        _set_callbacks(trainer, [self._raw, *others, self])

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a table."""
        self._table, self.unreadable = None, 0
        if writes_nothing(trainer):
            return
        folder = Path(trainer.default_root_dir)
        if trainer.is_global_zero:
            keep_earlier(folder)
        trainer.strategy.barrier()
        self._table = TableFile(_part_file(folder, trainer.global_rank), COLUMNS)
        self._record = _record_of(trainer, pl_module)
        if trainer.is_global_zero:
            self._record.write(folder)

    on_predict_start = on_test_start

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Append a batch's rows."""
        del batch, batch_idx, dataloader_idx
        if self._table is None:
            return
        rows = rows_of(
            outputs,
            self._raw.scores,
            Thresholds.of(getattr(pl_module, "post_processor", None)),
            [_heatmap(trainer, path) for path in outputs.image_path or [""] * len(outputs)],
            category=getattr(getattr(trainer, "datamodule", None), "category", None),
            located=not _crops(getattr(getattr(pl_module, "pre_processor", None), "transform", None)),
        )
        self._table.append(rows)

    on_predict_batch_end = on_test_batch_end

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring all rows into one table, and say what is in it."""
        if self._table is None or self._record is None:
            return
        self._table.close()
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        path = folder / PREDICTIONS_FILE
        _join(folder, trainer.world_size)
        summary = summarize(path, self.worst)
        self.unreadable = summary.unreadable
        self._record.images, self._record.unreadable = summary.images, summary.unreadable
        self._record.references = getattr(pl_module, "memory_record", {})  # drawn after the run began
        self._record.finished = now()
        self._record.write(folder)
        print_summary(summary, Thresholds.of(getattr(pl_module, "post_processor", None)), path)
        if self.parquet:
            write_whole(path.with_suffix(".parquet"), read_predictions(path).to_parquet(index=False))

    on_predict_end = on_test_end

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the table, also where a run ended early, and step back from the callbacks."""
        del pl_module, stage
        _set_callbacks(trainer, [callback for callback in _callbacks(trainer) if callback is not self._raw])
        if self._table is not None:
            self._table.close()
        self._table = None


def _callbacks(trainer: Any) -> list[Callback]:
    return trainer.callbacks


def _set_callbacks(trainer: Any, callbacks: list[Callback]) -> None:
    """Give the trainer a new list; it may be going through the one that it has."""
    trainer.callbacks = callbacks


# ---- the run's files ----


def keep_earlier(folder: Path) -> None:
    """Move the tables of an earlier run out of the way, into a folder named after the time that it started."""
    files = [path for pattern in KEPT for path in folder.glob(pattern)]
    if not any(path.suffix == ".csv" for path in files):
        return
    try:
        record = RunRecord.read(folder)
    except ValueError:
        record = None
    name = (record.started if record else now()).partition("+")[0].replace(":", "-")
    names = (f"{name}_{number}" if number else name for number in count())
    target = next(path for name in names if not (path := folder / EARLIER_FOLDER / name).exists())
    target.mkdir(parents=True)
    for path in files:
        path.replace(target / path.name)
    logger.info("The results of an earlier run in this folder are in %s now.", target)


def _part_file(folder: Path, rank: int) -> Path:
    """Tell the file that a process writes to: the first writes the table itself."""
    return folder / (PART_FILES.replace("*", str(rank)) if rank else PREDICTIONS_FILE)


def _join(folder: Path, processes: int) -> None:
    """Append what other processes wrote to the table, each image once, and remove their files.

    Lightning's sampler gives some images to two processes, so that all have equally many.
    """
    if processes == 1:
        return
    table = folder / PREDICTIONS_FILE
    with table.open(newline="") as file:
        known = {row["image_path"] for row in csv.DictReader(file)}
    for rank in range(1, processes):
        part = _part_file(folder, rank)
        if not part.exists():
            logger.warning("The predictions of process %d are on another machine, in %s there.", rank, part)
            continue
        with table.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writerows(_unknown(part, known))
        part.unlink()


def _unknown(part: Path, known: set[str]) -> Iterator[dict[str, str]]:
    """Read a process's rows, and note their images."""
    with part.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["image_path"] not in known:
                known.add(row["image_path"])
                yield row


# ---- what the run was ----


def _record_of(trainer: Trainer, pl_module: LightningModule) -> RunRecord:
    """Describe a run that begins."""
    visualizer = _visualizer(trainer)
    return RunRecord(
        stage="test" if trainer.testing else "predict",
        model=type(pl_module).__name__,
        arguments=dict(pl_module.hparams),
        data=describe_data(getattr(trainer, "datamodule", None)),
        seed=seed_in_force(),
        epochs=trainer.current_epoch,
        weights={str(path): digest(path) for path in _loaded(trainer, pl_module)},
        thresholds=asdict(Thresholds.of(getattr(pl_module, "post_processor", None))),
        heatmap_tile=heatmap_tile(visualizer) if visualizer else None,
        packages=installed_packages(),
        started=now(),
    )


def _loaded(trainer: Trainer, pl_module: LightningModule) -> list[Path]:
    """List the files that the weights are from; a checkpoint is one unless this run has just written it."""
    named = [pl_module.hparams.get("weights"), None if trainer.current_epoch else trainer.ckpt_path]
    return [Path(name) for name in named if isinstance(name, (str, Path)) and Path(name).is_file()]


def _visualizer(trainer: Trainer) -> ImageVisualizer | None:
    """Find what draws the run's pictures."""
    return next((callback for callback in _callbacks(trainer) if isinstance(callback, ImageVisualizer)), None)


def _heatmap(trainer: Trainer, image_path: str) -> str:
    """Tell where an image's picture is, as seen from the run's folder; empty where none is drawn."""
    visualizer = _visualizer(trainer)
    if visualizer is None or not image_path:
        return ""
    if isinstance(visualizer, HeatmapVisualizer):
        path = visualizer.picture_path(trainer, image_path)
    else:
        datamodule = getattr(trainer, "datamodule", None)
        with names_of(trainer):
            path = host.generate_output_filename(  # as the visualizer finds it, patched or not
                image_path,
                visualizer.output_dir or Path(trainer.default_root_dir) / "images",
                dataset_name=getattr(datamodule, "name", None),
                category=getattr(datamodule, "category", None),
                mkdir=False,
            )
    folder = Path(trainer.default_root_dir)
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _crops(transform: Any) -> bool:
    """Tell whether a pre-processor's transform cuts off a part of the image: places on the map are then elsewhere."""
    parts = getattr(transform, "transforms", None) or ()
    return "Crop" in type(transform).__name__ or any(_crops(part) for part in parts)
