# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Tests of scores in bins."""

import pytest
import torch
from maps import make_batch
from torch.utils._python_dispatch import TorchDispatchMode

from anomalib_clipzoo.metrics.bend import bend, unbend
from anomalib_clipzoo.metrics.bins import BINS, bin_numbers, check_probabilities, lower_edges
from anomalib_clipzoo.metrics.observations import Observations


def test_numbers_rise_with_the_score_over_the_whole_range():
    scores = torch.linspace(0, 1, 100_001)
    numbers = bin_numbers(scores)
    assert numbers[0] == 0
    assert numbers[-1] == BINS - 1
    assert (numbers.diff() >= 0).all()


def test_tiny_differences_next_to_0_and_1_are_seen():
    near_zero = torch.tensor([1e-6, 1.1e-6, 1e-5, 1.1e-5, 1e-4, 1.1e-4])
    assert (bin_numbers(near_zero).diff() > 0).all()
    assert (bin_numbers(1 - near_zero.double()).diff() <= 0).all()
    assert bin_numbers(torch.tensor(0.99999)) < bin_numbers(torch.tensor(0.99998 + 1.5e-5))


def test_edges_stand_where_numbers_change():
    edges = lower_edges()
    assert len(edges) == BINS + 1
    assert (edges.diff() > 0).all()
    places = torch.randint(1, BINS, (1000,), generator=torch.Generator().manual_seed(0))
    middles = ((edges[places] + edges[places + 1]) / 2).float()
    wide = edges[places + 1] - edges[places] > 1e-6  # single precision can tell the middle from the edges
    assert wide.float().mean() > 0.6
    assert torch.equal(bin_numbers(middles)[wide], places[wide])


def test_a_hair_beyond_is_rounding_and_counts_as_the_end():
    assert bin_numbers(torch.tensor([1 + 4e-7, -4e-7])).tolist() == [BINS - 1, 0]
    check_probabilities(torch.tensor([[0.5, 1 + 4e-7], [-4e-7, 0.5]]), "anomaly map")


@pytest.mark.parametrize(("value", "problem"), [(float("nan"), "not a number"), (1.1, "outside 0..1"), (-1, "outside")])
def test_what_is_no_probability_is_refused_with_the_image_named(value, problem):
    batch = make_batch(0)
    batch.anomaly_map[3, 7, 8] = value
    with pytest.raises(ValueError, match=rf"anomaly map of test/good/0_3\.png .*{problem}"):
        Observations().add(batch, list(range(6)))
    batch = make_batch(0)
    batch.pred_score[2] = value
    with pytest.raises(ValueError, match=rf"score of test/bad/0_2\.png .*{problem}"):
        Observations().add(batch, list(range(6)))


class WithoutDoubles(TorchDispatchMode):
    """A device that lacks double precision: tensors that live there may not become double."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        results = result if isinstance(result, (tuple, list)) else [result]
        assert not any(isinstance(value, torch.Tensor) and value.dtype == torch.double for value in results), function
        return result


def test_counting_needs_no_double_precision():
    maps, threshold = make_batch(0).anomaly_map, torch.tensor(0.3)
    with WithoutDoubles():
        bin_numbers(maps)
        check_probabilities(maps, "anomaly map")
        unbend(bend(maps, threshold), threshold)


def test_bent_scores_come_back():
    scores = torch.linspace(0, 1, 1001)
    for threshold in (0.02, 0.5, 0.97, float("nan")):
        torch.testing.assert_close(unbend(bend(scores, torch.tensor(threshold)), torch.tensor(threshold)), scores)
