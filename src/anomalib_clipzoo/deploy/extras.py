# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What to do where a package is missing that only some users need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class MissingExtraError(ImportError, ValueError):
    """A package is missing that an extra of anomalib-clipzoo would have brought."""


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn the error of a missing package into one that says what to install.

    Args:
        extra: Name of the extra that the packages imported within are in.

    Raises:
        MissingExtraError: If one of them is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        msg = f"This needs {error.name}, which is not installed: pip install 'anomalib-clipzoo[{extra}]'"
        raise MissingExtraError(msg) from error
