# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""An evaluator that reports every category as well as the mean, and leaves tables behind."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from anomalib.metrics import AnomalibMetric, Evaluator
from lightning.pytorch import LightningModule, Trainer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from anomalib_clipzoo import tables
from anomalib_clipzoo.data.category import categories_of
from anomalib_clipzoo.metrics.figures import even_thresholds
from anomalib_clipzoo.metrics.gather import gather
from anomalib_clipzoo.metrics.observations import Observations, PixelObservations, merged
from anomalib_clipzoo.metrics.per_category import PerCategory
from anomalib_clipzoo.metrics.rows import rows_of
from anomalib_clipzoo.tables import MEAN, Figure, Row
from anomalib_clipzoo.writing import write_whole

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.csv"
# What stands in tables where neither images nor the datamodule know a category.
NO_CATEGORY = "-"


class PerCategoryEvaluator(Evaluator):
    """Evaluate every category by itself, and report the mean under the metric's own name.

    By default these are the figures that papers report: AUROC, average precision and best F1 score of images and of
    pixels, the area under the per-region overlap curve (``AUPRO``, and ``PRO200`` as the papers' code computes it), the
    F1 scores at the threshold, and the AUROC of each kind of defect where folders name kinds. Images are evaluated
    exactly; pixels are counted in 65,536 bins, once for all figures. Scores and maps must be in 0..1.

    At the end of a test a table is written to the run's folder as ``metrics.csv``, ``metrics.md`` and ``metrics.tex``,
    printed, and handed to the trainer's loggers. What the trainer returns and prints are the means alone, so that runs
    on different categories can stand in one benchmark table.

    Args:
        val_metrics: Metrics for validation, not split by category.
        test_metrics: Other metrics for the test instead, each computed per category.
        compute_on_cpu: Whether metrics that keep scores keep them on the CPU.
        bootstrap: Number of resamples of the images from which 95 % intervals are computed; 0 for none.
        seed: Seed of the resamples.

    Attributes:
        rows: After a test, the table; the last row is the mean.
    """

    def __init__(
        self,
        val_metrics: AnomalibMetric | Sequence[AnomalibMetric] | None = None,
        test_metrics: AnomalibMetric | Sequence[AnomalibMetric] | None = None,
        compute_on_cpu: bool = True,
        bootstrap: int = 1000,
        seed: int = 0,
    ) -> None:
        if bootstrap < 0:
            msg = f"bootstrap is the number of resamples, 0 for no intervals; {bootstrap} is not one."
            raise ValueError(msg)
        given = self.validate_metrics(test_metrics)
        split = [metric if isinstance(metric, PerCategory) else PerCategory(metric) for metric in given]
        super().__init__(val_metrics, split, compute_on_cpu)
        self.bootstrap = bootstrap
        self.seed = seed
        self.rows: list[Row] = []
        self._papers_figures = test_metrics is None
        self._observations: defaultdict[str | None, Observations] = defaultdict(Observations)

    @property
    def results(self) -> dict[str, dict[str, float]]:
        """After a test, the values by category and name, the mean last; without those that have no meaning."""
        return {
            row.category: {name: figure.value for name, figure in row.figures.items() if not math.isnan(figure.value)}
            for row in self.rows
            if not row.defect
        }

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier test."""
        del trainer, pl_module
        self.rows = []
        self._observations.clear()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in the images of a batch, each in its category."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if not self._papers_figures:
            return
        categories = categories_of(batch)
        for category in dict.fromkeys(categories):
            rows = [row for row, other in enumerate(categories) if other == category]
            self._observations[category].add(batch, rows)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute all rows, over all processes, and log the means."""
        super().on_test_epoch_end(trainer, pl_module)
        name_of_all = getattr(getattr(trainer, "datamodule", None), "category", None) or NO_CATEGORY
        if self._papers_figures:
            seen = merged(gather(dict(self._observations)), name_of_all)
            self.rows = rows_of(seen, self.bootstrap, self.seed, partial(_thresholds_of, pl_module))
            self._observations.clear()
        else:
            self.rows = self._rows_of_metrics(name_of_all)
        self._log(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files, then print the table."""
        del pl_module
        if not trainer.is_global_zero or not self.rows:
            return
        try:
            if not (trainer.barebones or getattr(trainer, "fast_dev_run", False)):
                write_results(self.rows, Path(trainer.default_root_dir), self._caption())
        finally:
            Console().print(results_table(self.rows))

    def _rows_of_metrics(self, name_of_all: str) -> list[Row]:
        """Rows of the metrics that were chosen instead, and their mean."""
        metrics = [metric for metric in self.test_metrics if isinstance(metric, PerCategory)]
        columns = {
            metric.name: {**metric.per_category(), **dict.fromkeys(metric.left_out, math.nan)} for metric in metrics
        }
        rows = [
            Row(
                category or name_of_all,
                figures={name: Figure(column[category]) for name, column in columns.items() if category in column},
            )
            for category in sorted({category for column in columns.values() for category in column}, key=str)
        ]
        return [*rows, tables.mean_row(rows)] if rows else []

    def _log(self, trainer: Trainer) -> None:
        """Log the means under the figures' names, and hand each category's values to the loggers."""
        if not self.rows:
            return
        if self._papers_figures:
            for name, figure in self.rows[-1].figures.items():
                if trainer.barebones:  # where Lightning logs nothing, anomalib returns what stands here
                    trainer.callback_metrics[name] = trainer.logged_metrics[name] = torch.tensor(figure.value)
                else:
                    self.log(name, torch.tensor(figure.value), sync_dist=True)  # type: ignore[operator]
        values = {
            f"{name}/{category}": value
            for category, row in self.results.items()
            for name, value in row.items()
            if category not in {MEAN, NO_CATEGORY}
        }
        for trainer_logger in trainer.loggers:
            trainer_logger.log_metrics(values, step=trainer.global_step)

    def _caption(self) -> str:
        if not (self._papers_figures and self.bootstrap):
            return "In per cent."
        return (
            f"In per cent; in brackets 95 % intervals from {self.bootstrap} bootstrap resamples of the images "
            f"(seed {self.seed})."
        )


def _thresholds_of(pl_module: LightningModule, pixels: PixelObservations) -> Tensor:
    """Thresholds of the papers' PRO: even steps on the model's own scale, brought to that of post-processed maps."""
    post_processor = getattr(pl_module, "post_processor", None)
    bounds = torch.tensor([pixels.lowest, pixels.highest])
    if post_processor is None or not hasattr(post_processor, "unbend_map"):
        return even_thresholds(*bounds.tolist())
    return post_processor.bend_map(even_thresholds(*post_processor.unbend_map(bounds).tolist()))


def results_table(rows: Sequence[Row]) -> Table:
    """Lay results out for a terminal, with a row for each category and a column for each figure."""
    names = tables.names_of(rows)
    table = Table(title="Test metrics by category", box=SIMPLE_HEAD, padding=0)
    table.add_column("category", no_wrap=True)
    for name in names:
        table.add_column(name.replace("_", "\n"), justify="right", no_wrap=True)
    for row in rows:
        if row.defect:
            continue
        if row.category == MEAN:
            table.add_section()
        table.add_row(Text(row.category), *(_cell(row.figures.get(name)) for name in names))
    return table


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return tables.NOT_AVAILABLE if math.isnan(figure.value) else f"{figure.value:.3f}"


def write_results(rows: Sequence[Row], folder: Path, caption: str) -> None:
    """Write results as ``metrics.csv``, ``metrics.md`` and ``metrics.tex``, each whole or not at all."""
    write_whole(folder / METRICS_FILE, tables.to_csv(rows))
    write_whole(folder / "metrics.md", tables.to_markdown(rows, caption))
    write_whole(folder / "metrics.tex", tables.to_latex(rows, caption))
