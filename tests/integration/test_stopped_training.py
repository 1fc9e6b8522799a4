# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""A training that is stopped by Ctrl-C, or by a shutdown, leaves what its last finished epoch learned."""

import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anomalib_clipzoo.models.anomaly_clip import AnomalyClip

from .conftest import ANOMALIB, NO_PICTURES, environment

pytestmark = pytest.mark.slow

PATIENCE = 240  # seconds
EPOCHS = 1000
SIGNALS = (signal.SIGINT, signal.SIGTERM)
TRAIN = ("--model", "AnomalyClip", "--model.backbone", "toy", "--data", "ToyAD", "--trainer.max_epochs", str(EPOCHS))


def wait_for_epochs(count: int, folder: Path) -> Path:
    """Wait until learned weights were written so many times; return their path."""
    seen, until = set(), time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for path in folder.glob("results/AnomalyClip/ToyAD/*/v0/weights/learned.safetensors"):
            seen.add(path.stat().st_mtime_ns)
            if len(seen) == count:
                return path
        time.sleep(0.05)
    msg = f"no {count} epochs in {PATIENCE} seconds"
    raise AssertionError(msg)


def heed_interrupts() -> None:
    """Undo what a shell does to processes in its background: they ignore SIGINT, and so do their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> dict[signal.Signals, Path]:
    """Learned weights of trainings that were stopped by each signal in their fourth epoch or later."""
    folders = {number: tmp_path_factory.mktemp(number.name) for number in SIGNALS}
    processes = {}
    try:
        for number, folder in folders.items():
            with (folder / "output.txt").open("w") as output:
                processes[number] = subprocess.Popen(
                    [ANOMALIB, "train", *TRAIN, *NO_PICTURES],
                    cwd=folder,
                    env=environment(),
                    stdout=output,
                    stderr=output,
                    preexec_fn=heed_interrupts,
                )
        learned = {}
        for number, process in processes.items():
            learned[number] = wait_for_epochs(3, folders[number])
            time.sleep(0.2)  # into the next epoch
            process.send_signal(number)
        for process in processes.values():
            process.wait(PATIENCE)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    return learned


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_what_the_last_finished_epoch_learned_stays(number, stopped):
    path = stopped[number]
    learned = load_file(path)
    checkpoint = torch.load(path.parent / "lightning" / "model.ckpt", weights_only=True)  # written after each epoch
    assert 2 <= checkpoint["epoch"] < EPOCHS - 1
    names = [name for name in learned if name.startswith("model.")]
    assert names
    assert all(torch.equal(learned[name], checkpoint["state_dict"][name]) for name in names)
    model = AnomalyClip(weights=path, visualizer=False).eval()
    untrained = AnomalyClip(backbone="toy", visualizer=False).state_dict()
    assert any(not torch.equal(model.state_dict()[name], untrained[name]) for name in names)
    assert model(torch.rand(1, 3, 96, 96)).anomaly_map.isfinite().all()
