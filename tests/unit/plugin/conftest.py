# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What the tests of the patches share."""

import inspect

import pytest

import anomalib_clipzoo  # noqa: F401  (registers, if torch has not been told to)


@pytest.fixture
def unpatched(monkeypatch):
    """Return what puts a function back as anomalib has it, for the rest of a test."""

    def put_back(owner: object, name: str) -> None:
        present = inspect.getattr_static(owner, name)
        original = getattr(owner, name).__wrapped__
        monkeypatch.setattr(owner, name, staticmethod(original) if isinstance(present, staticmethod) else original)

    return put_back


@pytest.fixture(params=[True, False], ids=["patched", "as it comes"])
def patched(request: pytest.FixtureRequest) -> bool:
    """Whether the patch is there; what a test says of anomalib as it comes holds until anomalib mends it."""
    return request.param
