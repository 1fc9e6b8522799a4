# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""One report on one or many runs: a page for the browser, Markdown, LaTeX and a table of figures."""

from __future__ import annotations

from pathlib import Path

PAGE_LIMIT = 20e6
"""Largest size of the page, in bytes; thumbnails become smaller where it would be exceeded."""


def report(runs: list[Path], output: Path = Path("report"), pictures: int = 1000, resamples: int = 1000) -> None:
    """Write a report on runs: report.html for the browser, report.md, report.tex and report.csv.

    Args:
        runs: Folders that test or predict left, folders above them, or results.csv of anomalib's benchmark.
        output: Folder to write into.
        pictures: How many images the gallery shows in all, the worst of every run and category first.
        resamples: Resamples of the bootstrap that compares two runs.

    Raises:
        ValueError: If a folder has no results, or those of another program.
        FileNotFoundError: If there is no such file or folder.
    """
    from .comparison import Comparison
    from .page import write_report
    from .runs import find_runs

    found = find_runs(runs)
    paths = write_report(Comparison.of(found, resamples), output, pictures, PAGE_LIMIT)
    for path in paths:
        print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)" if path.suffix == ".html" else path)  # noqa: T201
