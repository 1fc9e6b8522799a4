# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The configurations that are shipped, as the command line reads them."""

import gc
import inspect
import json
from pathlib import Path

import pytest
import yaml
from anomalib import models
from anomalib.cli import AnomalibCLI
from anomalib.pipelines.components.utils import get_iterator_from_grid_dict

from anomalib_clipzoo.data.nested import as_datamodule

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
OF_MODELS = [path for path in CONFIGS if path.parent.name not in {"data", "benchmark"}]
BENCHMARKS = [path for path in CONFIGS if path.parent.name == "benchmark"]


@pytest.fixture(autouse=True)
def no_classes_of_torch_export():
    """Let go of the subclass that torch.export makes of a model, of the same name: a short name would mean both."""
    gc.collect()


@pytest.mark.parametrize("config", OF_MODELS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_arguments_are_those_of_the_classes(config, capsys):
    with pytest.raises(SystemExit) as ended:
        AnomalibCLI(args=["test", "--config", str(config), "--print_config"])
    assert ended.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out.partition("seed_everything")[2].join(["seed_everything", ""]))
    written = yaml.safe_load(config.read_text())
    for part in ("model", "data"):
        for name, value in written[part]["init_args"].items():
            if not isinstance(value, (dict, list)):
                assert printed[part]["init_args"][name] == value


@pytest.mark.parametrize("config", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmarks_classes_take_its_arguments(config):
    jobs = list(get_iterator_from_grid_dict(yaml.safe_load(config.read_text())["benchmark"]))
    assert jobs
    for job in {json.dumps(job["model"]): job for job in jobs}.values():
        model = getattr(models, job["model"]["class_path"])
        assert set(job["model"]["init_args"]) <= set(inspect.signature(model).parameters)
    built = [as_datamodule(job["data"]) for job in jobs]
    assert {type(one).__name__ for one in built} == {job["data"]["class_path"] for job in jobs}


def test_a_misspelt_argument_is_refused(tmp_path):
    config = tmp_path / "misspelt.yaml"
    config.write_text(OF_MODELS[0].read_text().replace("init_args:\n", "init_args:\n    bakcbone: toy\n", 1))
    with pytest.raises(SystemExit) as ended:
        AnomalibCLI(args=["test", "--config", str(config), "--print_config"])
    assert ended.value.code != 0
