# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Tests of the published numbers and the pages that are written from them."""

import importlib.util
import re
from pathlib import Path

import pytest

from anomalib_clipzoo.metrics.figures import FIGURES
from anomalib_clipzoo.results.parts import fill_parts
from anomalib_clipzoo.results.published import METHODS, TARGETS, published, published_tables

ROOT = Path(__file__).parents[3]
SPEC = importlib.util.spec_from_file_location("published_tables", ROOT / "tools" / "published_tables.py")
TOOL = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(TOOL)


def one(method: str, **wanted) -> str:
    """The only number that is wanted; those of the paper's main variant and of the mean if nothing else is said."""
    wanted = {"variant": "", "category": "", "shots": 0, **wanted}
    (row,) = [
        row
        for row in published()
        if row.method == method and all(getattr(row, name) == value for name, value in wanted.items())
    ]
    return row.value


def test_numbers_are_those_of_the_papers():
    assert one("VCP-CLIP", target="MVTec AD", level="pixel", metric="AP") == "49.4"
    assert one("AdaCLIP", target="VisA", level="pixel", metric="PRO", auxiliary="MVTec AD + ColonDB") == "72.9"
    assert one("WinCLIP", target="VisA", level="image", metric="AUROC", shots=4) == "87.3"
    assert one("AnomalyCLIP", target="MVTec AD", category="screw", level="pixel", metric="PRO") == "88.0"
    assert one("MuSc", target="MVTec AD", level="pixel", metric="PRO") == "93.8"


def test_every_number_is_a_share_with_a_source_and_stands_once():
    rows = published()
    assert all(0 < row.share <= 1 for row in rows)
    assert all(row.source and row.method and row.target for row in rows)
    assert {row.figure for row in rows} <= set(FIGURES)
    assert len({(*list(vars(row).values())[:8], row.source) for row in rows}) == len(rows)


def test_nothing_is_learned_on_what_it_is_tested_on():
    assert not [row for row in published() if row.target in row.auxiliary.split(" + ")]


@pytest.mark.parametrize("target", ["MVTec AD", "VisA"])
@pytest.mark.parametrize("figure", ["image_AUROC", "image_AP", "pixel_AUROC", "pixel_PRO200"])
def test_means_by_category_are_those_of_the_logs(target, figure):
    logs = [row for row in published() if row.source == "logs of the authors' code"]
    rows = [row for row in logs if (row.target, row.figure) == (target, figure)]
    (mean,) = (row.share for row in rows if not row.category)
    values = [row.share for row in rows if row.category]
    assert sum(values) / len(values) == pytest.approx(mean, abs=1e-3)  # both are rounded to 0.1 per cent


def test_models_and_targets_are_known_by_the_papers_names():
    assert set(METHODS.values()) <= {row.method for row in published()}
    assert set(TARGETS.values()) <= {row.target for row in published()}


def test_pages_are_in_step():
    pages = sorted(TOOL.PAGES.glob("*.md"))
    assert len(pages) >= 4
    for page in pages:
        text = page.read_text()
        assert text == TOOL.filled(page), f"{page.name}: run python tools/published_tables.py"
        assert "<!-- published numbers: " in text, page.name


def test_tables_have_a_line_for_each_setting_and_notes_for_flags():
    table = published_tables("AdaCLIP")
    assert (
        "| MVTec AD | VisA + ClinicDB | 89.2 (1) | 95.7 | 90.6 | 88.7 | 37.8 | Crane, table 1 |" in table.splitlines()
    )
    assert re.search(r"^1\. UniADet quotes 90\.7", table, re.MULTILINE)


def test_an_unknown_method_is_told_from_the_known():
    with pytest.raises(ValueError, match=r"Nothing published is known of 'WinClip'; there are: .*WinCLIP"):
        published_tables("WinClip")


def test_parts_are_written_and_the_rest_stays():
    page = "a\n<!-- sums: one -->\nold\n<!-- end of sums -->\nb\n<!-- sums: two -->\n<!-- end of sums -->\n"
    sums = {"one": "1 + 1", "two": "2 + 2"}
    first, second = (f"<!-- sums: {name} -->\n\n{text}\n\n<!-- end of sums -->\n" for name, text in sums.items())
    once = fill_parts(page, "sums", sums.__getitem__)
    assert once == f"a\n{first}b\n{second}"
    assert fill_parts(once, "sums", sums.__getitem__) == once
    with pytest.raises(ValueError, match="has no end"):
        fill_parts("<!-- sums: one -->\nold\n", "sums", str)
