# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What README and docs say of files, versions and commands is so."""

import re
import runpy
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


def test_what_the_papers_protocols_take_is_what_the_script_computes():
    table = runpy.run_path(str(TOP / "benchmarks" / "protocols.py"))["table"]
    assert table() in (TOP / "docs" / "protocols.md").read_text(encoding="utf-8")


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


def test_the_example_of_how_to_add_a_paper_is_what_stands_in_the_code():
    page = (TOP / "docs" / "add_a_paper.md").read_text(encoding="utf-8")
    assert len(page.splitlines()) < 150
    source, found = "", 0
    for path, block in re.findall(r"^`([^`\s]+)`$|^```(?:python|toml)\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        if path:
            source = (TOP / path).read_text(encoding="utf-8")
        else:
            assert without_docstrings(block) in without_docstrings(source)
            found += 1
    assert found >= 8


def without_docstrings(code: str) -> str:
    """Drop a class's docstring, which pages leave out, and what is indented for the page alone."""
    return re.sub(r'^ +"""(?s:.*?)"""\n+', "", code, flags=re.MULTILINE).strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(TOP).as_posix())
def test_configurations_and_tools_in_commands_are_there(page):
    named = re.findall(r"(?:configs|tools|benchmarks)/[\w/]+\.(?:yaml|py)\b", page.read_text(encoding="utf-8"))
    assert [path for path in named if not (TOP / path).is_file()] == []
