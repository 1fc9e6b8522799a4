# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""From observations to the figures that papers report, with bootstrap intervals over images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from anomalib_clipzoo.metrics import curves
from anomalib_clipzoo.metrics.bins import bin_numbers
from anomalib_clipzoo.metrics.observations import ImageObservations, PixelObservations

Figures = dict[str, Tensor]
"""Figures by name: one number each, or one for each resample ``(R,)``."""

FIGURES = (
    *("image_AUROC", "image_AP", "image_F1Max", "image_F1Score"),
    *("pixel_AUROC", "pixel_AP", "pixel_F1Max", "pixel_AUPRO", "pixel_PRO200", "pixel_F1Score"),
)
"""Names of all figures, in the order of the tables."""

THRESHOLDS = 200  # of the papers' PRO
CHUNK = 250  # resamples at a time, which bounds the memory


def image_figures(images: ImageObservations, weights: Tensor | None = None) -> Figures:
    """Compute the figures of images, exactly.

    Args:
        images: Scores and labels of ``N`` images.
        weights: How often each image counts ``(R, N)``; once if not given.

    Returns:
        Figures ``(R,)``; none without images, not a number where all images have the same label.
    """
    if not images.scores:
        return {}
    labels = torch.tensor(images.labels)
    weights = torch.ones(1, len(labels)) if weights is None else weights
    scores, places = torch.tensor(images.scores, dtype=torch.double).unique(return_inverse=True)
    counts = torch.zeros(len(weights), 2 * len(scores), dtype=torch.double)
    counts.index_add_(1, places + labels * len(scores), weights.double())
    normal, anomalous = counts.unflatten(1, (2, -1)).unbind(1)
    figures = {
        "image_AUROC": curves.auroc(normal, anomalous),
        "image_AP": curves.average_precision(normal, anomalous),
        "image_F1Max": curves.f1_max(normal, anomalous),
    }
    if len(images.predictions) == len(labels):
        predicted = torch.tensor(images.predictions)
        true, found, all_ = (weights.double() @ column.double() for column in (labels * predicted, predicted, labels))
        figures["image_F1Score"] = curves.f1_score(true, found, all_)
    return _where_two_labels(figures, labels.sum(), (1 - labels).sum())


def pixel_figures(pixels: PixelObservations, thresholds: Tensor | None = None) -> Figures:
    """Compute the figures of pixels.

    Args:
        pixels: Their counts.
        thresholds: The thresholds of the papers' PRO; evenly spaced from the lowest to the highest score if not given.

    Returns:
        Figures ``(1,)``; none without pixels, not a number where all pixels are normal or all anomalous.
    """
    if not pixels.images:
        return {}
    regions = torch.tensor(sum(pixels.regions))
    normal, anomalous = pixels.counts
    figures = _figures_of_counts(normal[None], anomalous[None], pixels.overlap[None], regions[None])
    thresholds = even_thresholds(pixels.lowest, pixels.highest) if thresholds is None else thresholds
    pro = curves.pro_of_200_thresholds(normal, pixels.overlap, regions, bin_numbers(thresholds))
    figures["pixel_PRO200"] = pro[None]
    if pixels.hits is not None:
        true, predicted = pixels.hits
        figures["pixel_F1Score"] = curves.f1_score(true, predicted, anomalous.sum())[None]
    return _where_two_labels(figures, normal.sum(), anomalous.sum())


def even_thresholds(lowest: float, highest: float) -> Tensor:
    """Return 200 thresholds, evenly spaced from the lowest score to the highest, which itself is not among them."""
    return torch.linspace(lowest, highest, THRESHOLDS + 1)[:-1]


def _figures_of_counts(normal: Tensor, anomalous: Tensor, overlap: Tensor, regions: Tensor) -> Figures:
    return {
        "pixel_AUROC": curves.auroc(normal, anomalous),
        "pixel_AP": curves.average_precision(normal, anomalous),
        "pixel_F1Max": curves.f1_max(normal, anomalous),
        "pixel_AUPRO": curves.aupro(normal, overlap, regions),
    }


def _where_two_labels(figures: Figures, *counts: Tensor) -> Figures:
    """Put "not a number" for what has no meaning because one of the two labels is missing."""
    if all(counts):
        return figures
    return {name: torch.full_like(value, torch.nan, dtype=torch.double) for name, value in figures.items()}


# ---- intervals ----


def resampled_image_figures(images: ImageObservations, resamples: int, seed: int) -> Figures:
    """Compute figures on resamples of images (bootstrap).

    Normal images are drawn, with replacement, from the normal ones, anomalous from the anomalous ones, so that every
    resample has both in the same numbers.

    Args:
        images: Scores and labels.
        resamples: Number of resamples ``R``.
        seed: Seed of the draws.

    Returns:
        Figures ``(R,)``.
    """
    return _joined(image_figures(images, draw) for draw in _draws(images.paths, images.labels, resamples, seed))


def resampled_pixel_figures(pixels: PixelObservations, resamples: int, seed: int) -> Figures:
    """Compute figures of pixels on resamples of images: an image's pixels are drawn together.

    They come from the images' coarse histograms, and are shifted by what coarse bins change for the images as they are;
    what remains is below 0.002.

    Args:
        pixels: Counts.
        resamples: Number of resamples ``R``.
        seed: Seed of the draws; those of :func:`resampled_image_figures` with the same seed are the same.

    Returns:
        Figures ``(R,)``, without those that depend on thresholds.
    """
    if not pixels.images:
        return {}
    histograms, regions = torch.stack(pixels.images), torch.tensor(pixels.regions, dtype=torch.float)
    coarse, fine = _coarse_figures(torch.ones(1, len(regions)), histograms, regions), pixel_figures(pixels)
    labels = [int(count > 0) for count in pixels.regions]
    drawn = _joined(
        _coarse_figures(draw, histograms, regions) for draw in _draws(pixels.paths, labels, resamples, seed)
    )
    return {name: (values + fine[name] - coarse[name]).clamp(0, 1) for name, values in drawn.items()}


def interval(values: Tensor, level: float = 0.95) -> tuple[float, float]:
    """Return the bounds between which the middle share ``level`` of the values lies."""
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.double)
    low, high = values.double().quantile(tails).tolist()
    return low, high


def _coarse_figures(weights: Tensor, histograms: Tensor, regions: Tensor) -> Figures:
    """Figures of images that count ``weights`` ``(R, N)`` times, from their histograms ``(N, 3, COARSE_BINS)``."""
    normal, anomalous, overlap = torch.einsum("rn,nks->krs", weights, histograms)
    return _figures_of_counts(normal, anomalous, overlap, weights @ regions)


def _draws(paths: Sequence[str], labels: Sequence[int], resamples: int, seed: int) -> Iterator[Tensor]:
    """Draw how often each image counts ``(R, N)``, some resamples at a time; the images' order does not matter."""
    generator = np.random.default_rng(seed)
    order = sorted(range(len(paths)), key=paths.__getitem__)
    groups = [[place for place in order if labels[place] == label] for label in (0, 1)]
    for start in range(0, resamples, CHUNK):
        weights = torch.zeros(min(CHUNK, resamples - start), len(paths))
        for group in filter(None, groups):
            drawn = generator.multinomial(len(group), np.full(len(group), 1 / len(group)), size=len(weights))
            weights[:, group] = torch.from_numpy(drawn).float()
        yield weights


def _joined(parts: Iterable[Figures]) -> Figures:
    parts = list(parts)
    return {name: torch.cat([part[name] for part in parts]) for name in (parts[0] if parts else {})}
