# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The quickstart, run once as a user runs it; the tests look at what it leaves behind."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

CONFIGS = Path(__file__).parents[2] / "configs"
ANOMALIB = Path(sys.executable).parent / "anomalib"
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
    """Run the ``anomalib`` command; fail with all that it printed if it fails."""
    command = [str(ANOMALIB), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return Run(done.stdout + done.stderr, folder)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> Path:
    """A folder to run commands in; the toy images are drawn into it once."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="session")
def quickstart(workspace) -> Run:
    return anomalib("train", "--config", CONFIGS / "quickstart.yaml", folder=workspace)


@pytest.fixture(scope="session")
def results(quickstart) -> Path:
    """The quickstart's results folder."""
    (folder,) = (quickstart.folder / "results" / "VcpClip").glob("*/v0")
    return folder


@pytest.fixture(scope="session")
def learned(results) -> Path:
    """The weights that the quickstart learned."""
    return results / "weights" / "learned.safetensors"


@pytest.fixture(scope="session")
def checkpoint(results) -> Path:
    """The checkpoint that the quickstart wrote."""
    return results / "weights" / "lightning" / "model.ckpt"
