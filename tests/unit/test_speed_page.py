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
    assert "| VcpClip | VcpClip | 1 | open_clip's tower | 0.95 | 0.90 | met |" in list(page.limits(read))


def test_the_last_run_with_both_counts(rows):
    read = rows(*measured(1, (1.0, 0.5)), *measured(2, (1.0, 0.8), (3.0,)), *measured(3, (9.0,)))
    assert list(page.ratios(read, "VcpClip", page.TOWER)) == [0.8]


def test_other_clips_do_not_count(rows):
    read = rows(*({**line, "defaults": False} for line in measured(1, (1.0, 0.5))))
    assert list(page.table(read, "inference")) == ["Not measured."]
    assert "not measured" in list(page.limits(read))[2]
