# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What a test sees of one category: the scores of its images, and counts of its pixels.

anomalib's exact pixel metrics keep every pixel, each metric for itself: at 518x518 pixels, two thousand images take
several gigabytes. Here a pixel is counted once for all metrics, in histograms of half a megabyte each. An image leaves
12 KB of coarser histograms behind, from which intervals are computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

import cv2
import numpy as np
import torch
from anomalib.data import Batch
from torch import Tensor

from anomalib_clipzoo.metrics.bins import BINS, bin_numbers, check_probabilities

COARSE_BINS = 2**10
"""Bins of the histograms that are kept of each image."""


@dataclass
class ImageObservations:
    """Scores and labels of a category's images, one entry for each image.

    Attributes:
        paths: Files, empty where not known.
        scores: Scores in 0..1.
        labels: Truth, 1 for anomalous.
        predictions: Labels that the model gave; empty where it gave none.
    """

    paths: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    predictions: list[int] = field(default_factory=list)

    def add(self, paths: list[str], scores: Tensor, labels: Tensor, predictions: Tensor | None) -> None:
        """Take in images: scores, labels and predictions ``(B,)`` or ``(B, 1)``."""
        check_probabilities(scores, "score", paths)
        self.paths += paths
        self.scores += scores.flatten().tolist()
        self.labels += labels.flatten().int().tolist()
        self.predictions += [] if predictions is None else predictions.flatten().int().tolist()

    def merge(self, other: ImageObservations) -> None:
        """Take in what another process saw."""
        for name in ("paths", "scores", "labels", "predictions"):
            getattr(self, name).extend(getattr(other, name))

    def of_kind(self, kind: str) -> ImageObservations:
        """Return the normal images and those with this kind of defect."""
        rows = [row for row, other in enumerate(self.kinds) if other in {"", kind}]
        paths, scores, labels = self.paths, self.scores, self.labels
        return ImageObservations(
            [paths[row] for row in rows], [scores[row] for row in rows], [labels[row] for row in rows]
        )

    @property
    def kinds(self) -> list[str]:
        """Kind of defect of each image, empty for normal ones: the name of its folder, where folders name kinds."""
        folders = [
            PurePath(path).parent.name if label else "" for path, label in zip(self.paths, self.labels, strict=True)
        ]
        return folders if len({*folders} - {""}) > 1 else [""] * len(folders)


@dataclass
class PixelObservations:
    """Counts of a category's pixels, and of each image's.

    Attributes:
        counts: Normal and anomalous pixels in each bin ``(2, BINS)``.
        overlap: Sum over the anomalous regions of the part of a region that lies in each bin ``(BINS,)``.
        hits: Pixels that are anomalous and predicted so, and those predicted so; ``None`` without predicted masks.
        lowest: The lowest score.
        highest: The highest score.
        paths: Files of the images, empty where not known.
        regions: Number of anomalous regions in each image.
        images: For each image its normal pixels, anomalous pixels and overlap in coarse bins ``(3, COARSE_BINS)``.
    """

    counts: Tensor = field(default_factory=lambda: torch.zeros(2, BINS, dtype=torch.long))
    overlap: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.double))
    hits: Tensor | None = None
    lowest: float = 1.0
    highest: float = 0.0
    paths: list[str] = field(default_factory=list)
    regions: list[int] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)

    def add(self, paths: list[str], maps: Tensor, masks: Tensor, predictions: Tensor | None) -> None:
        """Count the pixels of images, on the maps' device; connected regions are found on the CPU.

        Args:
            paths: Files of the images.
            maps: Anomaly maps in 0..1, ``(B, H, W)`` or ``(B, 1, H, W)``.
            masks: Truth, as many pixels as the maps.
            predictions: Predicted masks.
        """
        low, high = check_probabilities(maps, "anomaly map", paths)
        self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
        self.paths += paths
        masks = masks.reshape(maps.shape).bool()
        for map_, mask in zip(maps.flatten(0, -3), masks.flatten(0, -3), strict=True):
            self._add_image(bin_numbers(map_), mask)
        if predictions is not None:
            predictions = predictions.reshape(maps.shape).bool()
            hits = torch.stack([(predictions & masks).sum(), predictions.sum()]).cpu()
            self.hits = hits if self.hits is None else self.hits + hits

    def _add_image(self, numbers: Tensor, mask: Tensor) -> None:
        """Count one image, from its bin numbers and mask ``(H, W)``: one at a time bounds the memory."""
        counts = torch.bincount((numbers + BINS * mask).flatten(), minlength=2 * BINS).reshape(2, BINS).cpu()
        regions, overlap = _overlap(numbers, mask)
        self.counts += counts
        self.overlap += overlap
        self.regions.append(regions)
        rows = torch.cat([counts.double(), overlap[None]])
        self.images.append(rows.unflatten(1, (COARSE_BINS, -1)).sum(-1).float())

    def merge(self, other: PixelObservations) -> None:
        """Take in what another process counted."""
        self.counts += other.counts
        self.overlap += other.overlap
        if other.hits is not None:
            self.hits = other.hits if self.hits is None else self.hits + other.hits
        self.lowest, self.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)
        for name in ("paths", "regions", "images"):
            getattr(self, name).extend(getattr(other, name))


@dataclass
class Observations:
    """Images and pixels of one category."""

    images: ImageObservations = field(default_factory=ImageObservations)
    pixels: PixelObservations = field(default_factory=PixelObservations)

    def add(self, batch: Batch, rows: list[int]) -> None:
        """Take in the images of a batch that stand in these rows, as far as it has predictions and truth."""
        files = getattr(batch, "image_path", None)
        paths = [str(files[row]) if files else "" for row in rows]
        scores, labels, predictions = (_of_rows(batch, name, rows) for name in ("pred_score", "gt_label", "pred_label"))
        maps, masks, regions = (_of_rows(batch, name, rows) for name in ("anomaly_map", "gt_mask", "pred_mask"))
        if scores is not None and labels is not None:
            self.images.add(paths, scores, labels, predictions)
        if maps is not None and masks is not None:
            self.pixels.add(paths, maps, masks, regions)


def merged(parts: Iterable[Mapping[str | None, Observations]], name_of_unknown: str) -> dict[str, Observations]:
    """Put together what several processes saw of each category.

    Args:
        parts: Observations by category, of each process.
        name_of_unknown: What to call the category of images that know none.
    """
    whole: dict[str, Observations] = {}
    for part in parts:
        for category, seen in part.items():
            place = whole.setdefault(category or name_of_unknown, Observations())
            place.images.merge(seen.images)
            place.pixels.merge(seen.pixels)
    return whole


def _of_rows(batch: Batch, name: str, rows: list[int]) -> Tensor | None:
    values = getattr(batch, name, None)
    return None if values is None else values[rows]


def _overlap(numbers: Tensor, mask: Tensor) -> tuple[int, Tensor]:
    """Find a mask's regions: their number, and the sum over them of the part that lies in each bin ``(BINS,)``."""
    inside = numbers[mask].cpu()
    if not len(inside):
        return 0, torch.zeros(BINS, dtype=torch.double)
    mask_array = mask.cpu().numpy()
    count, labels = cv2.connectedComponents(mask_array.astype(np.uint8))  # neighbours are all eight
    regions = torch.from_numpy(labels[mask_array]).long()
    parts = regions.bincount(minlength=count).double().reciprocal()[regions]
    return count - 1, inside.bincount(weights=parts, minlength=BINS)
