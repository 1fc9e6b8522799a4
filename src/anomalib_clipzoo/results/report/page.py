# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Writing a report: the page for the browser, Markdown, LaTeX and a table for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from anomalib_clipzoo.results.report import plots
from anomalib_clipzoo.results.report.beside import published_beside
from anomalib_clipzoo.results.report.comparison import SHOWN_DIGITS, Comparison, Spread
from anomalib_clipzoo.results.report.gallery import Gallery
from anomalib_clipzoo.results.report.runs import Run
from anomalib_clipzoo.results.run_record import describe_origin, describe_references, now
from anomalib_clipzoo.tables import MEAN, escape_latex, escape_markdown, label_of
from anomalib_clipzoo.writing import write_whole

COMPARED = {"kind", "threshold", "of raw scores", "fitted on"}
"""Headings of the table of runs under which the report marks what differs, beside the packages' versions."""

TRUTHS = {"normal": 0, "anomalous": 1, "": -1}
COLUMNS = ("configuration", "category", "metric", "mean", "deviation", "runs")


def write_report(comparison: Comparison, folder: Path, pictures: int, limit: float) -> list[Path]:
    """Write a report's four files.

    Args:
        comparison: What there is to say.
        folder: Where to write them.
        pictures: How many images the gallery shows.
        limit: Size of the page in bytes.

    Returns:
        The files.
    """
    context = _context(comparison)
    gallery = Gallery.of(comparison.runs, pictures)
    page = {**context, **_plots(comparison.runs), **_images(comparison.runs, gallery)}
    template = _environment(escapes=True).get_template("report.html")
    thumbnails, height = gallery.thumbnails(limit - len(template.render(**page, thumbnails=[], height=0).encode()))
    plain = _environment(escapes=False)
    texts = {
        "report.html": template.render(**page, thumbnails=thumbnails, height=height),
        "report.md": plain.get_template("report.md").render(**context),
        "report.tex": plain.get_template("report.tex").render(**context),
        "report.csv": _figures(comparison),
    }
    for name, text in texts.items():
        write_whole(folder / name, text)
    return [folder / name for name in texts]


def _context(comparison: Comparison) -> dict[str, Any]:
    """What all templates say."""
    packages = dict.fromkeys(name for run in comparison.runs for name in run.record.packages)
    versions = {name: {run.record.packages.get(name, "") for run in comparison.runs} for name in packages}
    same = {name: next(iter(found)) for name, found in versions.items() if len(found) == 1}
    details = [_details(run, set(packages) - set(same)) for run in comparison.runs]
    headings = dict.fromkeys(name for row in details for name, value in row.items() if value)
    return {
        "comparison": comparison,
        "published": published_beside(comparison.configurations),
        "created": now(),
        "details": details,
        "headings": list(headings),
        "compared_headings": COMPARED | set(packages),
        "same_packages": ", ".join(f"{name} {version}" for name, version in same.items()),
        "MEAN": MEAN,
    }


def _plots(runs: Sequence[Run]) -> dict[str, Any]:
    """Draw what the page alone shows."""
    known = [run for run in runs if plots.has_both_labels(run)]
    return {
        "roc": Markup(plots.roc_plot(known)) if known else "",
        "precision_recall": Markup(plots.precision_recall_plot(known)) if known else "",
        "histograms": [Markup("" if run.readable.empty else plots.histogram(run)) for run in runs],
        "axis": {"left": plots.LEFT, "width": plots.WIDTH},
    }


def _environment(escapes: bool) -> Environment:
    """Prepare the templates, with what writes figures and names."""
    environment = Environment(
        loader=PackageLoader("anomalib_clipzoo", "assets/report"),
        autoescape=escapes,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "label": label_of,
        "latex": escape_latex,
        "markdown": escape_markdown,
        "signed": signed,
        "spread": spread,
    }
    return environment


def per_cent(value: float) -> str:
    """Write a share in per cent, with one decimal."""
    return f"{100 * value:.1f}"


def spread(figure: Spread | None, sign: str = "±") -> str:
    """Write a figure over seeds in per cent."""
    if figure is None:
        return ""
    deviation = "" if figure.deviation is None else f" {sign} {per_cent(figure.deviation)}"
    return per_cent(figure.mean) + deviation


def signed(difference: float) -> str:
    """Write a difference of two shares in points of a per cent, with its sign."""
    return f"{100 * difference:+.1f}"


def digits(value: float | None) -> str:
    """Write a threshold, ``"none"`` where there is none."""
    return "none" if value is None else f"{value:.4g}"


def _details(run: Run, packages: set[str]) -> dict[str, str]:
    """What the table of runs says of a run, by heading; of packages, the version of those that differ."""
    record, thresholds = run.record, run.record.thresholds
    return {
        "run": run.name,
        "kind": record.stage or "unknown",
        "images": str(record.images or len(run.readable) or ""),
        "not readable": str(record.unreadable or ""),
        "seed": ", ".join(map(str, run.seeds)),
        "epochs": str(record.epochs),
        "weights": ", ".join(f"{path} ({content[:SHOWN_DIGITS]})" for path, content in record.weights.items()),
        "references": describe_references(record.references),
        "threshold": digits(thresholds.get("image")),
        "of raw scores": digits(thresholds.get("raw_image")),
        "fitted on": describe_origin(thresholds["fitted_on"]) if thresholds.get("fitted_on") else "",
        **{name: version for name, version in record.packages.items() if name in packages},
        "started": record.started.removesuffix("+00:00").replace("T", " "),
        "folder": str(run.folder),
    }


def _images(runs: Sequence[Run], gallery: Gallery) -> dict[str, Any]:
    """What the page's script needs of each run: all scores for the numbers, cards for the pictures."""
    described = []
    for run, cards in zip(runs, gallery.cards, strict=True):
        table = run.readable
        names = sorted(set(table.category)) if len(table) else []
        described.append(
            {
                "name": run.name,
                "threshold": run.threshold,
                "scores": [round(score, 6) for score in table.score] if len(table) else [],
                "truths": table.gt_label.map(TRUTHS).tolist() if len(table) else [],
                "categories": table.category.map(names.index).tolist() if len(table) else [],
                "category_names": names,
                "cards": [asdict(card) for card in cards],
            }
        )
    return {"data": {"runs": described}, "has_predictions": any(one["scores"] for one in described)}


def _figures(comparison: Comparison) -> str:
    """Write all figures as comma-separated values, one a line, in 0..1."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for configuration in comparison.configurations:
        for category in [*configuration.categories, MEAN]:
            for metric in configuration.metrics:
                figure = configuration.figure(category, metric)
                if figure is not None:
                    cells = {"configuration": configuration.name, "category": category, "metric": metric}
                    writer.writerow(cells | asdict(figure))
    return text.getvalue()
