# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds from other data must decide, and must not blur the ranking."""

import torch

from anomalib_clipzoo.models.components.post_processor import ProbabilityPostProcessor


def bend(scores: torch.Tensor, threshold: float) -> torch.Tensor:
    nan = torch.tensor(float("nan"))
    return ProbabilityPostProcessor._normalize(scores, nan, nan, torch.tensor(threshold))


def test_the_threshold_comes_to_one_half_and_the_ranking_stays():
    scores = torch.linspace(0, 1, 1001)
    for threshold in (0.05, 0.5, 0.93):
        bent = bend(scores, threshold)
        assert (bent.diff() > 0).all()
        assert bent[0] == 0
        assert bent[-1] == 1
        assert torch.equal(bent > 0.5, scores > threshold)
        torch.testing.assert_close(bend(torch.tensor([threshold]), threshold), torch.tensor([0.5]))


def test_without_a_threshold_scores_stay_as_they_are():
    scores = torch.linspace(0, 1, 11)
    torch.testing.assert_close(bend(scores, float("nan")), scores)


def test_extreme_thresholds_stay_finite():
    scores = torch.linspace(0, 1, 11)
    for threshold in (0.0, 1.0):
        bent = bend(scores, threshold)
        assert bent.isfinite().all()
        assert 0 <= bent.min() <= bent.max() <= 1
