# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Where a map and its mask lie on the original image."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Region:
    """A connected part of a predicted mask, in pixels of the original image.

    Attributes:
        x: Left edge of the bounding box.
        y: Upper edge of the bounding box.
        width: Width of the bounding box.
        height: Height of the bounding box.
        area: Number of pixels that belong to the region.
    """

    x: int
    y: int
    width: int
    height: int
    area: int


def find_regions(mask: np.ndarray, size: tuple[int, int]) -> list[Region]:
    """Find the connected parts of a mask, pixels that touch at a corner included.

    Args:
        mask: Predicted mask ``(h, w)``, 0 or 1, at the map's resolution.
        size: Width and height of the original image. The mask covers all of it, whatever its own shape; boxes are
            rounded outwards to whole pixels, areas to the nearest.

    Returns:
        The regions, the largest first.
    """
    rows, columns = mask.shape
    _, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    regions = []
    for x, y, width, height, area in statistics[1:].tolist():  # the first is the background
        # In whole numbers, as products of floating-point ones may come out above the last pixel.
        left, top = x * size[0] // columns, y * size[1] // rows
        right, bottom = -(-(x + width) * size[0] // columns), -(-(y + height) * size[1] // rows)
        pixels = max(1, round(area * size[0] * size[1] / (rows * columns)))
        regions.append(Region(left, top, right - left, bottom - top, pixels))
    return sorted(regions, key=lambda region: region.area, reverse=True)


def find_peak(anomaly_map: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    """Find the pixel of the original image under the middle of the map's highest value.

    Args:
        anomaly_map: Map ``(h, w)``.
        size: Width and height of the original image.

    Returns:
        Column and row, counted from the upper left.
    """
    rows, columns = anomaly_map.shape
    row, column = divmod(int(anomaly_map.argmax()), columns)
    return (2 * column + 1) * size[0] // (2 * columns), (2 * row + 1) * size[1] // (2 * rows)
