# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What the command says: each line once, and of what went wrong the cause; as it comes it says far more."""

import logging

import pytest
from anomalib.cli import AnomalibCLI, cli
from PIL import Image

from anomalib_clipzoo.data.toy import ToyAD
from anomalib_clipzoo.plugin.patches import command
from anomalib_clipzoo.results.reading import read_predictions

TOY = ("--data", "ToyAD", "--data.category", "tile")
VCP = ("--model", "VcpClip", "--model.backbone", "toy")
MISTAKES = {
    "model": ((*VCP, "--model.layers", "[99]", *TOY), "layers [99] are not all within"),
    "data": ((*VCP, "--data", "ToyAD", "--data.category", "hat"), "hat"),
    "data in data": (
        (*VCP, "--data", "MultiCategory", "--data.data", "ToyAD", "--data.categories", "[hat]"),
        "ToyAD has no category 'hat'",
    ),
    "missing file": ((*VCP, "--model.weights", "nowhere.pth", *TOY), "nowhere.pth"),
}


WRONG_TYPES = {
    "number": (
        ("test", *VCP, "--model.sigma", "-1", *TOY),
        "model.sigma=-1: it must be a number v with v>=0 and v<=4096",
    ),
    "list": (("test", *VCP, "--model.layers", "all", *TOY), "model.layers=all: it must be a list"),
    "word": (
        ("test", *VCP, "--model.branch", "x", *TOY),
        "model.branch=x: it must be one of 'fused', 'base', 'post'",
    ),
    "unknown argument": (
        ("test", *VCP, "--model.sigmaa", "1", *TOY),
        "model VcpClip: there is no argument 'sigmaa'",
    ),
    "unknown class": (
        ("test", "--model", "VcpClp", *TOY),
        "model=VcpClp: there is no such class, or it is another kind of thing",
    ),
    "data": (
        ("test", *VCP, "--data", "ToyAD", "--data.num_workers", "many"),
        "data.num_workers: it must be of the type int, not many",
    ),
    "trainer": (
        ("test", *VCP, *TOY, "--trainer.max_epochs", "x"),
        "trainer.max_epochs=x: it must be of the type int",
    ),
    "file": (("test", "--config", "own.yaml"), "model.sigma=wide: could not convert string to float: 'wide'"),
    "no file": (("test", "--config", "no.yaml"), None),
    "cut file": (("test", "--config", "cut.yaml"), None),
}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(command.TRACEBACK, raising=False)


@pytest.fixture
def handlers(monkeypatch):
    """Set the log up afresh, and as it was after the test."""
    for name in (None, "lightning.pytorch"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])


@pytest.fixture
def run(monkeypatch):
    """Return what runs the command."""

    def main(*arguments: str) -> None:
        monkeypatch.setattr("sys.argv", ["anomalib", *arguments])
        cli.main()

    return main


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_in_an_argument_is_one_line(mistake, run):
    arguments, cause = MISTAKES[mistake]
    with pytest.raises(SystemExit) as end:
        run("test", *arguments)
    assert end.value.code.startswith("Error: ")
    assert cause in end.value.code
    assert "\n" not in end.value.code


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("mistake", WRONG_TYPES)
def test_what_the_parser_finds_is_one_line(mistake, run, capfd, tmp_path):
    (tmp_path / "own.yaml").write_text("model:\n  class_path: VcpClip\n  init_args:\n    sigma: wide\n")
    (tmp_path / "cut.yaml").write_text("model: [\n")
    arguments, line = WRONG_TYPES[mistake]
    capfd.readouterr()
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    (said,) = capfd.readouterr().err.splitlines()
    assert said == f"Error: {line}" if line else said.startswith("Error: ")


def test_anomalib_says_all_types_that_do_not_fit(run, capfd, monkeypatch):
    monkeypatch.setenv(command.TRACEBACK, "1")
    with pytest.raises(SystemExit, match="2"):
        run("test", *VCP, "--model.sigma", "-1", *TOY)
    assert len(capfd.readouterr().err.splitlines()) > 10


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_the_constructors_own_exception_in_python(mistake):
    arguments, cause = MISTAKES[mistake]
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        AnomalibCLI(["test", *arguments], run=False)
    assert cause in str(raised.value)
    assert "Union" not in str(raised.value)
    assert raised.value.__context__ is None


