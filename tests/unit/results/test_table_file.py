# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

import csv

import pytest

from anomalib_clipzoo.results.table_file import TableFile
from tests.disk import small_disk


def rows_in(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_can_be_read_before_the_file_is_closed(tmp_path):
    table = TableFile(tmp_path / "new" / "table.csv", ["path", "score"])
    assert rows_in(table.path) == []
    table.append([{"path": 'a, "b"\nc.png', "score": 0.5}, {"path": "d", "score": None}])
    assert rows_in(table.path) == [{"path": 'a, "b"\nc.png', "score": "0.5"}, {"path": "d", "score": ""}]


def test_a_full_disk_leaves_whole_rows_and_an_error_that_names_the_file(tmp_path):
    table = TableFile(tmp_path / "table.csv", ["path"])
    table.append([{"path": "x" * 50}])
    with small_disk(100), pytest.raises(OSError, match="1 rows written before") as caught:
        table.append([{"path": "y" * 40}, {"path": "z" * 40}])
    assert caught.value.filename == str(table.path)
    assert rows_in(table.path) == [{"path": "x" * 50}]
