# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""A prediction holds no more memory after many images than after few, and leaves its rows when it is killed."""

import psutil
import pytest

from anomalib_clipzoo.results.reading import read_predictions
from benchmarks.predict_memory import measure

STEP, IMAGES = 300, 1200
GROWTH = 60
"""Megabytes; what was kept of so many images of the toy's size took 130."""


@pytest.mark.slow
def test_memory_stays_and_a_killed_run_leaves_its_rows(tmp_path):
    readings = measure(tmp_path, 5 * IMAGES, STEP, pictures=True)
    seen = dict(next(readings) for _ in range(IMAGES // STEP))
    (process,) = (one for one in psutil.Process().children() if "predict" in one.cmdline())
    process.kill()
    with pytest.raises(RuntimeError, match="anomalib predict"):  # it did not come to its end
        list(readings)
    first, *_, last = seen.values()
    assert last - first < GROWTH, seen
    (table,) = tmp_path.rglob("predictions.csv")
    left = read_predictions(table)
    assert IMAGES <= len(left) < 2 * IMAGES
    assert left.score.notna().all()
    pictures = {path.name for path in (table.parent / "images").rglob("*.png")}
    assert {path.rpartition("/")[2] for path in left.heatmap} <= pictures
