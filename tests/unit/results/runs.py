# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Runs as tests and predictions leave them, written at once."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from anomalib_clipzoo.results.rows import COLUMNS, Thresholds
from anomalib_clipzoo.results.run_record import RunRecord
from anomalib_clipzoo.results.table_file import TableFile
from anomalib_clipzoo.tables import Figure, Row, mean_row, to_csv

PACKAGES = {"anomalib-clipzoo": "0.1.0", "anomalib": "2.7.0"}
TILE = 32
Scores = dict[str, tuple[Sequence[float], Sequence[float]]]
"""Scores of good and of bad images by category."""


def write_run(
    folder: Path,
    scores: Scores,
    auroc: float | dict[str, float] = 0.9,
    images: Path | None = None,
    pictures: bool = False,
    **changes,
) -> Path:
    """Write a run's table, metrics and record; ``changes`` are those of the record.

    Pictures have two tiles, image and heatmap; the heatmap of an image is the brighter the higher its score.
    """
    folder.mkdir(parents=True)
    images = images or folder / "data"
    thresholds = asdict(Thresholds(image=0.5, raw_image=0.3))
    values = {
        "stage": "test",
        "model": "VcpClip",
        "arguments": {"layers": [1, 2]},
        "data": {"datamodule": "ToyAD", "name": "ToyAD"},
        "seed": 7,
        "thresholds": thresholds,
        "heatmap_tile": (TILE, 0, TILE, TILE) if pictures else None,
        "packages": PACKAGES,
        "started": "2026-01-01T00:00:00+00:00",
        "finished": "2026-01-01T00:01:00+00:00",
    }
    RunRecord(**values | changes).write(folder)
    table = TableFile(folder / "predictions.csv", COLUMNS)
    for category, (good, bad) in scores.items():
        rows = [("normal", number, score) for number, score in enumerate(good)]
        rows += [("anomalous", number, score) for number, score in enumerate(bad)]
        for truth, number, score in rows:
            heatmap = f"images/{category}/{truth}/{number}.png" if pictures else ""
            if pictures:
                draw_picture(folder / heatmap, score)
            table.append(
                [
                    {
                        "image_path": images / category / truth / f"{number}.png",
                        "category": category,
                        "score": score,
                        "raw_score": score,
                        "label": "anomalous" if score > 0.5 else "normal",
                        "threshold": 0.5,
                        "gt_label": truth,
                        "heatmap": heatmap,
                    }
                ]
            )
    table.close()
    aurocs = auroc if isinstance(auroc, dict) else dict.fromkeys(scores, auroc)
    metrics = [Row(name, "", 1, 1, {"image_AUROC": Figure(aurocs[name])}) for name in scores]
    (folder / "metrics.csv").write_text(to_csv([*metrics, mean_row(metrics)]))
    return folder


def draw_picture(path: Path, score: float, noise: bool = False, tile: int = TILE) -> None:
    """Draw an image in grey and a heatmap in red, side by side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((tile, 2 * tile, 3), 128, dtype=np.uint8)
    pixels[:, tile:] = (round(255 * score), 0, 0)
    if noise:
        pixels = np.random.default_rng(round(1e6 * score)).integers(0, 256, pixels.shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path, compress_level=1)
