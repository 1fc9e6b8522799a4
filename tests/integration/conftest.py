# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The quickstart, run once with each model as a user runs it; the tests look at what it leaves behind."""

import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.register_assert_rewrite("tests.integration.commands")

CONFIGS = Path(__file__).parents[2] / "configs"
ANOMALIB = Path(sys.executable).parent / "anomalib"
NO_PICTURES = ("--model.visualizer", "false")
QUICKSTARTS = {  # as the documentation of each model gives them
    "VcpClip": (),
    "AnomalyClip": (
        *("--model", "AnomalyClip", "--model.layers", "[2]", "--model.lr", "0.001", *NO_PICTURES),
        *("--trainer.max_epochs", "8"),
    ),
    "AdaClip": (
        *("--model", "AdaClip", "--model.hsf", "most_anomalous", *NO_PICTURES),
        *("--trainer.max_epochs", "3"),
    ),
    "AprilGan": (
        *("--model", "AprilGan", "--model.temperature", "0.05", *NO_PICTURES),
        *("--trainer.max_epochs", "3"),
    ),
    "Crane": ("--model", "Crane", *NO_PICTURES, "--trainer.max_epochs", "2"),
}
METRIC = re.compile(r"│\s*((?:image|pixel)_\w+)\s*│\s*([\d.]+)\s*│")


@dataclass(frozen=True)
class Run:
    """A finished command: what it printed and the folder that it ran in."""

    text: str
    folder: Path

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the last table that it printed."""
        return {name: float(value) for name, value in METRIC.findall(self.text)}


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}


def anomalib(*arguments: object, folder: Path) -> Run:
    """Run the ``anomalib`` script; fail with all that it printed if it fails."""
    command = [str(ANOMALIB), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return Run(done.stdout + done.stderr, folder)


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["anomalib.cli"])


def forked_anomalib(*arguments: object, folder: Path) -> Run:
    """Do what :func:`anomalib` does in a fork of a process that has imported anomalib and done nothing else.

    Importing is most of a short command's time. Commands that start processes of their own need the script.
    """
    with tempfile.NamedTemporaryFile("w+") as output:
        process = FORKS.Process(target=_run_main, args=([*map(str, arguments)], folder, output.name))
        process.start()
        process.join()
        text = output.read()
    assert process.exitcode == 0, f"anomalib {' '.join(map(str, arguments))}\n{text[-9000:]}"
    return Run(text, folder)


def _run_main(arguments: list[str], folder: Path, output: str) -> None:
    """Run the function behind the script, as the script would be run."""
    with Path(output).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    os.environ.update(environment())
    sys.argv = ["anomalib", *arguments]
    from anomalib.cli.cli import main

    main()


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> Path:
    """A folder to run commands in; the toy images are drawn into it once."""
    return tmp_path_factory.mktemp("workspace")


@dataclass(frozen=True)
class Trained:
    """The quickstart with a model, and what it left behind."""

    model: str
    arguments: tuple[object, ...]
    run: Run

    @property
    def model_arguments(self) -> tuple[object, ...]:
        """What tells the model alone: its class, and what differs from the default."""
        pairs = zip(QUICKSTARTS[self.model][::2], QUICKSTARTS[self.model][1::2], strict=True)
        return ("--model", self.model, *(part for pair in pairs if pair[0].startswith("--model.") for part in pair))

    @property
    def results(self) -> Path:
        """The results folder."""
        (folder,) = (self.run.folder / "results" / self.model).glob("*/v0")
        return folder

    @property
    def weights(self) -> Path:
        """The weights that it learned."""
        return self.results / "weights" / "learned.safetensors"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that it wrote."""
        return self.results / "weights" / "lightning" / "model.ckpt"


@pytest.fixture(scope="session")
def train_quickstart(workspace):
    """Return what runs the quickstart with a model, once."""

    @cache
    def train(model: str) -> Trained:
        arguments = ("--config", CONFIGS / "quickstart.yaml", *QUICKSTARTS[model])
        return Trained(model, arguments, anomalib("train", *arguments, folder=workspace))

    return train


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder of a user's own images, of all kinds."""
    folder = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0)
    colours = Image.fromarray(noise.integers(0, 256, (90, 120, 3), dtype=np.uint8))
    colours.save(folder / "rgb.png")
    colours.convert("L").save(folder / "grey.png")
    colours.convert("RGBA").save(folder / "rgba.png")
    colours.resize((300, 200)).save(folder / "photo.jpg")
    Image.fromarray(noise.integers(0, 65536, (64, 64), dtype=np.uint16)).save(folder / "deep.png")
    return folder
