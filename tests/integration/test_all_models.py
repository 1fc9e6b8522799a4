# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Commands that need no trained model."""

import pandas as pd
import pytest
import yaml

from anomalib_clipzoo.command import main

from .conftest import CONFIGS, forked_anomalib

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


def on_the_toy(node):
    """Return a benchmark's data with the toy and two of its categories in the place of a real dataset and its own."""
    if not isinstance(node, dict):
        return node
    if node.get("class_path") in ("MVTecAD", "Visa"):
        node = {**node, "class_path": "ToyAD", "init_args": {**node["init_args"], "root": "datasets/ToyAD"}}
    node = {key: on_the_toy(value) for key, value in node.items()}
    if node.get("categories") == "all":
        node["categories"] = ["screw", "tile"]
    if isinstance(node.get("category"), dict):
        node["category"] = {"grid": ["screw", "tile"]}
    return node


@pytest.mark.parametrize("name", ["mvtec", "mvtec_nothing_learned", "visa", "visa_nothing_learned"])
def test_benchmarks_of_real_datasets(tmp_path, name):
    """What is shipped but for datasets, CLIP, device and seeds: all of these are small here."""
    config = yaml.safe_load((CONFIGS / "benchmark" / f"{name}.yaml").read_text())
    config["accelerator"] = ["cpu"]
    benchmark = config["benchmark"]
    benchmark["seed"] = 1
    benchmark["model"]["init_args"]["backbone"] = "toy"
    benchmark["data"] = on_the_toy(benchmark["data"])
    if "auxiliary" in benchmark["data"]["init_args"]:
        benchmark["data"]["init_args"]["auxiliary"]["init_args"]["categories"] = ["bottle"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    forked_anomalib("benchmark", "--config", tmp_path / "config.yaml", folder=tmp_path)
    (table,) = (tmp_path / "runs" / "benchmark").glob("*/results.csv")
    rows = pd.read_csv(table)
    models = benchmark["model"]["class_path"]["grid"]
    assert set(rows["model.class_path"]) == set(models)
    assert rows[["image_AUROC", "pixel_AUROC"]].notna().all(axis=None)
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path)]) == 0
    figures = pd.read_csv(tmp_path / "report.csv").query("metric == 'image_AUROC'")
    assert {configuration.split()[0] for configuration in figures.configuration} == set(models)


def test_benchmark_and_its_report(workspace, tmp_path):
    """The shipped one, with one of its categories: all models, two seeds."""
    config = yaml.safe_load((CONFIGS / "benchmark" / "toy.yaml").read_text())
    grid = config["benchmark"]["data"]["init_args"]["category"]["grid"]
    del grid[1:]
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(config))
    forked_anomalib("benchmark", "--config", tmp_path / "toy.yaml", folder=workspace)
    (table,) = (workspace / "runs" / "benchmark").glob("*/results.csv")
    rows = pd.read_csv(table)
    assert len(rows) == 7 * 2
    assert rows["pixel_AUROC"].notna().all()
    assert main(["report", str(workspace / "runs"), "--output", str(tmp_path)]) == 0
    figures = pd.read_csv(tmp_path / "report.csv").query("metric == 'image_AUROC'")
    assert set(figures.category) == {*grid, "mean"}
    assert len(figures) == 7 * 2
    assert (figures.runs == 2).all()
    means = rows.groupby("model.class_path")["image_AUROC"].mean()
    for row in figures[figures.category == "mean"].itertuples():
        assert row.mean == pytest.approx(means[row.configuration.split()[0]])
