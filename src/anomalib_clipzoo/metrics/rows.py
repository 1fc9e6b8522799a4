# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""From what a test saw of each category to the rows of its table."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from anomalib_clipzoo.metrics.figures import (
    FIGURES,
    Figures,
    image_figures,
    interval,
    pixel_figures,
    resampled_image_figures,
    resampled_pixel_figures,
)
from anomalib_clipzoo.metrics.observations import ImageObservations, Observations, PixelObservations
from anomalib_clipzoo.tables import Figure, Row, mean_row

Bounds = dict[str, tuple[float, float]]


def rows_of(
    seen: Mapping[str, Observations],
    resamples: int,
    seed: int,
    thresholds: Callable[[PixelObservations], Tensor] | None = None,
) -> list[Row]:
    """Compute the rows of all categories, of their kinds of defects, and of the mean.

    Args:
        seen: What the test saw of each category.
        resamples: Number of resamples of the bootstrap; 0 for no intervals.
        seed: Its seed.
        thresholds: What gives the thresholds of the papers' PRO; even steps if not given.
    """
    rows, drawn = [], []
    for category in sorted(seen):
        images, pixels = seen[category].images, seen[category].pixels
        figures = {**image_figures(images), **pixel_figures(pixels, thresholds(pixels) if thresholds else None)}
        drawn.append(_resampled(seen[category], resamples, _seed_of(seed, category)))
        rows.append(_row(category, "", images, {name: figures[name] for name in FIGURES if name in figures}, drawn[-1]))
        rows += _rows_of_defects(category, images, resamples, _seed_of(seed, category))
    return [*rows, mean_row(rows, _bounds(_mean(drawn)))] if rows else []


def _rows_of_defects(category: str, images: ImageObservations, resamples: int, seed: int) -> list[Row]:
    """Compute the AUROC of each kind of defect against all normal images."""
    rows = []
    for kind in sorted({*images.kinds} - {""}):
        seen = images.of_kind(kind)
        figures = {"image_AUROC": image_figures(seen)["image_AUROC"]}
        rows.append(_row(category, kind, seen, figures, _resampled(Observations(seen), resamples, seed)))
    return rows


def _resampled(seen: Observations, resamples: int, seed: int) -> Figures:
    if not resamples:
        return {}
    images = resampled_image_figures(seen.images, resamples, seed)
    return {**images, **resampled_pixel_figures(seen.pixels, resamples, seed)}


def _row(category: str, defect: str, images: ImageObservations, figures: Figures, drawn: Figures) -> Row:
    bounds, anomalous = _bounds(drawn), sum(images.labels)
    values = {name: Figure(float(value), *bounds.get(name, ())) for name, value in figures.items()}
    return Row(category, defect, len(images.labels) - anomalous, anomalous, values)


def _bounds(drawn: Figures) -> Bounds:
    return {name: interval(values) for name, values in drawn.items() if not values.isnan().any()}


def _mean(drawn: Sequence[Figures]) -> Figures:
    """Mean over the categories that have a figure, resample by resample."""
    columns: defaultdict[str, list[Tensor]] = defaultdict(list)
    for figures in drawn:
        for name, values in figures.items():
            if not values.isnan().any():
                columns[name].append(values)
    return {name: torch.stack(values).mean(0) for name, values in columns.items()}


def _seed_of(seed: int, category: str) -> int:
    """Seed of a category's resamples, which do not depend on the other categories."""
    return zlib.crc32(f"{seed}/{category}".encode())
