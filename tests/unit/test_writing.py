# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Tests of files that are there whole or not at all: what is written as text, and learned weights."""

from pathlib import Path

import pytest
import torch

from anomalib_clipzoo.models.components.weights import write_learned_weights
from anomalib_clipzoo.writing import write_whole
from tests.disk import small_disk


def write_weights(path: Path, content: str) -> None:
    write_learned_weights(path, {"model.scale": torch.ones(len(content))}, {"content": content})


@pytest.fixture(params=[write_whole, write_weights], ids=["text", "weights"])
def write(request):
    return request.param


@pytest.fixture
def path(tmp_path, write):
    """A file that is there from before."""
    path = tmp_path / "folder" / "file"
    write(path, "first")
    return path


@pytest.fixture
def first(path):
    return path.read_bytes()


def test_a_full_disk_leaves_the_earlier_file_and_names_it(write, path, first):
    with small_disk(3), pytest.raises(OSError, match="Could not be written") as raised:
        write(path, "second")
    assert raised.value.filename == str(path)
    assert path.read_bytes() == first
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupt_leaves_the_earlier_file(write, path, first, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write(path, "second")
    assert path.read_bytes() == first
    assert list(path.parent.iterdir()) == [path]
