# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Every anomalib command with every model, as a user types it."""

import signal
import subprocess
import time

import pytest
import torch

from .conftest import ANOMALIB, CONFIGS, EACH_MODEL, NO_PICTURES, anomalib, environment

QUICKSTART = CONFIGS / "quickstart.yaml"
SMALL = [
    *("--model", "VcpClip", "--model.backbone", "toy", "--model.visualizer", "false", "--data", "CrossDataset"),
    *("--data.auxiliary", "ToyAD", "--data.auxiliary.category", "button", "--data.num_workers", "0"),
    *("--data.target", "ToyAD", "--data.target.category", "pill", "--seed_everything", "42"),
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1"),
]


@pytest.mark.parametrize("model", EACH_MODEL)
def test_predict_on_a_folder_of_ones_own(train_quickstart, model, photos, tmp_path):
    weights = train_quickstart(model).weights
    run = anomalib(
        *("predict", "--model", model, "--model.backbone", "toy", "--model.weights", weights, "--data", photos),
        folder=tmp_path,
    )
    heatmaps = {path.stem for path in tmp_path.glob(f"results/{model}/latest/images/**/*.*")}
    assert heatmaps == {"rgb", "grey", "rgba", "photo", "deep"}, run.text


@pytest.mark.parametrize("model", EACH_MODEL)
def test_checkpoint_gives_the_same_metrics_again(train_quickstart, model, workspace):
    trained = train_quickstart(model)
    again = anomalib(*("test", *trained.arguments, *NO_PICTURES, "--ckpt_path", trained.checkpoint), folder=workspace)
    assert again.metrics == pytest.approx(trained.run.metrics, abs=1e-6)


@pytest.mark.parametrize("model", EACH_MODEL)
def test_learned_weights_are_validated_and_tested_without_training(train_quickstart, model, workspace):
    trained = train_quickstart(model)
    run = anomalib(*("train", *trained.arguments, *NO_PICTURES, "--model.weights", trained.weights), folder=workspace)
    assert "train_loss" not in run.text
    for name in ("image_AUROC", "pixel_AUROC"):
        assert run.metrics[name] == pytest.approx(trained.run.metrics[name], abs=1e-3)


@pytest.mark.xdist_group("VcpClip")
def test_validate(train_quickstart, workspace):
    trained = train_quickstart("VcpClip")
    run = anomalib(*("validate", *trained.arguments, *NO_PICTURES, "--ckpt_path", trained.checkpoint), folder=workspace)
    assert "Validation" in run.text


@pytest.mark.parametrize("model", EACH_MODEL)
def test_export_to_torch(train_quickstart, model, photos, tmp_path, monkeypatch):
    trained = train_quickstart(model)
    options = trained.arguments[2:] or ("--model", model)  # without the quickstart's configuration and its data
    anomalib(
        *("export", *options, "--model.backbone", "toy", "--export_type", "torch"),
        *("--ckpt_path", trained.checkpoint, "--export_root", tmp_path),
        folder=tmp_path,
    )
    from anomalib.deploy import TorchInferencer

    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    inferencer = TorchInferencer(tmp_path / "weights" / "torch" / "model.pt", device="cpu")
    prediction = inferencer.predict(photos / "rgb.png")
    assert prediction.anomaly_map.shape[-2:] == (96, 96)
    assert 0 <= float(prediction.pred_score) <= 1


@pytest.mark.parametrize("model", EACH_MODEL[1:])
def test_a_finished_run_goes_on(train_quickstart, model, workspace):
    trained = train_quickstart(model)
    before = torch.load(trained.checkpoint, weights_only=True)
    anomalib(
        *("fit", *trained.arguments, "--ckpt_path", trained.checkpoint, "--default_root_dir", workspace / "resumed"),
        *("--trainer.max_epochs", before["epoch"] + 2),
        folder=workspace,
    )
    (resumed,) = (workspace / "resumed" / model).rglob("model.ckpt")
    after = torch.load(resumed, weights_only=True)
    assert after["epoch"] == before["epoch"] + 1
    assert after["global_step"] == before["global_step"] / (before["epoch"] + 1) * (after["epoch"] + 1)


@pytest.mark.xdist_group("VcpClip")
def test_a_killed_run_resumes(train_quickstart, workspace, tmp_path):
    train_quickstart("VcpClip")  # draws the images
    command = [str(ANOMALIB), "fit", *SMALL, "--trainer.max_epochs", "400", "--data.target.root"]
    root = workspace / "datasets" / "ToyAD"
    command += [str(root), "--data.auxiliary.root", str(root)]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    checkpoint = tmp_path / "results" / "VcpClip" / "ToyAD" / "pill" / "v0" / "weights" / "lightning" / "model.ckpt"
    deadline = time.monotonic() + 240
    while not checkpoint.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.is_file()
    before = torch.load(checkpoint, weights_only=True)
    epochs = before["epoch"] + 3
    command[command.index("400")] = str(epochs)
    anomalib(*command[1:], "--ckpt_path", checkpoint, folder=tmp_path)
    (resumed,) = (tmp_path / "results" / "VcpClip" / "ToyAD" / "pill" / "v1").rglob("model*.ckpt")
    after = torch.load(resumed, weights_only=True)
    assert after["epoch"] == epochs - 1
    steps_per_epoch = before["global_step"] / (before["epoch"] + 1)
    assert after["global_step"] == steps_per_epoch * epochs


def test_without_annotated_anomalies_it_learns_on_synthetic_ones(workspace):
    run = anomalib(
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
      grid: [VcpClip, AnomalyClip, AdaClip, WinClipPlus]
    init_args: {backbone: toy, visualizer: false}
  data:
    class_path: ToyAD
    init_args:
      num_workers: 0
      category:
        grid: [tile]
"""
    )
    anomalib("benchmark", "--config", config, folder=workspace)
    (table,) = (workspace / "runs" / "benchmark").glob("*/results.csv")
    header, *rows = table.read_text().splitlines()
    assert len(rows) == 2
    assert "pixel_AUROC" in header


def test_print_config_and_help(workspace):
    assert "backbone: toy" in anomalib("train", "--config", QUICKSTART, "--print_config", folder=workspace).text
    helped = anomalib("train", "--model.help", "VcpClip", folder=workspace).text
    assert "--model.deep_prompt_len" in helped
    assert "Number of learned tokens in every text block" in helped


@pytest.mark.xdist_group("VcpClip")
def test_two_processes_give_the_metrics_of_one(train_quickstart, workspace):
    trained = train_quickstart("VcpClip")
    arguments = ("test", *trained.arguments, *NO_PICTURES, "--ckpt_path", trained.checkpoint)
    two = ("--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu")
    one = anomalib(*arguments, folder=workspace).metrics
    assert anomalib(*arguments, *two, folder=workspace).metrics == pytest.approx(one, abs=1e-6)


def test_two_processes_train(workspace):
    two = ("--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.max_epochs", "1")
    run = anomalib("train", *SMALL, *two, folder=workspace)
    assert run.metrics["pixel_AUROC"] > 0
