# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The engine tests what it trained, and keeps to the folder of its run; as it comes, it does neither."""

from pathlib import Path

import pytest
from anomalib.engine import Engine, engine

from .tiny import CountsItsSteps, draw, loader

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def train(folder: Path, epochs: int, ckpt_path: Path | None = None) -> CountsItsSteps:
    model = CountsItsSteps()
    loaders = {"train_dataloaders": loader(), "val_dataloaders": loader(1), "test_dataloaders": loader(1)}
    Engine(default_root_dir=folder, max_epochs=epochs, **QUIET).train(model, **loaders, ckpt_path=ckpt_path)
    return model


def test_resumed_run_is_tested_as_it_ended(patched, unpatched, tmp_path):
    if not patched:
        unpatched(Engine, "train")
    assert train(tmp_path, 1).tested_after == 3
    checkpoint = tmp_path / "CountsItsSteps" / "v0" / "weights" / "lightning" / "model.ckpt"
    resumed = train(tmp_path, 3, checkpoint)
    assert resumed.tested_after == (9 if patched else 3)
    assert (tmp_path / "CountsItsSteps" / "v1" / "weights" / "lightning" / "model.ckpt").is_file()


def test_validation_has_a_folder_of_its_own(patched, unpatched, tmp_path):
    if not patched:
        unpatched(Engine, "validate")
    model, validates = CountsItsSteps(), Engine(default_root_dir=tmp_path, **QUIET)
    validates.validate(model, dataloaders=loader(1))
    own = tmp_path / "CountsItsSteps" / "latest"
    assert validates.trainer.default_root_dir == str(own if patched else tmp_path)
    validates.validate(model, dataloaders=loader(1))
    assert validates.trainer.default_root_dir == str(own if patched else tmp_path)


def test_validation_after_training_stays_in_the_folder_of_the_training(tmp_path):
    model, trains = CountsItsSteps(), Engine(default_root_dir=tmp_path, max_epochs=1, **QUIET)
    trains.fit(model, loader(), loader(1))
    trains.validate(model, dataloaders=loader(1))
    assert trains.trainer.default_root_dir == str(tmp_path / "CountsItsSteps" / "v0")


def test_training_after_a_prediction(patched, unpatched, tmp_path):
    if not patched:
        unpatched(engine, "create_versioned_dir")
    images, results = draw(tmp_path / "images", "1.png"), tmp_path / "results"
    Engine(default_root_dir=results, **QUIET).predict(CountsItsSteps(visualizer=True), data_path=images)
    latest = results / "CountsItsSteps" / "latest"
    assert (latest / "images" / "images" / "1.png").is_file()
    if not patched:
        with pytest.raises((IsADirectoryError, PermissionError)):  # the second is what macOS says
            train(results, 1)
        return
    train(results, 1)
    assert latest.is_symlink()
    assert latest.resolve().name == "v0"
    assert (latest.with_name("latest_0") / "images" / "images" / "1.png").is_file()


def test_no_folder_moves_twice_to_one_place(tmp_path):
    for number in range(3):
        latest = tmp_path / "latest"
        if latest.is_symlink():
            latest.unlink()
        (latest / f"file{number}").mkdir(parents=True)
        assert engine.create_versioned_dir(tmp_path) == tmp_path / f"v{number}"
    assert sorted(path.parent.name for path in tmp_path.glob("latest_*/file*")) == ["latest_0", "latest_1", "latest_2"]


def test_a_link_stays_a_link(tmp_path):
    for number in range(2):
        engine.create_versioned_dir(tmp_path)
        assert (tmp_path / "latest").resolve() == tmp_path / f"v{number}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "v0", "v1"]
