# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Curves and histograms, as pictures made of lines (SVG) that stand in the page itself."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from anomalib_clipzoo.results.report.runs import Run

LEFT, BOTTOM, WIDTH, HEIGHT = 0.12, 0.17, 0.84, 0.73
"""Where the axes are on a plot, as parts of its width and height; the page puts the threshold's line there."""

GOOD, BAD, UNKNOWN = "#2e7d32", "#c62828", "#546e7a"
BINS = 50
POINTS = 300
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "clipzoo",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def roc_plot(runs: Sequence[Run]) -> str:
    """Draw the receiver operating characteristic of all runs with true labels; all categories together."""

    def draw(axes: Axes) -> None:
        for run in runs:
            false, true, _ = roc_curve(_truth(run), run.readable.score)
            axes.plot(*_thinned(false, true), label=run.name, linewidth=1.5)
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.7, linestyle=":")
        axes.set(xlabel="false alarms among good images", ylabel="found among bad images", title="ROC")
        axes.legend(loc="lower right", fontsize=7, frameon=False)

    return _svg(draw)


def precision_recall_plot(runs: Sequence[Run]) -> str:
    """Draw precision over recall of all runs with true labels; all categories together."""

    def draw(axes: Axes) -> None:
        for run in runs:
            precision, recall, _ = precision_recall_curve(_truth(run), run.readable.score)
            axes.plot(*_thinned(recall, precision), label=run.name, linewidth=1.5)
        axes.set(xlabel="found among bad images (recall)", ylabel="bad among found (precision)")
        axes.set(title="Precision and recall", ylim=(0, 1.02))
        axes.legend(loc="lower left", fontsize=7, frameon=False)

    return _svg(draw)


def histogram(run: Run) -> str:
    """Draw how many good and bad images of a run have each score; its axis goes from 0 to 1, see :data:`LEFT`."""
    table = run.readable
    parts = [
        (name, table.score[table.gt_label == label], colour)
        for name, label, colour in (("good", "normal", GOOD), ("bad", "anomalous", BAD), ("unknown", "", UNKNOWN))
    ]
    parts = [part for part in parts if len(part[1])]

    def draw(axes: Axes) -> None:
        edges = np.linspace(0, 1, BINS + 1)
        for name, scores, colour in parts:
            axes.hist(scores.clip(0, 1), bins=edges.tolist(), color=colour, alpha=0.55, label=f"{name} ({len(scores)})")
        axes.set(xlim=(0, 1), xlabel="score", ylabel="images")
        axes.legend(fontsize=7, frameon=False)

    return _svg(draw, size=(7.2, 2.2))


def has_both_labels(run: Run) -> bool:
    """Tell whether a run has images known to be good and images known to be bad."""
    return not run.readable.empty and {"normal", "anomalous"} <= set(run.readable.gt_label)


def _truth(run: Run) -> np.ndarray:
    return (run.readable.gt_label == "anomalous").to_numpy()


def _thinned(across: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep as many points of a curve as a plot can show."""
    kept = np.unique(np.linspace(0, len(across) - 1, POINTS).round().astype(int))
    return across[kept], up[kept]


def _svg(draw: Callable[[Axes], None], size: tuple[float, float] = (4.4, 3.4)) -> str:
    """Draw a plot; return the element alone, without the header of an SVG file."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size)
        draw(figure.add_axes((LEFT, BOTTOM, WIDTH, HEIGHT)))
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    return file.getvalue().partition("<svg")[1] + file.getvalue().partition("<svg")[2]
