# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Tables of results: as comma-separated values for programs, as Markdown and LaTeX for papers."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MEAN = "mean"
"""What stands as category in the row of the mean over categories."""

NOT_AVAILABLE = "n/a"
"""What stands for a figure that has no meaning, because all images (or pixels) are normal, or all anomalous."""

COLUMN_LABELS = {"F1Max": "F1-max", "F1Score": "F1"}


@dataclass(frozen=True)
class Figure:
    """A figure in 0..1.

    Attributes:
        value: The figure; not a number where it has no meaning.
        low: Lower bound of its interval, ``None`` without one.
        high: Upper bound of its interval.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass
class Row:
    """A row of results.

    Attributes:
        category: The category, or ``"mean"``.
        defect: The kind of defect that the row is about, empty for all.
        normal: Number of normal images, ``None`` where not counted.
        anomalous: Number of anomalous images, likewise.
        figures: Figures by name, such as ``"image_AUROC"``.
    """

    category: str
    defect: str = ""
    normal: int | None = None
    anomalous: int | None = None
    figures: dict[str, Figure] = field(default_factory=dict)


def mean_row(rows: Sequence[Row], intervals: dict[str, tuple[float, float]] | None = None) -> Row:
    """Return the mean over categories, each figure over those that have it."""
    whole = [row for row in rows if not row.defect]
    figures = {}
    for name in names_of(whole):
        values = [row.figures[name].value for row in whole if name in row.figures]
        present = [value for value in values if not math.isnan(value)]
        value = sum(present) / len(present) if present else math.nan
        figures[name] = Figure(value, *(intervals or {}).get(name, ()))
    return Row(MEAN, "", _total(row.normal for row in whole), _total(row.anomalous for row in whole), figures)


def _total(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def names_of(rows: Sequence[Row]) -> list[str]:
    """Return the names of all figures, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.figures))


def notes(rows: Sequence[Row]) -> list[str]:
    """Say in sentences which categories are left out of which mean."""
    left_out: dict[tuple[str, ...], list[str]] = {}
    for name in names_of(rows):
        without = tuple(
            row.category
            for row in rows
            if row.category != MEAN and not row.defect and math.isnan(row.figures.get(name, Figure(0)).value)
        )
        if without:
            left_out.setdefault(without, []).append(label_of(name))
    return [
        f"{', '.join(names)}: without {', '.join(categories)}, where all are normal or all are anomalous."
        for categories, names in left_out.items()
    ]


def label_of(name: str) -> str:
    """Return a column's heading: ``"image F1-max"`` for ``"image_F1Max"``."""
    level, _, metric = name.partition("_")
    return f"{level} {COLUMN_LABELS.get(metric, metric)}" if metric else name


# ---- comma-separated values ----


def to_csv(rows: Sequence[Row]) -> str:
    """Write rows as comma-separated values, figures in 0..1, each with the bounds of its interval where it has one."""
    columns = ["category", "defect", "normal", "anomalous"]
    for name in names_of(rows):
        has_interval = any(row.figures[name].low is not None for row in rows if name in row.figures)
        columns += [name, f"{name}_low", f"{name}_high"] if has_interval else [name]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells: dict[str, object] = {name: getattr(row, name) for name in columns[:4]}
        for name, figure in row.figures.items():
            cells[name] = NOT_AVAILABLE if math.isnan(figure.value) else figure.value
            if figure.low is not None:
                cells |= {f"{name}_low": figure.low, f"{name}_high": figure.high}
        writer.writerow(cells)
    return text.getvalue()


