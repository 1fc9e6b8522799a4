# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The quickstart's promises: it learns, on categories that it never saw, and leaves its results behind."""

import torch

from .conftest import CONFIGS, anomalib


def test_it_learns(quickstart, workspace):
    untrained = anomalib(
        "test", "--config", CONFIGS / "quickstart.yaml", "--model.visualizer", "false", folder=workspace
    ).metrics
    learned = quickstart.metrics
    assert learned["pixel_AUROC"] >= 0.90
    assert learned["image_AUROC"] >= 0.80
    assert learned["pixel_AUROC"] >= untrained["pixel_AUROC"] + 0.10


def test_it_leaves_heatmaps_metrics_and_weights(results, learned, checkpoint):
    heatmaps = list((results / "images").rglob("*.png"))
    assert len(heatmaps) == 6 * (16 + 7 * 4)
    assert (results / "metrics.csv").is_file()
    assert learned.stat().st_size < 2e6
    assert checkpoint.stat().st_size < 30e6


def test_checkpoint_holds_no_frozen_clip(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    assert not any("backbone" in key for key in content["state_dict"])
    assert any("post_vcp" in key for key in content["state_dict"])
    assert "post_processor.image_min" in content["state_dict"]
