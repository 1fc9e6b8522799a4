# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""An export that ends half-way leaves nothing at its place, and an older file as it was."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import openvino
import pytest
import torch

from anomalib_clipzoo.models.components import exports
from anomalib_clipzoo.models.components.exports import OUTDATED, SCRATCH, export_whole
from anomalib_clipzoo.models.win_clip_plus import WinClipPlus
from tests.tiny import write_tiny_clip

FORMATS = {"to_torch": "torch/model.pt", "to_onnx": "onnx/model.onnx", "to_openvino": "openvino/model.xml"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    clip = write_tiny_clip(tmp_path_factory.mktemp("clip"))
    return WinClipPlus(backbone=clip, pretrained=None, scales=[2], class_name="screw", visualizer=False)


class DiskFull(Exception):
    pass


def write(*args, **kwargs):
    """Write a file in the place of a library's writer."""
    path = next(value for value in (*args, *kwargs.values()) if str(value).endswith((".pt", ".onnx", ".xml")))
    Path(path).write_bytes(b"half")


def cut_short(*args, **kwargs):
    write(*args, **kwargs)
    raise DiskFull


@pytest.mark.parametrize("name", FORMATS)
def test_failure_leaves_no_file_and_older_ones_whole(model, tmp_path, monkeypatch, name):
    place = tmp_path / "weights" / FORMATS[name]
    monkeypatch.setattr(torch, "save", cut_short)
    monkeypatch.setattr(torch.onnx, "export", write if name == "to_openvino" else cut_short)
    monkeypatch.setattr(exports, "finish_onnx", lambda path, metadata: None)
    monkeypatch.setattr(openvino, "convert_model", lambda path: path)
    monkeypatch.setattr(openvino, "save_model", cut_short)
    with pytest.raises(DiskFull):
        getattr(model, name)(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"older")
    with pytest.raises(DiskFull):
        getattr(model, name)(export_root=str(tmp_path))
    assert [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()] == [b"older"]


def export_and_wait(root: Path, begun) -> None:
    def export(scratch: Path) -> Path:
        (scratch / "weights").mkdir()
        (scratch / "weights" / "model.xml").write_bytes(b"half")
        begun.set()
        time.sleep(60)
        raise AssertionError

    export_whole(export, root)


def test_killed_process_leaves_older_file_and_its_remains_go(tmp_path):
    (tmp_path / "weights").mkdir()
    place = tmp_path / "weights" / "model.xml"
    place.write_bytes(b"older")
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    process = context.Process(target=export_and_wait, args=(tmp_path, begun))
    process.start()
    assert begun.wait(30)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert place.read_bytes() == b"older"

    (left,) = tmp_path.glob(f"{SCRATCH}*")
    os.utime(left, times=(0, time.time() - OUTDATED - 60))
    assert export_whole(write_pair, tmp_path, b"new") == place
    assert not left.exists()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model.bin", "model.xml", "weights"]
    assert place.read_bytes() == place.with_suffix(".bin").read_bytes() == b"new"


def write_pair(scratch: Path, content: bytes) -> Path:
    folder = scratch / "weights"
    folder.mkdir()
    for name in ("model.bin", "model.xml"):
        (folder / name).write_bytes(content)
    return folder / "model.xml"


def test_no_file_stands_beside_weights_of_another_export(tmp_path, monkeypatch):
    export_whole(write_pair, tmp_path, b"older")
    replace = Path.replace

    def killed_before_the_last(path, target):
        if path.suffix == ".xml":
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", killed_before_the_last)
    with pytest.raises(KeyboardInterrupt):
        export_whole(write_pair, tmp_path, b"new")
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["model.bin"]
