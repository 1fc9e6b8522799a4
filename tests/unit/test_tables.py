# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Tests of tables of results."""

import math

import pandas as pd
import pytest

from anomalib_clipzoo.tables import (
    Figure,
    Row,
    mean_row,
    notes,
    read_csv,
    to_csv,
    to_latex,
    to_markdown,
)

ROWS = [
    Row("metal_nut", "", 20, 30, {"image_AUROC": Figure(0.912345678, 0.85, 0.95), "pixel_F1Max": Figure(0.4)}),
    Row("metal_nut", "bent & flipped", 20, 10, {"image_AUROC": Figure(0.95, 0.9, 1.0)}),
    Row("part [/A]|b", "", 0, 7, {"image_AUROC": Figure(math.nan), "pixel_F1Max": Figure(0.6)}),
]
ROWS.append(mean_row(ROWS, {"image_AUROC": (0.8, 0.9)}))


def test_the_mean_is_over_the_categories_that_have_the_figure():
    mean = ROWS[-1]
    assert (mean.normal, mean.anomalous) == (20, 37)
    assert mean.figures == {"image_AUROC": Figure(0.912345678, 0.8, 0.9), "pixel_F1Max": Figure(0.5)}
    assert notes(ROWS) == ["image AUROC: without part [/A]|b, where all are normal or all are anomalous."]


def test_comma_separated_values_come_back(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(to_csv(ROWS))
    again = read_csv(path)
    assert [(row.category, row.defect, row.normal, row.anomalous) for row in again] == [
        (row.category, row.defect, row.normal, row.anomalous) for row in ROWS
    ]
    assert math.isnan(again[2].figures["image_AUROC"].value)
    for row in (0, 1, 3):
        assert again[row].figures == ROWS[row].figures


def test_pandas_reads_the_file_as_it_is(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(to_csv(ROWS))
    table = pd.read_csv(path)
    assert table["image_AUROC"].isna().tolist() == [False, False, True, False]
    whole = table[table["defect"].isna()].set_index("category")
    assert whole.loc["metal_nut", "image_AUROC_low"] == 0.85
    assert whole.loc["mean", "pixel_F1Max"] == 0.5


def test_another_programs_table_is_refused(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n1,0.5\n")
    with pytest.raises(ValueError, match=r"metrics\.csv is not a table of metrics"):
        read_csv(path)


def test_markdown():
    assert to_markdown(ROWS, "In per cent.").splitlines() == [
        "In per cent.",
        "",
        "| category | image AUROC | pixel F1-max |",
        "| --- | ---: | ---: |",
        r"| metal\_nut | 91.2 [85.0, 95.0] | 40.0 |",
        r"| part \[/A\]\|b | n/a | 60.0 |",
        "| **mean** | **91.2 [80.0, 90.0]** | **50.0** |",
        "",
        "image AUROC: without part [/A]|b, where all are normal or all are anomalous.",
        "",
        "| category | defect | image AUROC |",
        "| --- | --- | ---: |",
        r"| metal\_nut | bent & flipped | 95.0 [90.0, 100.0] |",
    ]


def test_latex():
    assert to_latex(ROWS, "In per cent.").splitlines() == [
        "% In per cent.",
        "% image AUROC: without part [/A]|b, where all are normal or all are anomalous.",
        "",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"category & image AUROC & pixel F1-max \\",
        r"\midrule",
        r"metal\_nut & 91.2 {\scriptsize [85.0, 95.0]} & 40.0 \\",
        r"part [/A]|b & n/a & 60.0 \\",
        r"\midrule",
        r"mean & 91.2 {\scriptsize [80.0, 90.0]} & 50.0 \\",
        r"\bottomrule",
        r"\end{tabular}",
        "",
        r"\begin{tabular}{llr}",
        r"\toprule",
        r"category & defect & image AUROC \\",
        r"\midrule",
        r"metal\_nut & bent \& flipped & 95.0 {\scriptsize [90.0, 100.0]} \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
