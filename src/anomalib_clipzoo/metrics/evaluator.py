# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""An evaluator that reports every category as well as the mean."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from anomalib.metrics import AUROC, AnomalibMetric, Evaluator, F1Max, F1Score
from lightning.pytorch import LightningModule, Trainer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchmetrics.classification import BinaryAveragePrecision

from anomalib_clipzoo.metrics.binned import BinnedAP, BinnedAUPRO, BinnedAUROC, BinnedF1Max
from anomalib_clipzoo.metrics.per_category import PerCategory

METRICS_FILE = "metrics.csv"
MEAN = "mean"
# What stands in tables where neither images nor the datamodule know a category.
NO_CATEGORY = "-"

Results = dict[str, dict[str, float]]


class _AP(BinaryAveragePrecision):
    """Average precision of flattened values."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Take in values of any shape."""
        super().update(preds.flatten(), target.flatten())


class AP(AnomalibMetric, _AP):  # type: ignore[misc]
    """Average precision of image scores, which some models give as ``(B, 1)``."""


def default_metrics() -> list[AnomalibMetric]:
    """Metrics that the papers report, for images and for pixels; those for pixels need masks."""
    scores, labels = ["pred_score", "gt_label"], ["pred_label", "gt_label"]
    maps, masks = ["anomaly_map", "gt_mask"], ["pred_mask", "gt_mask"]
    return [
        AUROC(scores, prefix="image_"),
        AP(scores, prefix="image_"),
        F1Max(scores, prefix="image_"),
        F1Score(labels, prefix="image_"),
        BinnedAUROC(maps, prefix="pixel_", strict=False),
        BinnedAP(maps, prefix="pixel_", strict=False),
        BinnedF1Max(maps, prefix="pixel_", strict=False),
        BinnedAUPRO(maps, prefix="pixel_", strict=False),
        F1Score(masks, prefix="pixel_", strict=False),
    ]


class PerCategoryEvaluator(Evaluator):
    """Evaluate every category by itself, and report the mean under the metric's own name.

    At the end of a test the values of all categories are printed as a table, written to ``metrics.csv`` in the run's
    folder and handed to the trainer's loggers. What the trainer returns and prints are the means alone, so that runs
    on different categories can stand in one benchmark table.

    Args:
        val_metrics: Metrics for validation, not split by category.
        test_metrics: Metrics for the test, each to be computed per category; :func:`default_metrics` if not given.
        compute_on_cpu: Whether metrics that keep scores keep them on the CPU.

    Attributes:
        results: After a test, the values by category and metric's name; the last row is ``"mean"``.
    """

    def __init__(
        self,
        val_metrics: AnomalibMetric | Sequence[AnomalibMetric] | None = None,
        test_metrics: AnomalibMetric | Sequence[AnomalibMetric] | None = None,
        compute_on_cpu: bool = True,
    ) -> None:
        given = default_metrics() if test_metrics is None else self.validate_metrics(test_metrics)
        split = [metric if isinstance(metric, PerCategory) else PerCategory(metric) for metric in given]
        super().__init__(val_metrics, split, compute_on_cpu)
        self.results: Results = {}

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the means and collect the categories' values."""
        super().on_test_epoch_end(trainer, pl_module)
        self.results = self._collect(getattr(getattr(trainer, "datamodule", None), "category", None) or NO_CATEGORY)
        values = {
            f"{name}/{category}": value
            for category, row in self.results.items()
            for name, value in row.items()
            if category not in {MEAN, NO_CATEGORY}
        }
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table and write the file."""
        del pl_module
        if trainer.is_global_zero and self.results:
            Console().print(results_table(self.results))
            write_results(self.results, Path(trainer.default_root_dir) / METRICS_FILE)

    def _collect(self, category_of_all: str) -> Results:
        """Values by category and name, and the means; images that know no category are of ``category_of_all``."""
        metrics = [metric for metric in self.test_metrics if isinstance(metric, PerCategory)]
        columns = {metric.name: metric.per_category() for metric in metrics}
        categories = sorted({category for column in columns.values() for category in column}, key=str)
        results: Results = {
            category or category_of_all: {
                name: column[category] for name, column in columns.items() if category in column
            }
            for category in categories
        }
        means = {name: sum(column.values()) / len(column) for name, column in columns.items() if column}
        return {**results, MEAN: means} if results else {}


def results_table(results: Results) -> Table:
    """Lay out results with a row for each category and a column for each metric."""
    names = list(results[MEAN])
    table = Table(title="Test metrics by category", box=SIMPLE_HEAD, padding=0)
    table.add_column("category", no_wrap=True)
    for name in names:
        table.add_column(name.replace("_", "\n"), justify="right", no_wrap=True)
    for category, row in results.items():
        if category == MEAN:
            table.add_section()
        table.add_row(category, *(f"{row[name]:.3f}" if name in row else "" for name in names))
    return table


def write_results(results: Results, path: Path) -> None:
    """Write results as comma-separated values, a row for each category."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["category", *results[MEAN]])
        writer.writeheader()
        writer.writerows({"category": category, **row} for category, row in results.items())