def read_csv(path: str | Path) -> list[Row]:
    """Read the rows that :func:`to_csv` wrote.

    Raises:
        ValueError: If the file is not such a table.
    """
    with Path(path).open(newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        if list(columns[:4]) != ["category", "defect", "normal", "anomalous"]:
            msg = f"{path} is not a table of metrics that a test with PerCategoryEvaluator left."
            raise ValueError(msg)
        names = [name for name in columns[4:] if not re.fullmatch(r".*_(low|high)", name)]
        return [_read_row(cells, names) for cells in reader]


def _read_row(cells: dict[str, str], names: Sequence[str]) -> Row:
    figures = {
        name: Figure(_number(cells[name]), *(float(cells[f"{name}_{bound}"]) for bound in ("low", "high")))
        if cells.get(f"{name}_low")
        else Figure(_number(cells[name]))
        for name in names
        if cells[name]
    }
    normal, anomalous = (int(cells[name]) if cells[name] else None for name in ("normal", "anomalous"))
    return Row(cells["category"], cells["defect"], normal, anomalous, figures)


def _number(cell: str) -> float:
    return math.nan if cell == NOT_AVAILABLE else float(cell)


# ---- Markdown and LaTeX ----


def to_markdown(rows: Sequence[Row], caption: str = "") -> str:
    """Lay rows out as Markdown, in per cent with one decimal: the categories, notes, then the kinds of defects."""
    categories, defects = _split(rows)
    parts = [caption, _markdown_table(categories), *notes(rows), _markdown_table(defects)]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_latex(rows: Sequence[Row], caption: str = "") -> str:
    r"""Lay rows out as LaTeX ``tabular`` with the rules of ``booktabs``; caption and notes are comments.

    Figures are in per cent with one decimal. The kinds of defects have a table of their own.
    """
    categories, defects = _split(rows)
    comments = [f"% {line}" for line in (caption, *notes(rows)) if line]
    parts = ["\n".join(comments), _latex_table(categories), _latex_table(defects)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Part rows for categories from those for kinds of defects."""
    return [row for row in rows if not row.defect], [row for row in rows if row.defect]


def _cells(row: Row, names: Sequence[str], escape: Callable[[str], str], interval: str) -> list[str]:
    """A row's cells, beginning with the category, and the kind of defect where it is about one."""
    start = [escape(text) for text in ([row.category, row.defect] if row.defect else [row.category])]
    return start + [_per_cent(row.figures.get(name), interval) for name in names]


def _head(rows: Sequence[Row], names: Sequence[str]) -> tuple[list[str], int]:
    """Headings, and how many of them head text."""
    start = ["category", "defect"] if rows[0].defect else ["category"]
    return [*start, *map(label_of, names)], len(start)


def _markdown_table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    names = names_of(rows)
    head, texts = _head(rows, names)
    lines = [head, ["---"] * texts + ["---:"] * len(names)]
    for row in rows:
        cells = _cells(row, names, escape_markdown, " [{}, {}]")
        lines.append([f"**{cell}**" if cell else "" for cell in cells] if row.category == MEAN else cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _latex_table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    names = names_of(rows)
    head, texts = _head(rows, names)
    columns = "l" * texts + "r" * len(names)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _latex_line(map(escape_latex, head))]
    for row in rows:
        lines += [r"\midrule"] if row.category == MEAN or row is rows[0] else []
        lines.append(_latex_line(_cells(row, names, escape_latex, r" {{\scriptsize [{}, {}]}}")))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _per_cent(figure: Figure | None, interval: str) -> str:
    if figure is None:
        return ""
    if math.isnan(figure.value):
        return NOT_AVAILABLE
    without = figure.low is None or figure.high is None
    return f"{100 * figure.value:.1f}" + ("" if without else interval.format(_bound(figure.low), _bound(figure.high)))


def _bound(value: float | None) -> str:
    return f"{100 * (value or 0):.1f}"


def escape_markdown(text: str) -> str:
    """Write text so that Markdown shows it as it is."""
    return re.sub(r"([\\|*_`\[\]<>])", r"\\\1", text)


def escape_latex(text: str) -> str:
    """Write text so that LaTeX shows it as it is."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(letter, rf"\{letter}" if letter in "&%$#_{}" else letter) for letter in text)
