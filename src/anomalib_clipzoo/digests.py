# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Whether files have the same content."""

import hashlib
from pathlib import Path

BLOCK = 2**20  # bytes that are read at once: weights may be larger than memory


def digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's content."""
    found = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()
