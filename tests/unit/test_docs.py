# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What README and docs say of files, versions and commands is so."""

import re
from pathlib import Path

import pytest

from anomalib_clipzoo.models.components.known_weights import KNOWN_WEIGHTS

TOP = Path(__file__).parents[2]
README = (TOP / "README.md").read_text(encoding="utf-8")
PAGES = [TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))]


def commands(text: str) -> set[str]:
    """The lines of all blocks for the shell."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return {line.strip() for block in blocks for line in block.splitlines()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(TOP).as_posix())
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_versions_in_the_readme_are_those_that_are_asked_for():
    project = pytest.importorskip("tomllib").loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = README[README.index("## Requirements") :]
    lowest = dict(re.match(r"([a-z0-9_]+)>=([\d.]+)", line).groups() for line in project["dependencies"])
    assert f"anomalib {lowest['anomalib']}" in stated
    assert f"open_clip {lowest['open_clip_torch']}" in stated
    assert f"torch {lowest['torch']}" in stated
    assert f"pandas {lowest['pandas']}" in stated
    minors = [int(minor) for minor in re.findall(r"Python :: 3\.(\d+)", "\n".join(project["classifiers"]))]
    assert f"Python 3.{min(minors)} to 3.{max(minors)}" in stated
    assert project["requires-python"] == f">=3.{min(minors)}"


def test_the_first_page_of_the_docs_has_the_readmes_commands():
    whole = " && ".join(commands(README))
    for command in commands((TOP / "docs" / "index.md").read_text(encoding="utf-8")):
        assert command in whole


def test_hashes_of_published_checkpoints_are_those_that_the_log_names():
    table = (TOP / "docs" / "weights.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([0-9a-f]{64})` \| (.+), `(.+)` \|$", table, re.MULTILINE)
    assert {digest for digest, _, _ in rows} == set(KNOWN_WEIGHTS)
    for digest, paper, file in rows:
        assert f"{file} of {paper}" in KNOWN_WEIGHTS[digest]
