# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""A metric for every category, and their mean, in one run."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from anomalib.data import Batch
from anomalib.metrics import AnomalibMetric
from torch import Tensor, distributed
from torch.nn import Module
from torchmetrics import Metric

from anomalib_clipzoo.data.category import categories_of
from anomalib_clipzoo.metrics.gather import gather

logger = logging.getLogger(__name__)


class PerCategory(AnomalibMetric, Metric):
    """Compute a metric for every category of images by itself; its value is the mean over categories.

    That is how papers report a dataset of several categories. Categories come from the batch, see
    :func:`~anomalib_clipzoo.data.categories_of`; images without one form a category of their own, so that on a single
    category the value is the metric's own.

    A category in which all images (or all pixels, for a pixel metric) are normal, or all anomalous, has no such
    figure: it is left out of the mean, with a warning.

    Args:
        metric: What to compute: an anomalib metric with its fields, the last of them the truth, such as
            ``AUROC(fields=["pred_score", "gt_label"], prefix="image_")``. It serves as a pattern and stays as it is.

    Attributes:
        left_out: After computing, the categories with only one label.

    Example:
        >>> from anomalib.metrics import AUROC
        >>> metric = PerCategory(AUROC(fields=["pred_score", "gt_label"], prefix="image_"))
    """

    full_state_update = False

    def __init__(self, metric: AnomalibMetric) -> None:
        super().__init__(fields=metric.fields, strict=metric.strict)
        self.name = metric.name
        # In a list, so that the pattern's buffers are no part of a checkpoint.
        self._pattern: list[Any] = [metric]
        self._metrics: dict[str | None, Metric] = {}
        self._labels: dict[str | None, set[int]] = {}
        self._values: dict[str | None, float] | None = None
        self.left_out: list[str | None] = []

    def update(self, batch: Batch) -> None:
        """Hand every image to its category's metric.

        Args:
            batch: Batch with the metric's fields; without them nothing is counted, unless the metric is strict.

        Raises:
            ValueError: If the metric is strict and a field is missing.
        """
        absent = [name for name in self.fields if getattr(batch, name, None) is None]
        if absent:
            if not self.strict:
                return
            msg = f"{self.name} cannot be computed: the batch has no {', '.join(absent)}."
            raise ValueError(msg)
        self._values = None
        categories = categories_of(batch)
        for category in dict.fromkeys(categories):
            rows = [row for row, other in enumerate(categories) if other == category]
            self._update_one(category, {name: getattr(batch, name)[rows] for name in self.fields})

    def _update_one(self, category: str | None, values: dict[str, Tensor]) -> None:
        """Update one category's metric with its images, and note which labels they have."""
        if category not in self._metrics:
            metric = copy.deepcopy(self._pattern[0])
            metric.to(values[self.fields[0]].device)
            metric.compute_on_cpu = self.compute_on_cpu
            self._metrics[category] = metric
            self._labels[category] = set()
        self._metrics[category].update(SimpleNamespace(**values))
        truth = values[self.fields[-1]].bool()
        self._labels[category].update([1] * bool(truth.any()) + [0] * (not truth.all()))

    def per_category(self) -> dict[str | None, float]:
        """Compute each category's value, over all processes.

        Returns:
            Values by category, in alphabetical order, without categories that have only one label.
        """
        if self._values is None:
            metrics, labels = self._gathered()
            complete = [category for category in sorted(metrics, key=str) if len(labels[category]) > 1]
            self._values = {category: float(metrics[category].compute()) for category in complete}
            self.left_out = sorted({*metrics} - {*complete}, key=str)
            if self.left_out:
                names = ", ".join(map(str, self.left_out))
                logger.warning("%s leaves out %s: all normal or all anomalous.", self.name, names)
        return self._values

    def _gathered(self) -> tuple[dict[str | None, Metric], dict[str | None, set[int]]]:
        """Metrics and labels of all processes, merged: each process may have seen other categories."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return self._metrics, self._labels
        here = {category: copy.deepcopy(metric).cpu() for category, metric in self._metrics.items()}
        parts = gather((here, self._labels))
        metrics: dict[str | None, Metric] = {}
        labels: dict[str | None, set[int]] = {}
        for part_metrics, part_labels in parts:
            for category, metric in part_metrics.items():
                if category in metrics:
                    _merge(metrics[category], metric)
                else:
                    metrics[category] = metric
                labels[category] = labels.get(category, set()) | part_labels[category]
        return {category: _synced(metric) for category, metric in metrics.items()}, labels

    def compute(self) -> Tensor | None:  # type: ignore[override]
        """Mean over the categories.

        Returns:
            The mean; not a number if no category has both labels; ``None`` if nothing was counted and the metric is
            not strict, as with anomalib's own metrics.
        """
        values = self.per_category()
        if not values and not self._metrics and not self.strict:
            return None
        return torch.tensor(list(values.values())).mean()

    def forward(self, batch: Batch) -> None:
        """Count a batch. Unlike other metrics this returns no value of the batch alone: it may lack a label."""
        self.update(batch)

    def reset(self) -> None:
        """Forget everything that was counted."""
        super().reset()
        self._metrics, self._labels, self._values, self.left_out = {}, {}, None, []

    def _apply(self, fn: Callable, exclude_state: Sequence[str] = "") -> Module:
        """Move the categories' metrics together with this one."""
        for metric in self._metrics.values():
            metric._apply(fn)
        return super()._apply(fn, exclude_state)


def _merge(metric: Metric, other: Metric) -> None:
    """Add what another process counted, inner metrics included."""
    for ours, theirs in zip(metric.modules(), other.modules(), strict=True):
        if isinstance(ours, Metric) and isinstance(theirs, Metric):
            ours.merge_state(theirs.metric_state)


def _synced(metric: Metric) -> Metric:
    """Keep a merged metric, and those within, from gathering once more."""
    for part in metric.modules():
        if isinstance(part, Metric):
            part.distributed_available_fn = _not_distributed
    return metric


def _not_distributed() -> bool:
    return False
