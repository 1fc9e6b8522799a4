# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Finding runs and reading what they left."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from anomalib_clipzoo.results.reading import PREDICTIONS_FILE, read_predictions
from anomalib_clipzoo.results.run_record import RUN_FILE, RunRecord
from anomalib_clipzoo.tables import MEAN, read_csv

METRICS_FILE = "metrics.csv"
EARLIER_FOLDER = "earlier"
METRIC_PREFIXES = ("image_", "pixel_")
BENCHMARK_COLUMNS = ("model.class_path", "data.class_path", "seed")
SEED_ARGUMENT = "seed"
"""Argument of models that choose images at random, as references, for a pool or for sets."""

Figures = dict[str, dict[str, float]]
"""Figures in 0..1 by category and name; the last category may be ``"mean"``."""


@dataclass
class Run:
    """What one run left.

    Attributes:
        folder: Its folder, or the benchmark's table that it is a row of.
        record: What the run was.
        figures: Its metrics.
        predictions: Its table of predictions, see :func:`.reading.read_predictions`; without rows where it has none.
        name: How the report calls it.
    """

    folder: Path
    record: RunRecord
    figures: Figures = field(default_factory=dict)
    predictions: pd.DataFrame = field(default_factory=pd.DataFrame)
    name: str = ""

    @property
    def readable(self) -> pd.DataFrame:
        """The predictions of images that could be read and have a score."""
        if self.predictions.empty:
            return self.predictions
        return self.predictions[(self.predictions.problem == "") & self.predictions.score.notna()]

    @property
    def threshold(self) -> float:
        """The threshold that the run's labels came from."""
        return float(self.record.thresholds.get("image") or 0.5)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The run's seed, and that of the model's choice of images where it chooses any."""
        arguments = self.record.arguments
        seeds = (self.record.seed, arguments.get(SEED_ARGUMENT) if arguments.get("k_shot", True) else None)
        return tuple(seed for seed in seeds if seed is not None)

    @property
    def dataset(self) -> str:
        """Name of what it was tested on."""
        return str(self.record.data.get("name") or self.record.data.get("datamodule") or "")


def find_runs(places: Sequence[Path]) -> list[Run]:
    """Read the runs in several places.

    Args:
        places: Folders of runs, folders above them, benchmark tables or folders that hold one.

    Returns:
        The runs, each once, with names that tell them apart.

    Raises:
        ValueError: If a place has no results, or those of another program.
        FileNotFoundError: If there is no such place.
    """
    folders: dict[Path, None] = {}
    for place in places:
        folders.update(dict.fromkeys(path.resolve() for path in _result_files(Path(place))))
    runs = [run for path in folders for run in (_read_folder(path) if path.is_dir() else _read_benchmark(path))]
    _name(runs)
    return runs


def _result_files(place: Path) -> Iterator[Path]:
    """Find folders of runs and benchmark tables in a place."""
    if not place.exists():
        msg = f"There is no file or folder {place}."
        raise FileNotFoundError(msg)
    if place.is_file():
        if place.name in {PREDICTIONS_FILE, METRICS_FILE, RUN_FILE}:
            place = place.parent
        yield place
        return
    found = [place] if _has_results(place) else _below(place)
    if not found:
        msg = f"{place} has no results: neither it nor a folder in it has a {PREDICTIONS_FILE}, as a test or a "
        msg += f"prediction writes it, a {METRICS_FILE} or a benchmark's results.csv."
        raise ValueError(msg)
    yield from (path / "results.csv" if (path / "results.csv").exists() else path for path in found)


def _has_results(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (PREDICTIONS_FILE, METRICS_FILE, "results.csv"))


def _below(folder: Path) -> list[Path]:
    """List the folders with results in a folder, but for what later runs have put aside."""
    folders = sorted(
        path.parent for pattern in ("predictions", "metrics", "results") for path in folder.rglob(f"{pattern}.csv")
    )
    return [path for path in dict.fromkeys(folders) if EARLIER_FOLDER not in path.relative_to(folder).parts]


def _read_folder(folder: Path) -> list[Run]:
    """Read what a test or a prediction left."""
    record = RunRecord.read(folder) or RunRecord(stage="", model=folder.name)
    run = Run(folder, record)
    if (folder / PREDICTIONS_FILE).exists():
        run.predictions = read_predictions(folder / PREDICTIONS_FILE)
        if run.predictions.empty:
            msg = f"{folder / PREDICTIONS_FILE} has no rows: the run ended before its first batch."
            raise ValueError(msg)
    if (folder / METRICS_FILE).exists() and record.stage != "predict":
        rows = [row for row in read_csv(folder / METRICS_FILE) if not row.defect]
        run.figures = {row.category: {name: one.value for name, one in row.figures.items()} for row in rows}
    return [run]


def _read_benchmark(path: Path) -> list[Run]:
    """Read the rows of anomalib's benchmark."""
    try:
        table = pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        msg = f"{path} is no table of results: {error}"
        raise ValueError(msg) from error
    missing = [name for name in BENCHMARK_COLUMNS if name not in table]
    if missing:
        msg = f"{path} was not written by anomalib's benchmark: it lacks the columns {', '.join(missing)}."
        raise ValueError(msg)
    if table.empty:
        msg = f"{path} has no rows: the benchmark ended before its first job."
        raise ValueError(msg)
    return [_benchmark_run(path, row) for row in table.to_dict("records")]


def _benchmark_run(path: Path, row: dict[str, Any]) -> Run:
    """Turn a row of the benchmark into a run of one category, or of all where its data name none."""
    row = {name: value for name, value in row.items() if not _is_missing(value)}
    figures = {name: float(value) for name, value in row.items() if name.startswith(METRIC_PREFIXES)}
    tested = [name for name in row if name.startswith("data.") and ".auxiliary." not in name]
    category = next((str(row[name]) for name in tested if name.endswith(".category")), MEAN)
    classes = [row[name] for name in sorted(tested, key=len) if name.endswith("class_path")]
    data = {name: value for name, value in _part(row, "data.").items() if not name.endswith(".category")}
    record = RunRecord(
        stage="benchmark",
        model=str(row["model.class_path"]).rpartition(".")[2],
        arguments=_part(row, "model.init_args."),
        data={"datamodule": str(classes[-1]).rpartition(".")[2], **data, "category": category},
        seed=int(row["seed"]),
    )
    return Run(path, record, {category: figures} if category == MEAN else {category: figures, MEAN: figures})


def _part(row: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Pick what belongs to one class."""
    return {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}


def _is_missing(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _name(runs: Sequence[Run]) -> None:
    """Name runs by as little as tells them apart: model, data, seed, folder."""
    for run in runs:
        run.name = " on ".join(filter(None, (run.record.model, run.dataset)))
    for detail in (_seed, _category, _folder):
        for run in _ambiguous(runs):
            run.name += detail(run)
    for number, run in enumerate(_ambiguous(runs), start=1):
        run.name += f" ({number})"


def _ambiguous(runs: Iterable[Run]) -> list[Run]:
    names = [run.name for run in runs]
    return [run for run in runs if names.count(run.name) > 1]


def _seed(run: Run) -> str:
    return f", seed {' and '.join(map(str, run.seeds))}" if run.seeds else ""


def _category(run: Run) -> str:
    return f", {run.record.data['category']}" if run.record.data.get("category") else ""


def _folder(run: Run) -> str:
    return f", {run.folder.name}"
