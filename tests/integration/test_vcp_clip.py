# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""VcpClip through the anomalib command."""

import signal
import subprocess
import time

import pytest
import torch
from safetensors.torch import load_file

from .commands import QuickstartCommands
from .conftest import ANOMALIB, CONFIGS, NO_PICTURES, anomalib, environment, forked_anomalib

pytestmark = pytest.mark.slow

QUICKSTART = CONFIGS / "quickstart.yaml"
LR = 0.001
SMALL = [
    *("--model", "VcpClip", "--model.backbone", "toy", "--model.visualizer", "false", "--data", "CrossDataset"),
    *("--data.auxiliary", "ToyAD", "--data.auxiliary.category", "button", "--data.num_workers", "0"),
    *("--data.target", "ToyAD", "--data.target.category", "pill", "--seed_everything", "42"),
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1"),
]


class TestQuickstart(QuickstartCommands):
    model, floors = "VcpClip", {"pixel_AUROC": 0.90, "image_AUROC": 0.80}


def test_it_leaves_heatmaps_metrics_and_weights(train_quickstart):
    trained = train_quickstart("VcpClip")
    heatmaps = list((trained.results / "images").rglob("*.png"))
    assert len(heatmaps) == 6 * (16 + 7 * 4)
    assert (trained.results / "metrics.csv").is_file()
    assert trained.weights.stat().st_size < 2e6
    assert trained.checkpoint.stat().st_size < 30e6


def test_validate(train_quickstart, workspace):
    trained = train_quickstart("VcpClip")
    run = forked_anomalib(
        *("validate", *trained.arguments, *NO_PICTURES, "--ckpt_path", trained.checkpoint), folder=workspace
    )
    assert "Validation" in run.text


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
    forked_anomalib(*command[1:], "--ckpt_path", checkpoint, folder=tmp_path)
    (resumed,) = (tmp_path / "results" / "VcpClip" / "ToyAD" / "pill" / "v1").rglob("model*.ckpt")
    after = torch.load(resumed, weights_only=True)
    assert after["epoch"] == epochs - 1
    steps_per_epoch = before["global_step"] / (before["epoch"] + 1)
    assert after["global_step"] == steps_per_epoch * epochs


def test_two_processes_give_the_metrics_of_one(train_quickstart, workspace):
    trained = train_quickstart("VcpClip")
    arguments = ("test", *trained.arguments, *NO_PICTURES, "--ckpt_path", trained.checkpoint)
    two = ("--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu")
    assert anomalib(*arguments, *two, folder=workspace).metrics == pytest.approx(trained.run.metrics, abs=1e-6)


def test_two_processes_train(workspace, tmp_path):
    """Two halves of a batch come to what one process learns from the whole: losses are means over images."""
    data = ("--data.auxiliary.category", "button", "--data.validation_split", "0", "--data.train_batch_size")
    learned = []
    for count in (1, 2):
        run = (*data, 44 // count, "--trainer.devices", count, "--trainer.strategy", "ddp" if count > 1 else "auto")
        folder = tmp_path / str(count)
        model = ("--model", "AnomalyClip", *SMALL[2:], "--model.lr", LR, "--trainer.max_epochs", 2)
        anomalib("fit", *model, *run, "--default_root_dir", folder, folder=workspace)
        (weights,) = folder.rglob("learned.safetensors")
        learned.append(load_file(weights))
    one, two = learned
    for name in one:
        if name.startswith("model."):
            # Adam moves each value by about the learning rate in each of the two steps.
            torch.testing.assert_close(
                two[name], one[name], rtol=0, atol=0.02 * LR, msg=lambda text, name=name: name + text
            )


def test_print_config_and_help(workspace):
    assert "backbone: toy" in anomalib("train", "--config", QUICKSTART, "--print_config", folder=workspace).text
    helped = forked_anomalib("train", "--model.help", "VcpClip", folder=workspace).text
    assert "--model.deep_prompt_len" in helped
    assert "Number of learned tokens in every text block" in helped
