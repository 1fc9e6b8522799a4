# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""MuSc on the toy, through anomalib's commands: a set, a pool, several processes."""

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.deploy import TorchInferencer

from .conftest import CONFIGS, NO_PICTURES, anomalib, forked_anomalib

pytestmark = pytest.mark.slow

TOY = ("--config", CONFIGS / "musc" / "toy.yaml", *NO_PICTURES)
# Image and pixel AUROC of the paper's algorithm, measured apart; two images that change places make 0.002.
TOY_AUROC = {
    "gear": (0.609, 0.800),
    "leather": (1.0, 0.968),
    "pill": (0.815, 0.898),
    "screw": (0.458, 0.880),
    "tile": (0.877, 0.891),
    "wood": (0.960, 0.958),
}
MODEL = ("--model", "MuSc", "--model.backbone", "toy", "--model.r_list", "[1, 3]", *NO_PICTURES)


@pytest.fixture(scope="module")
def tested(workspace):
    """The run that the model's page names."""
    return anomalib("test", *TOY, "--default_root_dir", "results/set", folder=workspace)


@pytest.fixture(scope="module")
def wood(tested, workspace):
    """The folder of a category that was drawn."""
    return workspace / "datasets" / "ToyAD" / "wood"


def test_the_toy(tested, workspace):
    (table,) = (workspace / "results" / "set").rglob("metrics.csv")
    rows = pd.read_csv(table)
    rows = rows[rows["defect"].isna()].set_index("category")
    for category, expected in TOY_AUROC.items():
        assert tuple(rows.loc[category, ["image_AUROC", "pixel_AUROC"]]) == pytest.approx(expected, abs=6e-4)
    means = np.mean(list(TOY_AUROC.values()), axis=0)
    assert [tested.metrics["image_AUROC"], tested.metrics["pixel_AUROC"]] == pytest.approx(means, abs=6e-4)


def test_8_bits_change_little(tested, workspace):
    run = forked_anomalib(
        *("test", *TOY, "--model.distance_precision", "int8", "--default_root_dir", "results/int8"), folder=workspace
    )
    for name in ("image_AUROC", "pixel_AUROC"):
        assert run.metrics[name] == pytest.approx(tested.metrics[name], abs=5e-3)


def test_two_processes_score_the_same_set(tested, workspace):
    two = ("--trainer.strategy", "ddp", "--trainer.devices", "2", "--default_root_dir", "results/two")
    run = anomalib("test", *TOY, *two, folder=workspace)
    assert run.metrics == pytest.approx(tested.metrics, abs=1e-6)


def test_a_folder_is_a_set(wood, tmp_path):
    run = forked_anomalib("predict", *MODEL, "--data", wood / "test", folder=tmp_path)
    assert "There are no thresholds from validation data" in " ".join(run.text.split())
    (table,) = (tmp_path / "results" / "MuSc").rglob("predictions.csv")
    rows = pd.read_csv(table)
    assert len(rows) == 44
    highest = rows.nlargest(20, "score")["image_path"]
    assert highest.str.contains("/good/").mean() < 0.1


@pytest.fixture(scope="module")
def pooled(wood, workspace):
    """What a run with a pool leaves: the pool, and thresholds from the datamodule's validation images."""
    arguments = (*MODEL, "--model.pool_source", wood / "train" / "good", "--model.interval", "[0, 1]")
    data = ("--data", "ToyAD", "--data.category", "wood", "--data.num_workers", "0", "--trainer.accelerator", "cpu")
    run = forked_anomalib("train", *arguments, *data, folder=workspace)
    return run, workspace / "results" / "MuSc" / "ToyAD" / "wood" / "v0" / "weights" / "learned.safetensors"


def test_a_pool_of_normal_images(pooled):
    run, weights = pooled
    assert run.metrics["image_AUROC"] > 0.85
    assert run.metrics["pixel_AUROC"] > 0.93
    assert weights.stat().st_size < 16 * 4.5 * 144 * 128 * 4  # the tokens of 16 images, and little else


def test_a_single_image_against_a_pool_that_stayed(pooled, wood, tmp_path):
    _, weights = pooled
    image = wood / "test" / "hole" / "000.png"
    run = forked_anomalib(
        "predict", *NO_PICTURES, "--model", "MuSc", "--model.weights", weights, "--data", image, folder=tmp_path
    )
    assert "There are no thresholds" not in run.text
    (table,) = (tmp_path / "results" / "MuSc").rglob("predictions.csv")
    assert pd.read_csv(table)["label"].tolist() == ["anomalous"]


def test_a_pool_is_exported(pooled, wood, tmp_path, monkeypatch):
    _, weights = pooled
    forked_anomalib(
        *("export", "--model", "MuSc", "--model.weights", weights, "--export_type", "torch", "--export_root", tmp_path),
        folder=tmp_path,
    )
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    inferencer = TorchInferencer(tmp_path / "weights" / "torch" / "model.pt", device="cpu")
    with torch.no_grad():
        bad, good = (inferencer.predict(wood / "test" / kind / "000.png") for kind in ("hole", "good"))
    assert float(bad.pred_score) > float(good.pred_score)
    assert bad.anomaly_map.shape[-2:] == (96, 96)


def test_one_image_without_others_is_refused_in_one_line(wood, tmp_path):
    with pytest.raises(AssertionError, match="MuSc needs at least 5 images that score each other, and has 1"):
        forked_anomalib("predict", *MODEL, "--data", wood / "test" / "hole" / "000.png", folder=tmp_path)
