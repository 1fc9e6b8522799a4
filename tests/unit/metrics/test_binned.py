# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Tests of the binned pixel metrics against the exact ones."""

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPRO, AUROC, F1Max

from anomalib_clipzoo.metrics import AP, BinnedAP, BinnedAUPRO, BinnedAUROC, BinnedF1Max

FIELDS = ["anomaly_map", "gt_mask"]
PAIRS = [(BinnedAUROC, AUROC), (BinnedAP, AP), (BinnedF1Max, F1Max), (BinnedAUPRO, AUPRO)]


def make_batch(seed: int, count: int = 6, size: int = 48) -> ImageBatch:
    """Noisy maps over masks with regions of several sizes; some images are normal."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, size, size, dtype=torch.bool)
    for index in range(0, count, 2):
        masks[index, 3 : 8 + 4 * index, 5:12] = True
        masks[index, 30:40, 30:33] = True
    maps = (0.7 * torch.rand(masks.shape, generator=generator) + 0.3 * masks) ** 2
    return ImageBatch(image=torch.zeros(count, 3, size, size), anomaly_map=maps, gt_mask=masks)


@pytest.mark.parametrize(("binned", "exact"), PAIRS)
def test_agrees_with_the_exact_metric(binned, exact):
    ours, theirs = binned(FIELDS, prefix="pixel_"), exact(FIELDS, prefix="pixel_")
    for seed in range(3):
        ours.update(make_batch(seed))
        theirs.update(make_batch(seed))
    assert ours.name == theirs.name
    assert float(ours.compute()) == pytest.approx(float(theirs.compute()), abs=2e-5)


@pytest.mark.parametrize(("binned", "value"), [(BinnedAUROC, 1), (BinnedAP, 1), (BinnedF1Max, 1), (BinnedAUPRO, 1)])
def test_perfect_maps(binned, value):
    batch = make_batch(0)
    metric = binned(FIELDS)
    metric.update(batch.update(anomaly_map=batch.gt_mask.float()))
    assert float(metric.compute()) == pytest.approx(value)


def test_constant_maps_are_chance():
    batch = make_batch(0)
    metric = BinnedAUROC(FIELDS)
    metric.update(batch.update(anomaly_map=torch.full(batch.gt_mask.shape, 0.5)))
    assert float(metric.compute()) == pytest.approx(0.5)


@pytest.mark.parametrize("binned", [pair[0] for pair in PAIRS])
def test_memory_does_not_grow(binned):
    metric = binned(FIELDS)

    def size() -> int:
        return sum(state.numel() for state in metric.metric_state.values())

    before = size()
    for seed in range(3):
        metric.update(make_batch(seed))
    assert size() == before


@pytest.mark.parametrize("binned", [pair[0] for pair in PAIRS])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_scores_out_of_range_are_refused(binned, value):
    batch = make_batch(0)
    batch.anomaly_map[0, 0, 0] = value
    with pytest.raises(ValueError, match=r"scores in 0\.\.1"):
        binned(FIELDS).update(batch)


def test_without_masks_nothing_is_counted_unless_strict():
    batch = make_batch(0).update(gt_mask=None)
    metric = BinnedAUROC(FIELDS, strict=False)
    metric.update(batch)
    assert metric.compute() is None
    with pytest.raises(ValueError, match="gt_mask"):
        BinnedAUROC(FIELDS).update(batch)
