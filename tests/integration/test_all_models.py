# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Commands that need no trained model."""

import pytest

from .conftest import forked_anomalib

pytestmark = pytest.mark.slow


def test_without_annotated_anomalies_it_learns_on_synthetic_ones(workspace):
    run = forked_anomalib(
        *("train", "--model", "VcpClip", "--model.backbone", "toy", "--model.visualizer", "false"),
        *("--data", "ToyAD", "--data.category", "pill", "--data.num_workers", "0"),
        *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"),
        folder=workspace,
    )
    assert " ".join(run.text.split()).count("learns on synthetic (Perlin noise) anomalies") >= 1
    assert run.metrics["pixel_AUROC"] > 0


def test_benchmark(workspace):
    config = workspace / "benchmark.yaml"
    config.write_text(
        """
accelerator: [cpu]
benchmark:
  seed: 0
  model:
    class_path:
      grid: [VcpClip, AnomalyClip, AdaClip, AprilGan, Crane, WinClipPlus, MuSc]
    init_args: {backbone: toy, visualizer: false}
  data:
    class_path: ToyAD
    init_args:
      num_workers: 0
      category:
        grid: [tile]
"""
    )
    forked_anomalib("benchmark", "--config", config, folder=workspace)
    (table,) = (workspace / "runs" / "benchmark").glob("*/results.csv")
    header, *rows = table.read_text().splitlines()
    assert len(rows) == 7
    assert "pixel_AUROC" in header
