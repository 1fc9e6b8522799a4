# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""A table that grows on disk, and is readable at any moment."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


class TableFile:
    """A file of comma-separated values that rows are appended to.

    All rows of one call are handed to the operating system at once and unbuffered: a process that is killed leaves
    whole rows behind, and a disk that is full costs the rows of that call, never a half one.

    Args:
        path: The file; one that is there is overwritten.
        columns: Names of the columns.

    Raises:
        OSError: If the file cannot be written; the message names it.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = list(columns)
        self.rows = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb", buffering=0)
        self._write([dict(zip(columns, columns, strict=True))])

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows by the names of their columns; ``None`` becomes an empty cell.

        Raises:
            OSError: If they cannot be written; those written before stay as they are.
        """
        rows = list(rows)
        self._write(rows)
        self.rows += len(rows)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, rows: list[Mapping[str, Any]]) -> None:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, lineterminator="\n").writerows(rows)
        left, end = text.getvalue().encode(), self._file.tell()
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._file.truncate(end)
            msg = f"{error.strerror}; the {self.rows} rows written before can be read"
            raise OSError(error.errno, msg, str(self.path)) from error
