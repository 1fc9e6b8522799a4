# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Runs side by side: seeds of one configuration together, two runs on the same images, published numbers."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from anomalib_clipzoo.results.report.runs import SEED_ARGUMENT, Run
from anomalib_clipzoo.results.run_record import describe_origin
from anomalib_clipzoo.tables import MEAN

SEED = 0
"""Seed of the bootstrap."""

SHOWN_DIGITS = 12
"""How much of a fingerprint stands for it."""

OF_THE_MACHINE = frozenset({"cache_size", "compile"})
"""Arguments that results do not depend on."""


@dataclass(frozen=True)
class Spread:
    """A figure over the seeds of a configuration.

    Attributes:
        mean: Its mean.
        deviation: Its sample standard deviation; ``None`` for a single run.
        runs: Number of runs.
    """

    mean: float
    deviation: float | None
    runs: int


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in nothing but the seed, and in where files of equal weights lie.

    Attributes:
        name: How the report calls it.
        runs: The runs.
    """

    name: str
    runs: tuple[Run, ...]

    @property
    def categories(self) -> list[str]:
        """All categories, without the mean."""
        return list(dict.fromkeys(name for run in self.runs for name in run.figures if name != MEAN))

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics."""
        return list(dict.fromkeys(name for run in self.runs for row in run.figures.values() for name in row))

    def figure(self, category: str, metric: str) -> Spread | None:
        """Return a figure over the runs that have it."""
        values = [run.figures[category][metric] for run in self.runs if metric in run.figures.get(category, {})]
        values = [value for value in values if not math.isnan(value)]
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return Spread(statistics.fmean(values), deviation, len(values))


@dataclass(frozen=True)
class Difference:
    """How much better one run is than another on the same images.

    Attributes:
        first: Name of the run that is compared.
        second: Name of the run that it is compared with.
        metric: Name of the metric.
        value: Mean over categories of the first's figure minus the second's.
        low: Lower bound of the 95 % interval of resampled images.
        high: Upper bound.
        images: Number of images that both have.
        categories: Number of categories with good and bad images.
    """

    first: str
    second: str
    metric: str
    value: float
    low: float
    high: float
    images: int
    categories: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """Everything that a report says of several runs.

    Attributes:
        runs: The runs.
        configurations: The runs, seeds together.
        differences: Each run against the first, on the images that both have.
        warnings: In what runs differ that one would not expect to.
    """

    runs: list[Run]
    configurations: list[Configuration]
    differences: list[Difference]
    warnings: list[str]

    @classmethod
    def of(cls, runs: Sequence[Run], resamples: int) -> Comparison:
        """Compare runs.

        Args:
            runs: One or several.
            resamples: Resamples of the bootstrap.
        """
        differences = [one for run in runs[1:] for one in differences_of(run, runs[0], resamples)]
        return cls(list(runs), configurations_of(runs), differences, warnings_of(runs))

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics."""
        return list(dict.fromkeys(name for one in self.configurations for name in one.metrics))

    @property
    def categories(self) -> list[str]:
        """Names of all categories, without the mean."""
        return list(dict.fromkeys(name for one in self.configurations for name in one.categories))


def configurations_of(runs: Sequence[Run]) -> list[Configuration]:
    """Put runs together that differ in nothing but the seed, and in where files of equal weights lie."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_key(run), []).append(run)
    names = _names([group[0] for group in groups.values()])
    return [Configuration(name, tuple(_joined(group))) for name, group in zip(names, groups.values(), strict=True)]


def _key(run: Run) -> str:
    """Write down all that makes a configuration; in a benchmark every category is a run of its own."""
    record = run.record
    data = {name: value for name, value in record.data.items() if record.stage != "benchmark" or name != "category"}
    return json.dumps([record.model, _settings(run), data], sort_keys=True, default=str)


def _joined(runs: Sequence[Run]) -> Iterator[Run]:
    """Join a benchmark's runs on several categories with the same seed."""
    seeds: dict[tuple[int, ...], list[Run]] = {}
    for run in runs:
        if run.record.stage == "benchmark":
            seeds.setdefault(run.seeds, []).append(run)
        else:
            yield run
    for same_seed in seeds.values():
        rows = [(name, row) for run in same_seed for name, row in run.figures.items() if name != MEAN]
        figures = dict(rows) or same_seed[0].figures
        if rows:
            names = dict.fromkeys(name for _, row in rows for name in row)
            figures[MEAN] = {name: statistics.fmean(row[name] for _, row in rows if name in row) for name in names}
        yield Run(same_seed[0].folder, same_seed[0].record, figures, name=same_seed[0].name)


