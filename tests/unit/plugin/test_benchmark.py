# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""A benchmark gives what its seed says, and keeps all results; as it comes, it does neither."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from anomalib.pipelines.benchmark.generator import BenchmarkJobGenerator
from anomalib.pipelines.benchmark.job import BenchmarkJob
from anomalib.pipelines.components.runners import SerialRunner
from anomalib.pipelines.components.runners.serial import SerialExecutionError

PADIM = {"class_path": "Padim", "init_args": {"backbone": "resnet18", "pre_trained": False}}
VCP = {"class_path": "VcpClip", "init_args": {"backbone": "toy"}}
TOY = {"class_path": "ToyAD", "init_args": {"category": {"grid": ["tile", "wood"]}}}


def experiments(*models: dict, data: dict = TOY) -> dict:
    return {"seed": 7, "model": {"grid": list(models)}, "data": data}


def weights(job: BenchmarkJob) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in job.model.parameters() if weight.requires_grad])


def test_models_are_what_the_seed_says(patched, unpatched):
    if not patched:
        unpatched(BenchmarkJobGenerator, "generate_jobs")
    first, second = (list(BenchmarkJobGenerator("cpu")(experiments(VCP))) for _ in range(2))
    assert [job.datamodule.category for job in first] == ["tile", "wood"]
    same = [torch.equal(weights(a), weights(b)) for a, b in zip(first, second, strict=True)]
    assert same == [patched] * 2


@pytest.fixture
def _no_training(monkeypatch):
    """Jobs that say which configuration they have instead of running it."""
    monkeypatch.setattr(BenchmarkJob, "run", lambda job: {**job.flat_cfg, "image_AUROC": 0.5})


@pytest.mark.usefixtures("_no_training")
def test_entries_with_different_arguments_share_a_table(patched, unpatched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if not patched:
        unpatched(BenchmarkJob, "collect")
        with pytest.raises((KeyError, ValueError)):
            SerialRunner(BenchmarkJobGenerator("cpu")).run(experiments(PADIM, VCP))
        assert not list(tmp_path.rglob("results.csv"))
        return
    SerialRunner(BenchmarkJobGenerator("cpu")).run(experiments(PADIM, VCP))
    table = read_results(tmp_path)
    assert list(table["model.class_path"]) == ["Padim"] * 2 + ["VcpClip"] * 2
    assert list(table["model.init_args.pre_trained"].isna()) == [False] * 2 + [True] * 2
    assert list(table["image_AUROC"]) == [0.5] * 4


@pytest.mark.usefixtures("_no_training")
def test_an_entry_with_a_mistake_fails_alone(patched, unpatched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = {"class_path": "VcpClip", "init_args": {"backbone": "toy", "layers": [99]}}
    if not patched:
        unpatched(BenchmarkJobGenerator, "generate_jobs")
    with pytest.raises(SerialExecutionError if patched else ValueError):
        SerialRunner(BenchmarkJobGenerator("cpu")).run(experiments(VCP, wrong, VCP))
    if patched:
        assert len(read_results(tmp_path)) == 4
    else:
        assert not list(tmp_path.rglob("results.csv"))


def read_results(folder: Path) -> pd.DataFrame:
    (file,) = folder.rglob("results.csv")
    return pd.read_csv(file)
