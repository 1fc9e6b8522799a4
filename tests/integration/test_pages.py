# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The commands and programs of the pages on results and on exporting run as they stand there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from anomalib_clipzoo.command import main
from anomalib_clipzoo.data.drawing import DEFECTS, draw
from anomalib_clipzoo.deploy.metadata import read_metadata
from anomalib_clipzoo.results.reading import read_predictions
from anomalib_clipzoo.tables import MEAN, read_csv

from .conftest import environment, forked_anomalib

pytestmark = pytest.mark.slow

TOP = Path(__file__).parents[2]
PAGES = {
    name: (TOP / "docs" / f"{name}.md").read_text()
    for name in ("your_parts", "thresholds", "papers_table", "report", "deploy")
}
PARTS = {"good": (40, None), "bad": (4, next(iter(DEFECTS))), "new": (6, None)}
EXPORTS = PAGES["deploy"].partition("## A service")[0]
REPORT = {f"report.{end}" for end in ("html", "md", "tex", "csv")}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with photographs of parts, which is the current one."""
    for folder, (count, defect) in PARTS.items():
        (tmp_path / "parts" / folder).mkdir(parents=True)
        for number in range(count):
            image, _ = draw("tile", defect, np.random.default_rng([len(folder), number]))
            Image.fromarray(image).save(tmp_path / "parts" / folder / f"{number:02}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    return [line for block in blocks(page, "bash") for line in block.splitlines()]


def run(command: str, folder: Path) -> str:
    """Run a line of a page, and return what it printed, with single spaces."""
    name, *arguments = shlex.split(command)
    if name == "anomalib":
        return " ".join(forked_anomalib(*arguments, folder=folder).text.split())
    assert name == "clipzoo"
    assert main(arguments) == 0
    return ""


def run_program(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{program}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_which_of_my_parts_are_bad(here):
    predict, parquet, threshold = commands("your_parts")
    reading, program = blocks("your_parts", "python")
    assert "of 6 images are anomalous" in run(predict, here)
    folder = here / "results" / "WinClipPlus" / "latest"
    table = read_predictions(folder / "predictions.csv")
    documented = PAGES["your_parts"].partition("## The table")[2].partition("\nImage and pixels")[0]
    cells = " ".join(re.findall(r"^\| (`.+?`) \|", documented, re.MULTILINE))
    assert re.findall(r"`(\w+)`", cells) == list(table.columns)
    assert run_program(reading, here).count(".png") == (table.label == "anomalous").sum()
    run(parquet, here)
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "predictions.parquet"), table)
    assert len(list((folder / "earlier").iterdir())) == 1
    said = run(threshold, here)
    assert "false alarm rate of 0.1 on" in said
    assert f"Of {PARTS['bad'][0]} bad images" in said
    run_program(program, here)
    assert len(list((folder / "earlier").iterdir())) == 2
    (report,) = [command for command in commands("report") if "benchmark" not in command]
    run(report, here)
    assert {path.name for path in (here / "report").iterdir()} == REPORT


def test_thresholds(here):
    train, predict = commands("thresholds")
    run(train, here)
    said = run(predict, here)
    assert "false alarm rate of 0.1 on 16 normal images of mine" in said
    (origin,) = {table.raw_threshold.unique().item() for table in map(read_predictions, here.rglob("predictions.csv"))}
    assert 0 < origin < 1


def test_the_papers_table(here):
    whole, without_intervals, *seeds, report = commands("papers_table")
    run(whole, here)
    folder = here / "runs" / "zero_shot" / "WinClipPlus" / "ToyAD" / "latest"
    assert {path.suffix for path in folder.glob("metrics.*")} == {".csv", ".md", ".tex"}
    rows = [row for row in read_csv(folder / "metrics.csv") if not row.defect]
    assert [row.category for row in rows] == ["gear", "pill", MEAN]
    named = re.findall(r"`((?:image|pixel)_\w+)`", PAGES["papers_table"].partition("## Intervals")[0])
    assert set(named) == set(rows[0].figures)
    assert all(
        one.low is not None for name, one in rows[0].figures.items() if name not in {"pixel_PRO200", "pixel_F1Score"}
    )
    run(without_intervals, here)
    (table,) = (here / "runs" / "no_intervals").rglob("metrics.csv")
    others = [row for row in read_csv(table) if not row.defect]
    values = [[{name: one.value for name, one in row.figures.items()} for row in some] for some in (rows, others)]
    assert values[0] == values[1]
    assert "_low" not in table.read_text()
    for command in seeds:
        run(command, here)
    run(report, here)
    figures = pd.read_csv(here / "report_of_seeds" / "report.csv")
    assert set(figures.runs) == {2}
    assert figures.configuration.nunique() == 1
    assert figures.deviation.max() > 0


def test_commands_on_the_papers_datasets_name_configurations_that_are_shipped():
    named = set(re.findall(r"--config (\S+?\.yaml)", PAGES["papers_table"] + PAGES["report"]))
    assert len(named) >= 5
    assert [name for name in named if not (TOP / name).is_file()] == []


def test_the_benchmark_of_the_page_is_the_one_that_is_tested():
    command, report = (command for command in commands("report") if "benchmark" in command)
    assert command == "anomalib benchmark --config configs/benchmark/toy.yaml"  # test_all_models.py runs both
    assert report.startswith("clipzoo report runs/benchmark")


def leave_a_short_quickstart(folder: Path) -> None:
    """Leave what the quickstart leaves, after one step on one category."""
    model = ("--model", "VcpClip", "--model.backbone", "toy", "--model.visualizer", "false")
    short = ("--trainer.max_epochs", 1, "--trainer.limit_train_batches", 1, "--trainer.accelerator", "cpu")
    forked_anomalib("train", *model, "--data", "ToyAD", "--data.category", "screw", *short, folder=folder)
    results = folder / "results" / "VcpClip" / "ToyAD"
    (results / "screw" / "v0").rename(results / "v0")


def test_deploying_a_finished_quickstart(here):
    leave_a_short_quickstart(here)
    *exports, check, threshold = [line for line in commands("deploy") if line in EXPORTS and "pip install" not in line]
    for command in exports:
        run(command, here)
    deployed = here / "deployed"
    for stem in ("weights/onnx/model.onnx", "weights/openvino/model.xml", "weights/torch/model.pt"):
        assert read_metadata(deployed / stem)["precision"] == "fp32"
        assert f"`{stem.removeprefix('weights/')}`" in EXPORTS
    assert read_metadata(deployed / "fp16/weights/openvino/model.xml")["precision"] == "fp16"
    for program in blocks("deploy", "python"):
        run_program(program, here)
    run(check, here)
    run(threshold, here)
    assert read_metadata(deployed / "weights/onnx/model.onnx")["thresholds"]["origin"]["method"] == "set by hand"
