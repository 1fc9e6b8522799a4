# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What the terminal says at the end of a run: how many images are anomalous, and which are worst."""

from __future__ import annotations

import csv
import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from anomalib_clipzoo.results.rows import Thresholds
from anomalib_clipzoo.results.run_record import describe_origin

SHOWN_PROBLEMS = 10


@dataclass
class Summary:
    """A table of predictions in a few figures.

    Attributes:
        labels: How many images have a predicted label, by true and predicted label.
        worst: Score, label and path of the highest scores, the highest first.
        problems: Path and reason of the first images that could not be read.
        unreadable: How many could not be read.
    """

    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    worst: list[tuple[float, str, str]] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    unreadable: int = 0

    @property
    def images(self) -> int:
        """How many images have a prediction."""
        return self.labels.total()

    def count(self, label: str, gt_label: str | None = None) -> int:
        """Count the images of a predicted label, of a true label if one is given."""
        return sum(number for (truth, own), number in self.labels.items() if own == label and gt_label in (None, truth))


def summarize(path: Path, worst: int) -> Summary:
    """Read a table of predictions row by row, whatever its length.

    Args:
        path: The table.
        worst: How many of the highest scores to keep.
    """
    summary = Summary()
    heap: list[tuple[float, str, str]] = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            _count(summary, row)
            if row["score"]:
                entry = (float(row["score"]), row["label"], row["image_path"])
                (heapq.heappush if len(heap) < worst else heapq.heappushpop)(heap, entry)
    summary.worst = sorted(heap, reverse=True)
    return summary


def _count(summary: Summary, row: Mapping[str, str]) -> None:
    if row["problem"]:
        summary.unreadable += 1
        if len(summary.problems) < SHOWN_PROBLEMS:
            summary.problems.append((row["image_path"], row["problem"]))
    else:
        summary.labels[row["gt_label"], row["label"]] += 1


def print_summary(summary: Summary, thresholds: Thresholds, table: Path) -> None:
    """Print how many images are anomalous at which threshold, the worst of them, and those that cannot be read."""
    parts: list[Any] = [escape(line) for line in _sentences(summary, thresholds)]
    if summary.worst:
        parts.append(_worst_table(summary))
    if summary.unreadable:
        parts.append(f"[bold red]{summary.unreadable} images could not be read:[/bold red]")
        parts.extend(f"  {escape(path)}: {escape(reason)}" for path, reason in summary.problems)
        if summary.unreadable > len(summary.problems):
            parts.append(f"  and {summary.unreadable - len(summary.problems)} more, see the table's column problem")
    parts.append(f"All predictions: {escape(str(table))}")
    Console().print(Group(*parts), soft_wrap=True, highlight=False)


def _sentences(summary: Summary, thresholds: Thresholds) -> list[str]:
    """Say how many images are anomalous, where the threshold comes from, and how often that was wrong."""
    if not summary.images:
        return ["No image has a prediction."]
    if thresholds.image is None:
        return [f"{summary.images} images have scores; nothing decides which are anomalous."]
    anomalous, normal = (summary.count(label) for label in ("anomalous", "normal"))
    if not anomalous + normal:
        return [f"{summary.images} images; the model gives them no score."]
    lines = [f"{anomalous} of {summary.images} images are anomalous: their score is above {thresholds.image:.3f}."]
    lines.append(_origin(thresholds))
    alarms, passed = summary.count("anomalous", "normal"), summary.count("normal", "normal")
    found, missed = summary.count("anomalous", "anomalous"), summary.count("normal", "anomalous")
    if alarms + passed + found + missed:
        lines.append(f"Of {alarms + passed} good images {alarms} are false alarms.")
        lines.append(f"Of {found + missed} bad images {missed} are missed.")
    return lines


def _origin(thresholds: Thresholds) -> str:
    """Say where the threshold comes from."""
    if thresholds.raw_image is None:
        return "No threshold was fitted on validation data: it is the model's own middle."
    fitted = "" if thresholds.fitted_on is None else f", {describe_origin(thresholds.fitted_on)}"
    return f"The threshold was fitted on validation data: raw score {thresholds.raw_image:.4g}{fitted}."


def _worst_table(summary: Summary) -> Table:
    table = Table(title="Highest scores", box=SIMPLE_HEAD, padding=(0, 1), title_justify="left")
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("label", no_wrap=True)
    table.add_column("image", overflow="fold")
    for score, label, path in summary.worst:
        table.add_row(f"{score:.3f}", label, escape(path))
    return table
