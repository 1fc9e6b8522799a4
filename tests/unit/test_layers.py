# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Arrows between packages point down only: what a lower one imports is never above it."""

import ast
from pathlib import Path

import pytest

import anomalib_clipzoo

SOURCES = Path(anomalib_clipzoo.__file__).parent
ABOVE = {
    "precision.py": {"clip", "anomaly", "models", "results", "deploy"},
    "clip": {"anomaly", "models", "results", "deploy"},
    "anomaly": {"models", "results", "deploy"},
}


def imported(path: Path) -> set[str]:
    """The package's parts that a file imports, at its top or inside its functions."""
    package = ("anomalib_clipzoo", *path.relative_to(SOURCES).parent.parts)
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            around = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join((*around, *([node.module] if node.module else [])))
            names += [f"{start}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("anomalib_clipzoo.")}


@pytest.mark.parametrize("part", ABOVE)
def test_arrows_point_down(part):
    """`precision.py` stands below `clip/`, `clip/` below `anomaly/`, and that below models, results and deployment."""
    files = [SOURCES / part] if part.endswith(".py") else sorted((SOURCES / part).rglob("*.py"))
    assert files
    upward = {path.name: found for path in files if (found := imported(path) & ABOVE[part])}
    assert not upward
