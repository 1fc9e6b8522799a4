# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The quickstart's promises: each model learns, on categories that it never saw, and leaves its results behind."""

import pytest
import torch

from .conftest import EACH_MODEL, NO_PICTURES, anomalib

PROMISED = {"VcpClip": (0.90, 0.80), "AnomalyClip": (0.80, 0.75), "AdaClip": (0.88, 0.80)}  # pixel and image AUROC


@pytest.mark.parametrize("model", EACH_MODEL)
def test_it_learns(train_quickstart, model, workspace):
    trained = train_quickstart(model)
    untrained = anomalib("test", *trained.arguments, *NO_PICTURES, folder=workspace).metrics
    learned, (pixel, image) = trained.run.metrics, PROMISED[model]
    assert learned["pixel_AUROC"] >= pixel
    assert learned["image_AUROC"] >= image
    assert learned["pixel_AUROC"] >= untrained["pixel_AUROC"] + 0.10


@pytest.mark.xdist_group("VcpClip")
def test_it_leaves_heatmaps_metrics_and_weights(train_quickstart):
    trained = train_quickstart("VcpClip")
    heatmaps = list((trained.results / "images").rglob("*.png"))
    assert len(heatmaps) == 6 * (16 + 7 * 4)
    assert (trained.results / "metrics.csv").is_file()
    assert trained.weights.stat().st_size < 2e6
    assert trained.checkpoint.stat().st_size < 30e6


@pytest.mark.parametrize("model", EACH_MODEL)
def test_checkpoint_holds_no_frozen_clip(train_quickstart, model):
    content = torch.load(train_quickstart(model).checkpoint, weights_only=True)
    assert not any("backbone" in key for key in content["state_dict"])
    assert any(key.startswith("model.") for key in content["state_dict"])
    assert "post_processor.image_min" in content["state_dict"]
