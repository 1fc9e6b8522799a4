# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

import csv
import re
import statistics

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anomalib_clipzoo.command import main
from anomalib_clipzoo.results.report import report
from anomalib_clipzoo.results.report.beside import published_beside
from anomalib_clipzoo.results.report.comparison import Comparison, configurations_of, differences_of, warnings_of
from anomalib_clipzoo.results.report.gallery import Gallery
from anomalib_clipzoo.results.report.runs import find_runs
from anomalib_clipzoo.tables import MEAN

from .runs import PACKAGES, draw_picture, write_run

SCORES = {"nut": ([0.1, 0.6, 0.2], [0.9, 0.4]), "bolt": ([0.3, 0.2], [0.8, 0.7, 0.1])}
BENCHMARK = """accelerator,job_duration,fit_duration,test_duration,seed,model.class_path,model.init_args.backbone,\
model.init_args.layers,data.class_path,data.init_args.category,image_AUROC,pixel_AUROC
cpu,1.0,0.5,0.5,1,VcpClip,toy,,ToyAD,nut,0.8,0.7
cpu,1.0,0.5,0.5,1,VcpClip,toy,,ToyAD,bolt,0.6,0.5
cpu,1.0,0.5,0.5,2,VcpClip,toy,,ToyAD,nut,0.9,0.7
cpu,1.0,0.5,0.5,2,VcpClip,toy,,ToyAD,bolt,0.7,0.5
cpu,1.0,0.5,0.5,1,AnomalyClip,toy,2,ToyAD,nut,0.5,0.4
"""


# ---- finding runs ----


def test_runs_are_found_below_a_folder_each_once(tmp_path):
    first = write_run(tmp_path / "VcpClip" / "ToyAD" / "v0", SCORES)
    second = write_run(tmp_path / "VcpClip" / "ToyAD" / "v1", SCORES, seed=8)
    write_run(first / "earlier" / "2025-01-01", SCORES)
    (tmp_path / "VcpClip" / "ToyAD" / "latest").symlink_to("v1")
    runs = find_runs([tmp_path, second, tmp_path / "VcpClip" / "ToyAD" / "latest", second / "predictions.csv"])
    assert [run.folder for run in runs] == [first, second]
    assert [run.name for run in runs] == ["VcpClip on ToyAD, seed 7", "VcpClip on ToyAD, seed 8"]
    (earlier,) = find_runs([first / "earlier" / "2025-01-01"])
    assert len(earlier.readable) == 10


def test_a_benchmark_is_a_run_for_each_row(tmp_path):
    (tmp_path / "results.csv").write_text(BENCHMARK)
    runs = find_runs([tmp_path])
    assert len(runs) == 5
    assert runs[0].figures["nut"] == {"image_AUROC": 0.8, "pixel_AUROC": 0.7}
    configurations = configurations_of(runs)
    assert [one.name for one in configurations] == ["VcpClip on ToyAD", "AnomalyClip on ToyAD"]
    vcp = configurations[0]
    assert len(vcp.runs) == 2
    assert vcp.figure("nut", "image_AUROC").mean == pytest.approx(0.85)
    assert vcp.figure(MEAN, "image_AUROC").mean == pytest.approx(0.75)
    assert vcp.figure(MEAN, "image_AUROC").deviation == pytest.approx(statistics.stdev([0.7, 0.8]))


def test_a_benchmark_on_another_dataset_is_called_by_what_it_was_tested_on(tmp_path):
    columns = {
        "seed": 1,
        "model.class_path": "VcpClip",
        "data.class_path": "CrossDataset",
        "data.init_args.auxiliary.class_path": "ToyAD",
        "data.init_args.auxiliary.init_args.category": "coin",
        "data.init_args.target.class_path": "MVTecAD",
        "data.init_args.target.init_args.category": "bottle",
        "image_AUROC": 0.9,
    }
    (tmp_path / "results.csv").write_text("\n".join(",".join(map(str, part)) for part in (columns, columns.values())))
    (run,) = find_runs([tmp_path])
    assert run.name == "VcpClip on MVTecAD"
    assert list(run.figures) == ["bottle", MEAN]


