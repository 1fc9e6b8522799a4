# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Make the tables and plots of ``docs/speed.md`` of what ``speed.py`` measured.

```
python benchmarks/speed_page.py
```

Where something was measured in several runs, the last one counts. Seconds are medians of all turns, ratios the median
and the range of the ratios turn by turn: of processor seconds on a processor, which other programs disturb least, of
seconds on an accelerator.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "speed.md"
PICTURES = ROOT / "docs" / "images"
RESULTS = ROOT / "benchmarks" / "results" / "speed.jsonl"
TOWER = "open_clip's tower"
CIRCUMSTANCES = ("processor", "bf16", "threads", "torch", "open_clip")
GB_PER_GIB = 2**30 / 10**9
SWEEPS = {
    "size": "image side in pixels",
    "batch": "images in a batch",
    "k": "normal references",
    "classes": "classes in a batch",
}


class Goal(NamedTuple):
    """A ratio, or gigabytes, that is not to be exceeded.

    Attributes:
        model: The model.
        part: Part of the measurements.
        row: What was measured: what follows the model's name.
        against: The row that it is compared with, of the same model; empty for gigabytes.
        limit: The goal.
        batch: Images in a batch.
        papers_code: The same ratio of the paper's code, measured on another processor; empty where it is not known.
    """

    model: str
    part: str
    row: str
    against: str
    limit: float
    batch: int = 1
    papers_code: str = ""

    @property
    def what(self) -> str:
        """The row's whole name."""
        return self.row if self.part == "epochs" else f"{self.model}{self.row}"


REFERENCES = ", 4 references"
GOALS = [
    Goal("VcpClip", "inference", "", TOWER, 0.95, 1, "1.36"),
    Goal("VcpClip", "inference", "", TOWER, 0.95, 4, "1.28"),
    Goal("AnomalyClip", "inference", "", TOWER, 1.0, 1, "1.55"),
    Goal("AnomalyClip", "inference", "", TOWER, 1.0, 4, "1.68"),
    Goal("AdaClip", "inference", "", TOWER, 2.0, 1, "2.4 to 2.8"),
    Goal("AdaClip", "inference", ", static prompts", TOWER, 1.0),
    Goal("AprilGan", "inference", "", TOWER, 1.1),
    Goal("AprilGan", "inference", REFERENCES, TOWER, 1.25),
    Goal("Crane", "inference", "", TOWER, 1.2),
    Goal("WinClipPlus", "inference", "", "anomalib's WinClip", 0.95, 1, "1.04"),
    Goal("WinClipPlus", "inference", ", bfloat16", "anomalib's WinClip", 0.4),
    Goal("VcpClip", "training", ", training step", TOWER, 1.2, 1, "1.53"),
    Goal("AnomalyClip", "training", ", training step", TOWER, 1.2, 1, "1.59"),
    Goal("VcpClip", "epochs", "later epoch", "first epoch", 0.1),
    Goal("AnomalyClip", "epochs", "later epoch", "first epoch", 0.1),
    Goal("AdaClip", "memory", ", training step", "", 5.0, 1, "13.2 GB"),
    *(
        Goal(model, part, REFERENCES, model, limit)
        for part, limit in {"inference": 1.1, "memory": 1.3}.items()
        for model in ("VcpClip", "AnomalyClip", "AdaClip", "AprilGan", "Crane", "WinClipPlus")
    ),
]


def read(path: Path = RESULTS) -> pd.DataFrame:
    """Read what was measured with models' defaults."""
    rows = pd.DataFrame([json.loads(line) for line in path.read_text().splitlines()])
    return rows[rows["defaults"]].reindex(columns=[*dict.fromkeys([*rows.columns, *SWEEPS, "gib"])])