def test_anomalib_says_that_no_type_fits(unpatched):
    unpatched(AnomalibCLI, "init_parser")
    with pytest.raises(ValueError, match="Does not validate against any of the Union subtypes"):
        AnomalibCLI(["test", *MISTAKES["model"][0]], run=False)


def test_correct_arguments_make_what_they_say():
    made = AnomalibCLI(["test", *VCP, "--model.layers", "[2, 4]", *TOY], run=False)
    assert made.model.hparams["layers"] == [2, 4]
    assert made.datamodule.category == "tile"


@pytest.mark.usefixtures("handlers")
def test_whole_traceback_on_request(run, monkeypatch):
    monkeypatch.setenv(command.TRACEBACK, "1")
    with pytest.raises(ValueError, match=r"^layers"):
        run("test", *MISTAKES["model"][0])


@pytest.mark.usefixtures("handlers")
def test_mistake_that_shows_in_the_run_is_one_line_if_this_package_says_so(run, monkeypatch):
    monkeypatch.setattr(cli, "AnomalibCLI", lambda: ToyAD(category="hat"))
    with pytest.raises(SystemExit, match=r"Error: .*hat"):
        run()
    monkeypatch.setattr(cli, "AnomalibCLI", lambda: int("hat"))
    with pytest.raises(ValueError, match="invalid literal"):
        run()


@pytest.mark.usefixtures("handlers")
def test_each_line_of_the_log_once(patched, unpatched, capfd, monkeypatch):
    lightnings = logging.getLogger("lightning.pytorch")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest has put its own there since
    monkeypatch.setattr(lightnings, "handlers", [logging.StreamHandler()])  # as Lightning has it
    monkeypatch.setattr(lightnings, "propagate", False)
    if not patched:
        unpatched(cli, "configure_logger")
    cli.configure_logger()
    logging.getLogger("anomalib.test").info("a line of anomalib, part [/A]")
    lightnings.info("a line of Lightning")
    captured = capfd.readouterr()
    lines = [line for line in (captured.out + captured.err).splitlines() if "a line of" in line]
    assert len(lines) == (2 if patched else 4)
    assert sum("part [/A]" in line for line in lines) == len(lines) // 2  # nobody takes it for rich's markup
    if patched:
        assert lines[0].endswith("anomalib.test - INFO - a line of anomalib, part [/A]")
        assert lines[1].endswith("lightning.pytorch - INFO - a line of Lightning")


@pytest.fixture
def photos(tmp_path):
    """A folder of four images, of which one cannot be read."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in (1, 2, 4):
        Image.new("RGB", (20, 16)).save(folder / f"{number}.png")
    (folder / "3.png").write_text("no image")
    return folder


@pytest.mark.usefixtures("handlers")
def test_images_that_cannot_be_read_end_the_command_with_a_status_of_their_own(photos, run, capsys):
    quiet = ("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu")
    with pytest.raises(SystemExit) as end:
        run("predict", *VCP, "--data", str(photos), *quiet)
    assert end.value.code == command.UNREADABLE
    printed = capsys.readouterr().out.replace("\n", "")
    assert f"{photos / '3.png'}: this is no image that can be read" in printed
    (photos / "3.png").unlink()
    run("predict", *VCP, "--data", str(photos), *quiet)


@pytest.mark.parametrize(("option", "kept"), [((), 0), (("--return_predictions", "true"), 4)])
def test_the_command_keeps_predictions_only_where_told(option, kept, photos, tmp_path):
    quiet = ("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--model.visualizer", "false")
    predict = AnomalibCLI(["predict", *VCP, "--data", str(photos), *quiet, *option], run=False)
    with pytest.raises(SystemExit):
        predict._run_subcommand()
    table = read_predictions(tmp_path / "results" / "VcpClip" / "latest" / "predictions.csv")
    assert len(table) == 4
    assert len(predict.engine.trainer.predict_loop.predictions) == kept