MISTAKES = {
    "nothing": ({}, "has no results"),
    "empty table": ({"predictions.csv": ""}, "is no table of predictions"),
    "no rows": (
        {"predictions.csv": "image_path,score,label,gt_label,problem,category,regions,heatmap\n"},
        "has no rows",
    ),
    "other table": ({"predictions.csv": "file,prob\na.png,0.5\n"}, "lacks the columns image_path, score"),
    "not text": ({"predictions.csv": b"\x89PNG\xff\x00"}, "no table of predictions|lacks the columns"),
    "other metrics": ({"metrics.csv": "epoch,loss\n1,0.5\n"}, "not a table of metrics"),
    "other record": ({"metrics.csv": "", "run.json": "[1, 2]"}, "was not written by anomalib-clipzoo"),
    "other results": ({"results.csv": "name,value\na,1\n"}, "was not written by anomalib's benchmark"),
    "results without rows": ({"results.csv": BENCHMARK.partition("\n")[0] + "\n"}, "has no rows"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_no_run_is_refused(mistake, tmp_path):
    files, message = MISTAKES[mistake]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=message) as caught:
        find_runs([tmp_path])
    assert str(tmp_path) in str(caught.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_runs([tmp_path / "nowhere"])


# ---- comparison ----


def test_seeds_of_a_configuration_stand_together(tmp_path):
    for seed, auroc in ((1, 0.8), (2, 0.9), (3, 0.85)):
        write_run(tmp_path / f"a{seed}", SCORES, auroc, seed=seed)
    write_run(tmp_path / "b", SCORES, {"nut": 0.5, "bolt": float("nan")}, arguments={"layers": [2]})
    same, other = configurations_of(find_runs([tmp_path]))
    assert (same.name, other.name) == ("VcpClip on ToyAD (layers [1, 2])", "VcpClip on ToyAD (layers [2])")
    figure = same.figure("nut", "image_AUROC")
    assert (figure.mean, figure.deviation, figure.runs) == (pytest.approx(0.85), pytest.approx(0.05), 3)
    assert other.figure("nut", "image_AUROC").deviation is None
    assert other.figure("bolt", "image_AUROC") is None
    assert other.figure(MEAN, "image_AUROC").mean == 0.5


def test_weights_are_the_same_where_their_content_is(tmp_path):
    for number, (path, content) in enumerate((("a", "0f"), ("b", "0f"), ("b", "1e"), ("a", "0f"))):
        arguments = {"layers": [1], "weights": f"{path}/learned.safetensors"}
        write_run(tmp_path / str(number), SCORES, arguments=arguments, weights={arguments["weights"]: content * 32})
    same, other = configurations_of(find_runs([tmp_path]))
    assert (len(same.runs), len(other.runs)) == (3, 1)
    assert same.name == f"VcpClip on ToyAD (weights {'0f' * 6})"
    report([tmp_path], tmp_path / "report", resamples=5)
    assert f"b/learned.safetensors ({'1e' * 6})" in (tmp_path / "report" / "report.html").read_text()


def test_where_features_are_kept_makes_no_other_configuration(tmp_path):
    places = ({"feature_cache": "a"}, {"feature_cache": "b", "cache_size": 2, "compile": True}, {"feature_cache": None})
    for number, given in enumerate(places):
        arguments = {"cache_size": 8, "compile": False, **given}
        write_run(tmp_path / str(number), SCORES, arguments=arguments)
    assert [(one.name, len(one.runs)) for one in configurations_of(find_runs([tmp_path]))] == [
        ("VcpClip on ToyAD (feature_cache True)", 2),
        ("VcpClip on ToyAD (feature_cache False)", 1),
    ]


def test_choices_of_references_are_seeds_too(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path / f"4 shots, {seed}", SCORES, arguments={"k_shot": 4, "seed": seed})
        write_run(tmp_path / f"no shots, {seed}", SCORES, arguments={"k_shot": 0, "seed": seed})
    runs = find_runs([tmp_path])
    assert [run.seeds for run in runs] == [(7, 1), (7, 2), (7,), (7,)]
    (sets,) = find_runs([write_run(tmp_path / "of sets" / "run", SCORES, arguments={"seed": 3})])
    assert sets.seeds == (7, 3)
    assert runs[1].name == "VcpClip on ToyAD, seed 7 and 2"
    assert [(one.name, len(one.runs)) for one in configurations_of(runs)] == [
        ("VcpClip on ToyAD (k_shot 4)", 2),
        ("VcpClip on ToyAD (k_shot 0)", 2),
    ]


@pytest.fixture
def pair(tmp_path):
    """Two runs on the same 160 images of two categories; the second adds noise to the first's scores."""
    noise = np.random.default_rng(0)
    good, bad = noise.normal(0.3, 0.1, (2, 40)).clip(0, 1), noise.normal(0.6, 0.1, (2, 40)).clip(0, 1)
    scores = {name: (good[place].tolist(), bad[place].tolist()) for place, name in enumerate(("nut", "bolt"))}
    worse = {
        name: [(part + noise.normal(0, 0.25, 40)).clip(0, 1).tolist() for part in parts]
        for name, parts in scores.items()
    }
    images = tmp_path / "images"
    write_run(tmp_path / "runs" / "a", scores, images=images, model="Good")
    write_run(tmp_path / "runs" / "b", worse, images=images, model="Noisy")
    return find_runs([tmp_path / "runs"])


def auroc(run) -> float:
    groups = [group for _, group in run.readable.groupby("category")]
    return np.mean([roc_auc_score(group.gt_label == "anomalous", group.score) for group in groups])


def test_a_difference_is_that_of_the_figures_within_its_interval(pair):
    good, noisy = pair
    difference = next(one for one in differences_of(noisy, good, 500) if one.metric == "image_AUROC")
    assert difference.value == pytest.approx(auroc(noisy) - auroc(good), abs=1e-6)
    assert difference.low < difference.value < difference.high < 0
    assert difference.is_clear
    assert (difference.images, difference.categories) == (160, 2)
    assert differences_of(noisy, good, 500) == differences_of(noisy, good, 500)


def test_a_run_does_not_differ_from_itself(pair):
    for one in differences_of(pair[0], pair[0], 50):
        assert (one.value, one.low, one.high) == (0, 0, 0)
        assert not one.is_clear


def test_runs_are_compared_on_the_images_that_both_have(pair):
    good, noisy = pair
    noisy.predictions = noisy.predictions[noisy.predictions.category == "nut"].iloc[10:]
    difference = differences_of(noisy, good, 50)[0]
    assert (difference.images, difference.categories) == (70, 1)
    noisy.predictions = noisy.predictions[noisy.predictions.gt_label == "normal"]
    assert differences_of(noisy, good, 50) == []


def test_pairing_makes_the_interval_narrower(pair):
    """Scores that differ little rank the images alike: unpaired resamples would not see that."""
    good, _ = pair
    twin = find_runs([good.folder])[0]
    shift = np.random.default_rng(1).normal(0, 0.005, len(twin.predictions))
    twin.predictions["score"] = (twin.predictions.score + shift).clip(0, 1)
    difference = next(one for one in differences_of(twin, good, 500) if one.metric == "image_AUROC")
    assert difference.high - difference.low < 0.01


def test_what_makes_runs_hard_to_compare_is_said(tmp_path):
    write_run(tmp_path / "a", SCORES)
    write_run(tmp_path / "b", SCORES, seed=8)
    assert warnings_of(find_runs([tmp_path])) == []
    write_run(tmp_path / "c", SCORES, packages=PACKAGES | {"anomalib": "2.8.0"}, finished=None)
    write_run(tmp_path / "d", SCORES, thresholds={"image": 0.4, "raw_image": 0.31, "fitted_on": "drills"}, unreadable=2)
    text = " ".join(warnings_of(find_runs([tmp_path])))
    assert "different versions of anomalib: 2.7.0, 2.8.0." in text
    assert "different thresholds of scores: 0.5, 0.4." in text
    assert "0.3, 0.31" in text
    assert "fitted on: none, drills." in text
    assert "seed 7, c has not finished: 10 images" in text
    assert "2 images could not be read" in text
    report([tmp_path], tmp_path / "report", resamples=5)
    page = (tmp_path / "report" / "report.html").read_text()
    assert re.findall(r'<td class="differs">(.+?)</td>', page) == ["2.8.0", "0.4", "0.31", "drills"]


ORIGIN = {
    "method": "best F1 score",
    "false_alarm_rate": None,
    "normal_images": 9,
    "anomalous_images": 4,
    "categories": ["coin"],
    "date": "2026-01-01T00:00:00+00:00",
}


def test_what_thresholds_were_fitted_on_is_in_words_and_its_date_makes_no_difference(tmp_path):
    for number, origin in enumerate((ORIGIN, ORIGIN | {"date": "2026-01-02T00:00:00+00:00"})):
        write_run(tmp_path / str(number), SCORES, thresholds={"image": 0.5, "fitted_on": origin})
    assert warnings_of(find_runs([tmp_path])) == []
    write_run(tmp_path / "2", SCORES, thresholds={"image": 0.5, "fitted_on": ORIGIN | {"normal_images": 7}})
    (sentence,) = warnings_of(find_runs([tmp_path]))
    first, second = (f"best F1 score on {count} normal and 4 anomalous images of coin" for count in (9, 7))
    assert sentence.endswith(f"fitted on: {first}, {second}.")


# ---- the files ----


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report on two seeds and a model with a name that wants to be markup."""
    tmp_path = tmp_path_factory.mktemp("written")
    for seed in (1, 2):
        write_run(tmp_path / "runs" / str(seed), SCORES, 0.8 + seed / 20, tmp_path, pictures=True, seed=seed)
    write_run(tmp_path / "runs" / "3", SCORES, 0.5, tmp_path, model="<b>Other_100%</b>", seed=None)
    report([tmp_path / "runs"], tmp_path / "report", resamples=20)
    return tmp_path / "report"


def test_the_page_is_complete_in_itself(written):
    page = (written / "report.html").read_text()
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?!#|data:)[\w/.]", page)
    assert not re.findall(r"url\((?!#)", page)
    assert not re.findall(r"@import|<link|<iframe|fetch\(|XMLHttpRequest", page)
    assert "<b>Other" not in page.replace("&lt;b", "")
    assert "87.5 ± 3.5" in page
    assert page.count("<svg") == 2 + 3  # curves, and a histogram for each run


def test_markdown_latex_and_the_table_say_the_same(written):
    markdown, latex = (written / "report.md").read_text(), (written / "report.tex").read_text()
    assert "| VcpClip on ToyAD | 2 | 87.5 ± 3.5 |" in markdown
    assert r"| \<b\>Other\_100%\</b\> on ToyAD | 1 | 50.0 |" in markdown
    assert r"VcpClip on ToyAD & 87.5 $\pm$ 3.5 \\" in latex
    assert r"Other\_100\%" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 3
    with (written / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    (row,) = [row for row in rows if row["configuration"] == "VcpClip on ToyAD" and row["category"] == MEAN]
    assert float(row["mean"]) == pytest.approx(0.875)
    assert float(row["deviation"]) == pytest.approx(statistics.stdev([0.85, 0.9]))
    assert row["runs"] == "2"


def test_a_table_in_markdown_has_equally_many_cells_in_every_line(written):
    tables = re.findall(r"(?:^\|.*\n?)+", (written / "report.md").read_text(), re.MULTILINE)
    assert len(tables) >= 4
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.strip().splitlines()}) == 1, table


def test_published_figures_stand_beside_those_of_the_same_method_and_target(tmp_path):
    visa = {"datamodule": "CrossDataset", "target": {"datamodule": "MultiCategory", "data": {"datamodule": "Visa"}}}
    write_run(tmp_path / "runs" / "a", SCORES, 0.8, model="AnomalyClip", data=visa)
    write_run(tmp_path / "runs" / "b", SCORES, 0.7, model="WinClipPlus", data=visa, arguments={"k_shot": 4})
    write_run(tmp_path / "runs" / "c", SCORES, 0.6)
    beside = published_beside(configurations_of(find_runs([tmp_path / "runs"])))
    methods = {(one.published.method, one.published.target, one.published.shots) for one in beside}
    assert methods == {("AnomalyCLIP", "VisA", 0), ("WinCLIP", "VisA", 4)}
    (paper,) = [
        one for one in beside if one.published.source == "paper, table 1" and one.published.figure == "image_AUROC"
    ]
    assert paper.published.value == "82.1"
    assert paper.figure.mean == pytest.approx(0.8)
    report([tmp_path / "runs"], tmp_path / "report", resamples=20)
    for name, cells in (
        ("report.md", " | 80.0 | 82.1 | "),
        ("report.html", '80.0</td>\n      <td class="number">82.1</td>'),
    ):
        assert cells in (tmp_path / "report" / name).read_text()


def test_a_prediction_without_truth_has_no_curves(tmp_path):
    folder = write_run(tmp_path / "run", SCORES, stage="predict")
    table = (folder / "predictions.csv").read_text()
    (folder / "predictions.csv").write_text(
        re.sub(r",(normal|anomalous),,,,,,,,$", ",,,,,,,,,", table, flags=re.MULTILINE)
    )
    run = find_runs([folder])[0]
    assert set(run.readable.gt_label) == {""}
    assert run.figures == {}
    report([folder], tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<h2>Curves</h2>" not in page
    assert page.count("<svg") == 1


# ---- the gallery ----


def test_the_worst_of_every_category_come_first(tmp_path):
    write_run(tmp_path / "run", SCORES, pictures=True)
    runs = find_runs([tmp_path])
    cards = Gallery.of(runs, 4).cards[0]
    assert [(card.category, card.truth, card.score) for card in cards] == [
        ("bolt", "normal", 0.3),
        ("nut", "normal", 0.6),
        ("bolt", "anomalous", 0.1),
        ("nut", "anomalous", 0.4),
    ]
    assert len(Gallery.of(runs, 100).cards[0]) == 10


def test_runs_share_the_thumbnails_of_images_and_the_number_of_pictures(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / "runs" / name, SCORES, images=tmp_path, pictures=True)
    write_run(tmp_path / "runs" / "c", {"nut": ([0.1], [0.9])}, images=tmp_path, pictures=True)
    gallery = Gallery.of(find_runs([tmp_path / "runs"]), 100)
    assert [len(cards) for cards in gallery.cards] == [10, 10, 2]
    assert len(gallery.sources) == 10 + 10 + 10 + 2
    assert [len(cards) for cards in Gallery.of(find_runs([tmp_path / "runs"]), 14).cards] == [6, 6, 2]


def test_thumbnails_become_smaller_where_they_would_not_fit(tmp_path):
    for number in range(8):
        draw_picture(tmp_path / f"{number}.png", number / 8, noise=True, tile=256)
    write_run(tmp_path / "run", {"nut": ([number / 8 for number in range(8)], [])})
    runs = find_runs([tmp_path / "run"])
    runs[0].record.heatmap_tile = (256, 0, 256, 256)
    runs[0].predictions["heatmap"] = [f"../{number}.png" for number in range(8)]
    gallery = Gallery.of(runs, 100)
    large, size = gallery.thumbnails(1e9)
    small, smaller = gallery.thumbnails(sum(map(len, large)) / 2)
    assert size > smaller
    assert sum(map(len, small)) <= sum(map(len, large)) / 2
    assert all(one.startswith("data:image/jpeg;base64,") for one in small)


@pytest.mark.slow
def test_a_thousand_images_make_less_than_20_megabytes(tmp_path):
    scores = [number / 1000 for number in range(500)]
    folder = write_run(tmp_path / "run", {"nut": (scores, scores)}, pictures=True, heatmap_tile=(256, 0, 256, 256))
    for picture in folder.rglob("*.png"):
        draw_picture(picture, int(picture.stem) / 1000, noise=True, tile=256)  # nothing is larger than noise
    report([folder], tmp_path / "report")
    assert 5e6 < (tmp_path / "report" / "report.html").stat().st_size < 20e6


# ---- the command ----


def test_the_command_writes_and_says_where(tmp_path, capsys):
    write_run(tmp_path / "run", SCORES, pictures=True)
    assert main(["report", str(tmp_path / "run"), "--output", str(tmp_path / "out")]) == 0
    assert str(tmp_path / "out" / "report.html") in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"report.{kind}" for kind in ("html", "md", "tex", "csv")
    }


def test_the_command_ends_with_a_line_for_a_mistake(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"clipzoo report: {tmp_path} has no results")
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["report"], ["nothing"], ["report", "x", "--pictures", "many"]])
def test_the_command_refuses_what_it_does_not_know(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "error" in capsys.readouterr().err


def test_comparing_needs_one_run_at_least(tmp_path):
    write_run(tmp_path / "run", SCORES)
    assert Comparison.of(find_runs([tmp_path]), 10).differences == []