def last(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the last run."""
    return rows[rows["run"] == rows["run"].max()]


def clock(rows: pd.DataFrame) -> str:
    """Name the clock that counts."""
    return "seconds" if rows["threads"].isna().all() else "cpu"


def ratios(rows: pd.DataFrame, row: str, reference: str) -> pd.Series:
    """Compare one row of a part with another, turn by turn, in the last run that has both; empty where none has."""
    each = rows.pivot_table(index=["run", "turn"], columns="row", values=clock(rows))
    if not {row, reference} <= set(each):
        return pd.Series(dtype=float)
    compared = (each[row] / each[reference]).dropna().rename("ratio").reset_index()
    return last(compared)["ratio"]


def table(rows: pd.DataFrame, part: str) -> Iterable[str]:
    """Write what was measured of a part: seconds of each row, and the ratio to the first row with its range."""
    chosen = rows[rows["part"] == part]
    if chosen.empty:
        yield "Not measured."
        return
    yield "| model | batch | what | seconds | processor seconds | ratio | turns |"
    yield "|---|---|---|---|---|---|---|"
    for (model, batch), measured in chosen.groupby(["model", "batch"], sort=False):
        for row, runs in measured.groupby("row", sort=False):
            times = last(runs)
            each = ratios(measured, row, measured["row"].iloc[0])
            span = f"{each.median():.2f} ({each.min():.2f} to {each.max():.2f})" if len(each) else ""
            seconds = f"{times['seconds'].median():.2f} | {times['cpu'].median():.2f}"
            yield f"| {model} | {batch:.0f} | {row} | {seconds} | {span} | {len(times)} |"


def memory(rows: pd.DataFrame) -> Iterable[str]:
    """Write peak memory."""
    chosen = rows[rows["part"] == "memory"]
    if chosen.empty:
        yield "Not measured."
        return
    yield "| model | batch | what | peak, GiB |"
    yield "|---|---|---|---|"
    for row in chosen.drop_duplicates(["model", "batch", "row"], keep="last").itertuples():
        yield f"| {row.model} | {row.batch:.0f} | {row.row} | {row.gib:.2f} |"


def goals(rows: pd.DataFrame) -> Iterable[str]:
    """Write which goals are met."""
    yield "| model | what | batch | against | the paper's code | goal | measured | |"
    yield "|---|---|---|---|---|---|---|---|"
    for goal in GOALS:
        found = rows[(rows["model"] == goal.model) & (rows["part"] == goal.part) & (rows["batch"] == goal.batch)]
        measured = peak(found, goal) if goal.part == "memory" else ratios(found, goal.what, goal.against).median()
        what = f"{goal.what}, peak memory" if goal.part == "memory" else goal.what
        limit = goal.limit if goal.against else f"{goal.limit} GB"
        told = f"{goal.model} | {what} | {goal.batch} | {goal.against} | {goal.papers_code} | {limit}"
        yield f"| {told} | {judged(measured, goal.limit)} |"


def peak(rows: pd.DataFrame, goal: Goal) -> float:
    """Compare a row's last peak with another's, or give it in gigabytes; not a number where one is missing."""
    gib = rows.drop_duplicates("row", keep="last").set_index("row")["gib"]
    reference = gib.get(goal.against, float("nan")) if goal.against else 1 / GB_PER_GIB
    return gib.get(goal.what, float("nan")) / reference


def judged(measured: float, limit: float) -> str:
    """Write a figure, and whether it keeps a limit."""
    if pd.isna(measured):
        return "not measured | "
    return f"{measured:.2f} | {'met' if measured <= limit else '**missed**'}"


def circumstances(rows: pd.DataFrame) -> Iterable[str]:
    """Write on what was measured."""
    yield "Measured on:\n"
    for key in rows[[*CIRCUMSTANCES]].astype(str).drop_duplicates().itertuples(index=False):
        units = f"bfloat16 units: {key.bf16}"
        yield f"* {key.processor}, {key.threads} threads, {units}; torch {key.torch}, open_clip {key.open_clip}"
    loads = rows["load"].dropna()
    yield f"\nLoad averages of {loads.min():.1f} to {loads.max():.1f} when runs began."


def plot(rows: pd.DataFrame) -> list[str]:
    """Draw cost against image size and the like; return the page's lines."""
    swept = rows[rows["part"] == "sweep"]
    lines = []
    for what, label in SWEEPS.items():
        if swept[what].isna().all():
            lines.append(f"Cost against {label}: not measured.")
            continue
        chosen = swept[swept[what].notna()]
        figure, axes = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
        for (model, row), points in chosen.groupby(["model", "row"]):
            points = last(points).groupby(what)[["seconds", "cpu"]].median()
            name = f"{row} of {model}" if row == TOWER else row
            axes.plot(points.index, points[clock(chosen)], "--" if row == TOWER else "-", marker="o", label=name)
        axes.set(xlabel=label, ylabel="seconds" if clock(chosen) == "seconds" else "processor seconds", ylim=(0, None))
        axes.legend(fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        file = PICTURES / f"speed_{what}.png"
        figure.savefig(file, dpi=150)
        plt.close(figure)
        lines.append(f"![Cost against {label}](images/{file.name})")
    return lines


def replace_section(page: str, name: str, lines: Iterable[str]) -> str:
    """Put lines between a section's marks."""
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, _, rest = page.partition(start)
    return before + start + "\n".join(lines) + "\n" + end + rest.partition(end)[2]


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="file that speed.py wrote")
    parser.add_argument("--page", type=Path, default=PAGE, help="page whose marked sections are written anew")
    arguments = parser.parse_args()
    rows, page = read(arguments.results), arguments.page.read_text()
    page = replace_section(page, "circumstances", circumstances(rows))
    page = replace_section(page, "goals", goals(rows))
    for part in ("inference", "exports", "training", "epochs", "evaluation"):
        page = replace_section(page, part, table(rows, part))
    page = replace_section(page, "memory", memory(rows))
    page = replace_section(page, "plots", plot(rows))
    arguments.page.write_text(page)


if __name__ == "__main__":
    main()
