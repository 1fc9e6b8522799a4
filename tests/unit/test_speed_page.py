# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The page on speed compares rows of one run, turn by turn, also of a run that was cut off."""

import json

import pytest

from benchmarks import speed_page as page

AROUND = {"part": "inference", "model": "VcpClip", "batch": 1, "threads": 2, "defaults": True}


def measured(run, *turns):
    """Lines of a run: processor seconds of the tower and of VcpClip in each turn, as far as it came."""
    rows = (page.TOWER, "VcpClip")
    return [
        {**AROUND, "run": run, "turn": number, "row": row, "cpu": cpu, "seconds": cpu / 2}
        for number, turn in enumerate(turns)
        for row, cpu in zip(rows, turn, strict=False)
    ]


@pytest.fixture
def rows(tmp_path):
    def read(*lines):
        file = tmp_path / "speed.jsonl"
        file.write_text("\n".join(map(json.dumps, lines)))
        return page.read(file)

    return read


def test_turn_by_turn(rows):
    read = rows(*measured(1, (2.0, 1.0), (4.0, 6.0), (1.0, 0.9)))
    (_, _, tower, model) = page.table(read, "inference")
    assert "1.00 (1.00 to 1.00) | 3 |" in tower
    assert model == "| VcpClip | 1 | VcpClip | 0.50 | 1.00 | 0.90 (0.50 to 1.50) | 3 |"
    assert "| VcpClip | VcpClip | 1 | open_clip's tower | 1.36 | 0.95 | 0.90 | met |" in list(page.goals(read))


def test_the_last_run_with_both_counts(rows):
    read = rows(*measured(1, (1.0, 0.5)), *measured(2, (1.0, 0.8), (3.0,)), *measured(3, (9.0,)))
    assert list(page.ratios(read, "VcpClip", page.TOWER)) == [0.8]


def test_other_clips_do_not_count(rows):
    read = rows(*({**line, "defaults": False} for line in measured(1, (1.0, 0.5))))
    assert list(page.table(read, "inference")) == ["Not measured."]
    assert "not measured" in list(page.goals(read))[2]


def test_goals_of_references(rows):
    name, many = "AprilGan", "AprilGan, 4 references"
    line = {**AROUND, "model": name, "run": 1, "turn": 0, "seconds": 9}
    times = [{**line, "row": row, "cpu": cpu} for row, cpu in ((name, 2), (many, 2.1))]
    peaks = [{**line, "part": "memory", "row": row, "gib": gib} for row, gib in ((name, 9), (name, 2), (many, 3))]
    training = {**peaks[0], "model": "AdaClip", "row": "AdaClip, training step", "gib": 4}
    told = list(page.goals(rows(*times, *peaks, training)))
    assert "| AprilGan | AprilGan, 4 references | 1 | AprilGan |  | 1.1 | 1.05 | met |" in told
    assert "| AprilGan | AprilGan, 4 references, peak memory | 1 | AprilGan |  | 1.3 | 1.50 | **missed** |" in told
    assert "| Crane | Crane, 4 references, peak memory | 1 | Crane |  | 1.3 | not measured |  |" in told
    assert "| AdaClip | AdaClip, training step, peak memory | 1 |  | 13.2 GB | 5.0 GB | 4.29 | met |" in told


def test_goals_before_any_peak_was_measured(rows):
    told = list(page.goals(rows(*measured(1, (2.0, 1.0)))))
    assert len(told) == 2 + len(page.GOALS)
    assert all("not measured" in line for line in told if "peak memory" in line)