def _names(runs: Sequence[Run]) -> list[str]:
    """Name configurations by model and data, and by those arguments that tell equal ones apart."""
    names = [" on ".join(filter(None, (run.record.model, run.dataset))) for run in runs]
    named = []
    for name, run in zip(names, runs, strict=True):
        rivals = [_details(other) for other, one in zip(runs, names, strict=True) if one == name and other is not run]
        details = [
            f"{key} {value}" for key, value in _details(run).items() if any(rival.get(key) != value for rival in rivals)
        ]
        named.append(f"{name} ({', '.join(details)})" if details else name)
    return named


def _settings(run: Run) -> dict[str, Any]:
    """All but the data that makes a configuration, by name: of weights their content, of seeds none."""
    record = run.record
    arguments = {
        name: value for name, value in record.arguments.items() if name not in {SEED_ARGUMENT, *OF_THE_MACHINE}
    }
    if "feature_cache" in arguments:  # whether there is one decides on augmentation; where it lies decides nothing
        arguments["feature_cache"] = bool(arguments["feature_cache"])
    weights = {"weights": ", ".join(one[:SHOWN_DIGITS] for one in record.weights.values())} if record.weights else {}
    return {"stage": record.stage, "epochs": record.epochs, **arguments, **weights}


def _details(run: Run) -> dict[str, Any]:
    """All that can tell two configurations apart, by name."""
    return _settings(run) | {f"data.{name}": json.dumps(value) for name, value in run.record.data.items()}


def differences_of(run: Run, other: Run, resamples: int) -> list[Difference]:
    """Compare two runs on the images that both have, with a paired bootstrap over images.

    Every resample draws the same images for both runs, good and bad ones apart, so that what makes some images
    difficult for both does not blur the difference.

    Args:
        run: The run that is compared.
        other: The run that it is compared with.
        resamples: Number of resamples.
    """
    if run.readable.empty or other.readable.empty:
        return []
    pairs = run.readable.merge(other.readable, on="image_path", suffixes=("", "_other"))
    pairs = pairs[pairs.gt_label != ""]
    groups = [group for _, group in pairs.groupby("category") if group.gt_label.nunique() > 1]
    if not groups:
        return []
    from anomalib_clipzoo.metrics.figures import image_figures, interval, resampled_image_figures
    from anomalib_clipzoo.metrics.observations import ImageObservations

    values: dict[str, list[Any]] = {}
    drawn: dict[str, list[Any]] = {}
    for group in groups:
        paths, labels = group.image_path.tolist(), (group.gt_label == "anomalous").astype(int).tolist()
        first, second = (
            ImageObservations(paths, group[column].tolist(), labels) for column in ("score", "score_other")
        )
        for name, value in image_figures(first).items():
            values.setdefault(name, []).append(value - image_figures(second)[name])
        of_first, of_second = (resampled_image_figures(one, resamples, SEED) for one in (first, second))
        for name, figures in of_first.items():
            drawn.setdefault(name, []).append(figures - of_second[name])
    counts = sum(map(len, groups)), len(groups)
    found = []
    for name, parts in drawn.items():
        low, high = interval(sum(parts) / len(groups))
        found.append(Difference(run.name, other.name, name, float(sum(values[name]) / len(groups)), low, high, *counts))
    return found


THRESHOLD_WORDS = {
    "image": "thresholds of scores",
    "raw_image": "thresholds of raw scores, so that labels cannot be compared",
    "fitted_on": "data that their thresholds were fitted on",
}


def _shown(value: Any) -> str:
    """Write a threshold, or what it was fitted on whenever that was."""
    if isinstance(value, dict):
        return describe_origin(value).rpartition(", ")[0]
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def warnings_of(runs: Sequence[Run]) -> list[str]:
    """Say in what runs differ that makes their figures or labels hard to compare."""
    sentences = []
    for package in dict.fromkeys(name for run in runs for name in run.record.packages):
        versions = dict.fromkeys(run.record.packages.get(package, "unknown") for run in runs if run.record.packages)
        if len(versions) > 1:
            sentences.append(f"The runs were made with different versions of {package}: {', '.join(versions)}.")
    thresholds = [run.record.thresholds for run in runs if run.record.thresholds]
    for key, words in THRESHOLD_WORDS.items():
        found = dict.fromkeys(_shown(one.get(key)) for one in thresholds)
        if len(found) > 1:
            sentences.append(f"The runs have different {words}: {', '.join(found)}.")
    sentences.extend(
        f"{run.name} has not finished: {len(run.predictions)} images have a prediction."
        for run in runs
        if run.record.started and run.record.finished is None
    )
    sentences.extend(
        f"{run.name}: {run.record.unreadable} images could not be read." for run in runs if run.record.unreadable
    )
    return sentences
