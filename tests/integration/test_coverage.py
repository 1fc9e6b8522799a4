# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds for a false alarm rate keep it on fresh normal images of the toy, scored by a model."""

import pytest
from scipy.stats import binom

from anomalib_clipzoo.metrics.thresholds import rank
from anomalib_clipzoo.models.win_clip_plus import WinClipPlus
from benchmarks.coverage import IMAGES, Scored, fitted, measure, score

pytestmark = pytest.mark.slow

SPLITS = 200
CONFIDENCE = 0.9999


@pytest.fixture(scope="module")
def pool() -> Scored:
    """Eighty normal images that no ToyAD has."""
    return score(WinClipPlus(backbone="toy").eval(), "wood", [None] * 80, seed=1)


@pytest.mark.parametrize("rate", IMAGES)
def test_each_image_in_turn_is_the_new_one(rate, pool):
    """Of equally likely images, just as many as promised are above the threshold that the others give."""
    count = IMAGES[rate] + 1
    assert len(pool.scores.unique()) == len(pool.scores)
    for start in range(0, len(pool.scores), count):
        rows = list(range(start, start + count))
        alarms = 0
        for new in rows:
            batch = pool.batch([new])
            fitted(rate, [pool.batch([row for row in rows if row != new])]).post_process_batch(batch)
            alarms += int(batch.pred_label)
        assert alarms == pytest.approx(rate * count)


@pytest.mark.parametrize("rate", IMAGES)
def test_false_alarms_lie_within_binomial_bounds(rate, pool):
    alarms, share = measure(pool, rate, SPLITS, seed=1)
    low, high = binom.interval(CONFIDENCE, SPLITS, 1 - rank(IMAGES[rate], rate) / (IMAGES[rate] + 1))
    assert low <= alarms <= high
    assert 0 < share < 2 * rate
