# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What a batch of predictions says of each image, as rows of a table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from anomalib.data import Batch
from PIL import Image
from torch import Tensor

from anomalib_clipzoo.data.category import categories_of
from anomalib_clipzoo.results.folder_images import problems_of
from anomalib_clipzoo.results.regions import find_peak, find_regions

COLUMNS = (
    *("image_path", "category", "score", "raw_score", "label", "threshold", "raw_threshold", "gt_label"),
    *("width", "height", "peak_x", "peak_y", "region_count", "regions", "heatmap", "problem"),
)
"""Columns of a table of predictions; ``docs/your_parts.md`` says what each means."""

LARGEST_REGIONS = 50
"""How many regions of an image are listed; a mask that is nothing but noise has thousands."""

LABELS = ("normal", "anomalous")


@dataclass(frozen=True)
class Thresholds:
    """What a post-processor decides by; ``None`` where it does not.

    Attributes:
        image: Scores above it are anomalous.
        pixel: Pixels of the map above it are anomalous.
        raw_image: The model's own score that became 0.5, as fitted on validation data.
        raw_pixel: The model's own pixel score that became 0.5.
        fitted_on: What they were fitted on, where the post-processor knows.
    """

    image: float | None = None
    pixel: float | None = None
    raw_image: float | None = None
    raw_pixel: float | None = None
    fitted_on: Any = None

    @classmethod
    def of(cls, post_processor: Any) -> Thresholds:
        """Read the thresholds of anomalib's post-processor; of any other, or none, nothing is known."""
        if not getattr(post_processor, "enable_thresholding", False):
            return cls()
        return cls(
            image=_number(post_processor.normalized_image_threshold),
            pixel=_number(post_processor.normalized_pixel_threshold),
            raw_image=_number(post_processor.image_threshold),
            raw_pixel=_number(post_processor.pixel_threshold),
            fitted_on=getattr(post_processor, "provenance", None),
        )


def _number(value: Tensor) -> float | None:
    """Turn a threshold into a number, or nothing where none was fitted."""
    return None if math.isnan(value) else float(value)


def rows_of(
    batch: Batch,
    raw_scores: Tensor | None,
    thresholds: Thresholds,
    heatmaps: Sequence[str],
    category: str | None = None,
    located: bool = True,
) -> list[dict[str, Any]]:
    """Say what was predicted for each image of a batch.

    Args:
        batch: Batch of ``B`` images after post-processing, of any anomalib model.
        raw_scores: The model's own scores ``(B,)``, from before.
        thresholds: What the post-processor decided by.
        heatmaps: Paths of the ``B`` pictures, empty where there is none.
        category: Category of images that know none themselves.
        located: Whether the map covers the whole image, so that places on it are places on the image.

    Returns:
        ``B`` rows with the keys :data:`COLUMNS`.
    """
    count = batch.batch_size  # type: ignore[attr-defined]
    paths = batch.image_path or [""] * count  # type: ignore[attr-defined]
    columns = zip(
        *(paths, categories_of(batch), problems_of(batch), heatmaps),
        *(_planes(values if located else None, count) for values in (batch.anomaly_map, batch.pred_mask)),
        *(_column(values, count) for values in (batch.pred_score, raw_scores, batch.pred_label, batch.gt_label)),
        strict=True,
    )
    rows = []
    for path, own, problem, heatmap, anomaly_map, mask, score, raw_score, label, gt_label in columns:
        row: dict[str, Any] = {"image_path": path, "category": own or category, "problem": problem}
        if not problem:
            row |= {
                "score": _digits(score),
                "raw_score": _digits(raw_score),
                "label": None if label is None else LABELS[bool(label)],
                "threshold": _digits(thresholds.image),
                "raw_threshold": _digits(thresholds.raw_image),
                "gt_label": None if gt_label is None else LABELS[bool(gt_label)],
                "heatmap": heatmap,
                **_places(path, anomaly_map, mask),
            }
        rows.append({name: row.get(name) for name in COLUMNS})
    return rows


def _planes(values: Tensor | None, count: int) -> Sequence[np.ndarray | None]:
    """A map or mask ``(h, w)`` for each image, on the CPU; some models have a channel of one before that."""
    if values is None:
        return [None] * count
    return list(values.reshape(count, *values.shape[-2:]).float().cpu().numpy())


def _column(values: Tensor | None, count: int) -> list[Any]:
    """One value for each image; some models have ``(B, 1)``."""
    return [None] * count if values is None else values.flatten().tolist()


def _digits(value: float | None) -> str | None:
    """Write a number with as many digits as single precision has, so that reading it gives the same number."""
    return None if value is None else f"{value:.9g}"


def _places(path: str, anomaly_map: np.ndarray | None, mask: np.ndarray | None) -> dict[str, Any]:
    """Say where on the original image the map is highest and the mask lies."""
    if not path or (anomaly_map is None and mask is None):
        return {}
    with Image.open(path) as image:  # this reads the header alone
        size = image.size
    row: dict[str, Any] = {"width": size[0], "height": size[1]}
    if anomaly_map is not None:
        row["peak_x"], row["peak_y"] = find_peak(anomaly_map, size)
    if mask is not None:
        regions = find_regions(mask > 0, size)
        row["region_count"] = len(regions)
        row["regions"] = json.dumps([asdict(region) for region in regions[:LARGEST_REGIONS]])
    return row
