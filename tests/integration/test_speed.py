# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The benchmark of speed: which rows it measures, on the toy CLIP."""

import json

import pytest
import torch

from benchmarks import speed

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "kinds"), [("MuSc", ()), ("WinClipPlus", (", 4 references",))])
def test_rows_of_memory(name, kinds):
    rows = speed.memory_rows(module := speed.build(name, CPU, backbone="toy"))
    assert list(rows) == [name, *(f"{name}{kind}" for kind in kinds)]
    for run in rows.values():
        run(speed.images_for(module, 1))()


def test_a_passs_memory_is_that_with_references():
    module = speed.build("VcpClip", CPU, backbone="toy")
    rows = speed.memory_rows(module)
    assert list(rows) == ["VcpClip", "VcpClip, 4 references", "VcpClip, training step"]
    run = rows["VcpClip, 4 references"](images := speed.images_for(module, 1))
    assert (run().anomaly_map != rows["VcpClip"](images)().anomaly_map).any()


@pytest.mark.slow
def test_exports(tmp_path, monkeypatch):
    results = tmp_path / "speed.jsonl"
    line = f"--only VcpClip MuSc --parts exports --batch 1 2 --turns 1 --backbone toy --results {results}"
    monkeypatch.setattr("sys.argv", ["speed.py", *line.split()])
    speed.main()
    measured = [json.loads(line) for line in results.read_text().splitlines()]
    rows = [speed.TOWER, "VcpClip, PyTorch", "VcpClip, ONNX Runtime", "VcpClip, OpenVINO"]
    assert [(line["batch"], line["row"]) for line in measured] == [(batch, row) for batch in (1, 2) for row in rows]
    assert {line["part"] for line in measured} == {"exports"}
