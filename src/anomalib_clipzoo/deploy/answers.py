# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What is said of one image, in words and as a picture: the same in the service, in tables and on the page."""

from __future__ import annotations

from dataclasses import asdict
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import torch
from anomalib.visualization.image.functional import overlay_image, visualize_anomaly_map, visualize_mask
from PIL import Image

from anomalib_clipzoo.deploy.scorer import Finding
from anomalib_clipzoo.results.rows import LARGEST_REGIONS
from anomalib_clipzoo.results.visualizer import PNG_LEVEL

OPACITY = 0.5
"""Of heatmaps over images, as in anomalib's own pictures."""


def to_answer(finding: Finding) -> dict[str, Any]:
    """Say what was found, under the names of the columns of ``predictions.csv``."""
    peak, regions = finding.peak or (None, None), finding.regions
    return {
        "score": float(f"{finding.score:.9g}"),  # as many digits as single precision has
        "label": finding.label,
        "threshold": finding.threshold,
        "width": finding.size[0],
        "height": finding.size[1],
        "peak_x": peak[0],
        "peak_y": peak[1],
        "region_count": len(regions),
        "regions": [asdict(region) for region in regions[:LARGEST_REGIONS]],
    }


def draw_overlay(image: Image.Image, finding: Finding, opacity: float = OPACITY) -> Image.Image:
    """Lay the heatmap and the outlines of anomalous regions over an image.

    Args:
        image: RGB picture.
        finding: What was found on it.
        opacity: Of the heatmap, 0..1.

    Returns:
        RGB picture of the same size.
    """
    picture = image.convert("RGBA")
    if finding.map is not None:
        heatmap = cv2.resize(finding.map, image.size, interpolation=cv2.INTER_LINEAR)
        picture = overlay_image(picture, visualize_anomaly_map(torch.from_numpy(heatmap)), opacity)
    if finding.mask is not None and finding.mask.any():
        mask = cv2.resize(finding.mask.astype(np.uint8) * 255, image.size, interpolation=cv2.INTER_NEAREST)
        picture = overlay_image(picture, visualize_mask(Image.fromarray(mask), mode="contour"), 1.0)
    return picture.convert("RGB")


def to_png(picture: Image.Image) -> bytes:
    """Write a picture as a PNG file."""
    content = BytesIO()
    picture.save(content, "PNG", compress_level=PNG_LEVEL)
    return content.getvalue()
