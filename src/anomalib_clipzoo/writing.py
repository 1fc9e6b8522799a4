# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Files that are there whole or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that its name never stands for half of it: beside it first, then renamed.

    Raises:
        OSError: If it cannot be written, a full disk for instance; the message names the file, and an earlier file of
            that name is still there.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        beside.replace(path)
    except OSError as error:
        raise type(error)(error.errno, f"Could not be written: {error.strerror}", str(path)) from error
    finally:
        beside.unlink(missing_ok=True)
