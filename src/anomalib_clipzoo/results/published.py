# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Published numbers, with their sources: what stands in ``published.csv``, and nowhere else."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

METHODS = {
    "AdaClip": "AdaCLIP",
    "AnomalyClip": "AnomalyCLIP",
    "AprilGan": "APRIL-GAN",
    "Crane": "Crane",
    "MuSc": "MuSc",
    "VcpClip": "VCP-CLIP",
    "WinClipPlus": "WinCLIP",
}
"""What a model's paper calls its method."""

TARGETS = {"MVTecAD": "MVTec AD", "Visa": "VisA", "BTech": "BTAD", "MPDD": "MPDD"}
"""What papers call the dataset of one of anomalib's datamodules."""

ORDER = ("image AUROC", "image AP", "image F1Max", "pixel AUROC", "pixel AP", "pixel F1Max", "pixel PRO")
LABELS = {"F1Max": "F1-max"}


@dataclass(frozen=True)
class Published:
    """A published number.

    Attributes:
        method: The method's name in its paper.
        variant: Which variant, or whose run, if not the paper's main one.
        auxiliary: What it was learned on, empty where nothing was or the source does not say.
        target: What it was tested on.
        category: Category of the target, empty for the mean over categories.
        shots: Number of reference images, 0 for zero-shot.
        level: ``"image"`` or ``"pixel"``.
        metric: ``"AUROC"``, ``"AP"``, ``"F1Max"`` or ``"PRO"``.
        value: The number as it is published, in per cent.
        source: Where it stands.
        flag: What other sources say, and what else to know.
    """

    method: str
    variant: str
    auxiliary: str
    target: str
    category: str
    shots: int
    level: str
    metric: str
    value: str
    source: str
    flag: str

    @property
    def share(self) -> float:
        """The number in 0..1, as tables of results have it."""
        return float(self.value) / 100

    @property
    def figure(self) -> str:
        """Name of the figure in tables of results: papers' code computes PRO as ``pixel_PRO200`` does."""
        return "pixel_PRO200" if self.metric == "PRO" else f"{self.level}_{self.metric}"


@cache
def published() -> tuple[Published, ...]:
    """Return all published numbers, in the file's order."""
    text = (files("anomalib_clipzoo.results") / "published.csv").read_text(encoding="utf-8")
    return tuple(Published(**{**row, "shots": int(row["shots"])}) for row in csv.DictReader(text.splitlines()))  # type: ignore[arg-type]


# ---- tables ----


def published_tables(method: str) -> str:
    """Lay out a method's published numbers in Markdown: means, then categories, then what other sources say.

    Args:
        method: The method's name in its paper.

    Raises:
        ValueError: If nothing is known of it.
    """
    rows = [row for row in published() if row.method == method]
    if not rows:
        known = ", ".join(_unique(row.method for row in published()))
        msg = f"Nothing published is known of {method!r}; there are: {known}."
        raise ValueError(msg)
    means, categories = [row for row in rows if not row.category], [row for row in rows if row.category]
    flags = _unique(row.flag for row in rows if row.flag)
    parts = [_table(means, flags)]
    parts += ["By category:\n\n" + _table(categories, flags)] if categories else []
    parts += ["\n".join(f"{number}. {flag}" for number, flag in enumerate(flags, 1))] if flags else []
    return "\n\n".join(parts)


def _table(rows: Sequence[Published], flags: Sequence[str]) -> str:
    """A line for each target, variant, number of references and source; a column for each figure."""
    columns: dict[str, Callable[[Published], str]] = {
        "target": lambda row: row.target,
        "category": lambda row: row.category,
        "learned on": lambda row: row.auxiliary,
        "k": lambda row: str(row.shots),
        "variant": lambda row: row.variant,
    }
    starts = {name: read for name, read in columns.items() if name == "target" or len({*map(read, rows)}) > 1}
    figures = [name for name in ORDER if any(name == f"{row.level} {row.metric}" for row in rows)]
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        cells = lines.setdefault((*(read(row) for read in starts.values()), row.source), {})
        note = f" ({flags.index(row.flag) + 1})" if row.flag else ""
        cells[f"{row.level} {row.metric}"] = f"{row.value}{note}"
    heads = [*starts, *(_label(name) for name in figures), "source"]
    body = [[*key[:-1], *(cells.get(name, "") for name in figures), key[-1]] for key, cells in lines.items()]
    rule = ["---"] * len(starts) + ["---:"] * len(figures) + ["---"]
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, rule, *body))


def _label(name: str) -> str:
    level, metric = name.split()
    return f"{level} {LABELS.get(metric, metric)}"


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
