# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Tests of metrics per category, in one process and in two."""

import logging
import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from anomalib.data import ImageBatch, MVTecAD
from anomalib.metrics import AUPRO, AUROC, F1Max, F1Score
from torch import distributed, multiprocessing

from anomalib_clipzoo.data import CategoryBatch, CrossDataset, MultiCategory
from anomalib_clipzoo.metrics import PerCategory, PerCategoryEvaluator
from anomalib_clipzoo.metrics.gather import gather
from anomalib_clipzoo.metrics.observations import Observations, merged
from anomalib_clipzoo.metrics.rows import rows_of

IMAGE, PIXEL = ["pred_score", "gt_label"], ["anomaly_map", "gt_mask"]


def image_auroc() -> PerCategory:
    return PerCategory(AUROC(IMAGE, prefix="image_"))


def make_batch(categories: Sequence[str | None], seed: int = 0, size: int = 16) -> CategoryBatch:
    """Random scores; labels alternate within each category."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([categories[:row].count(name) % 2 for row, name in enumerate(categories)]).bool()
    masks = torch.zeros(len(categories), size, size, dtype=torch.bool)
    masks[labels, 2:9, 4:7] = True
    scores = torch.rand(len(categories), generator=generator)
    return CategoryBatch(
        image=torch.zeros(len(categories), 3, size, size),
        gt_label=labels,
        gt_mask=masks,
        pred_score=scores,
        pred_label=scores > 0.5,
        pred_mask=torch.rand(masks.shape, generator=generator) > 0.5,
        anomaly_map=torch.rand(masks.shape, generator=generator),
        category=list(categories),
    )


def only(batch: CategoryBatch, category: str) -> ImageBatch:
    rows = [row for row, name in enumerate(batch.category) if name == category]
    fields = {name: batch[name][rows] for name in batch.keys(include_none=False) if name != "category"}
    return ImageBatch(**fields)


METRICS = [
    AUROC(IMAGE, prefix="image_"),
    F1Max(IMAGE, prefix="image_"),
    F1Score(["pred_label", "gt_label"], prefix="image_"),
    AUROC(PIXEL, prefix="pixel_"),
    AUROC(PIXEL, prefix="pixel_", thresholds=50),
    AUPRO(PIXEL, prefix="pixel_"),
]


@pytest.mark.parametrize("inner", METRICS, ids=lambda metric: type(metric).__name__)
def test_each_category_as_if_it_were_alone(inner):
    metric = PerCategory(inner)
    batches = [make_batch(["a", "b", "b", "a", "b", "a"] * 2, seed) for seed in range(3)]
    expected = {}
    for category in ("a", "b"):
        alone = pickle.loads(pickle.dumps(inner))
        for batch in batches:
            alone.update(only(batch, category))
        expected[category] = float(alone.compute())
    for batch in batches:
        metric.update(batch)
    assert metric.name == inner.name
    assert metric.per_category() == pytest.approx(expected)
    assert float(metric.compute()) == pytest.approx(sum(expected.values()) / 2)


def test_mean_is_over_categories_not_images():
    metric = image_auroc()
    batch = make_batch(["a"] * 2 + ["b"] * 6)
    metric.update(batch.update(pred_score=torch.tensor([0.9, 0.1] + [0.2, 0.8] * 3)))
    assert metric.per_category() == {"a": 0, "b": 1}
    assert float(metric.compute()) == 0.5


def test_batches_without_categories_give_the_metric_itself():
    batch = only(make_batch(["a"] * 8), "a")
    metric, plain = image_auroc(), AUROC(IMAGE)
    metric.update(batch)
    plain.update(batch)
    assert metric.per_category() == {None: float(plain.compute())}
    assert float(metric.compute()) == float(plain.compute())


def observe(batches: Sequence[CategoryBatch]) -> dict[str | None, Observations]:
    evaluator = PerCategoryEvaluator()
    for number, batch in enumerate(batches):
        evaluator.on_test_batch_end(None, None, None, batch, number)
    return dict(evaluator._observations)


def test_scores_in_a_column_are_as_good():
    batch = make_batch(["a"] * 4 + ["b"] * 4)
    row = rows_of(observe([batch]), 0, 0)
    batch.update(pred_score=batch.pred_score[:, None], anomaly_map=batch.anomaly_map[:, None])
    assert rows_of(observe([batch]), 0, 0) == row


def test_category_with_one_label_is_left_out(caplog):
    metric = image_auroc()
    metric.update(make_batch(["a", "a", "b", "c", "c"]))
    with caplog.at_level(logging.WARNING):
        assert set(metric.per_category()) == {"a", "c"}
    assert "image_AUROC leaves out b" in caplog.text
    assert float(metric.compute()) == pytest.approx(sum(metric.per_category().values()) / 2)


def test_labels_may_come_in_different_batches():
    metric = image_auroc()
    batch = make_batch(["a", "a"])
    metric.update(only(batch, "a").update(gt_label=torch.tensor([0, 0]), pred_score=torch.tensor([0.1, 0.2])))
    metric.update(only(batch, "a").update(gt_label=torch.tensor([1, 1]), pred_score=torch.tensor([0.3, 0.15])))
    assert float(metric.compute()) == 0.75


def test_no_category_with_both_labels_is_no_number():
    metric = image_auroc()
    metric.update(make_batch(["a", "b"]))
    assert torch.isnan(metric.compute())


def test_missing_masks():
    batch = make_batch(["a", "a"]).update(gt_mask=None)
    metric = PerCategory(AUROC(PIXEL, prefix="pixel_", strict=False))
    metric.update(batch)
    assert metric.compute() is None
    with pytest.raises(ValueError, match="pixel_AUROC cannot be computed: the batch has no gt_mask"):
        PerCategory(AUROC(PIXEL, prefix="pixel_")).update(batch)


def test_reset_forgets_everything():
    metric = image_auroc()
    metric.update(make_batch(["a"] * 4, seed=1))
    metric.compute()
    metric.reset()
    metric.update(make_batch(["b"] * 4, seed=2))
    assert set(metric.per_category()) == {"b"}


def test_update_after_compute_counts():
    metric = image_auroc()
    metric.update(make_batch(["a"] * 4))
    metric.compute()
    metric(make_batch(["b"] * 4))
    assert set(metric.per_category()) == {"a", "b"}


def test_nothing_goes_into_a_checkpoint():
    metric = PerCategory(AUPRO(PIXEL))
    metric.update(make_batch(["a"] * 4))
    assert metric.state_dict() == {}


def test_moves_with_its_metrics():
    metric = PerCategory(AUROC(PIXEL, thresholds=50))
    metric.update(make_batch(["a"] * 4))
    metric.to("meta")
    assert {state.device.type for state in metric._metrics["a"].metric_state.values()} == {"meta"}


# Two processes, of which each sees other categories: "a" is shared, "b" and "c" are not, "d" has one label in each.
SEEN = {0: ["a", "a", "b", "b", "b", "d"], 1: ["a", "c", "c", "a", "a", "c", "d"]}


def batches_of(rank: int) -> list[CategoryBatch]:
    batch = make_batch(SEEN[rank], seed=rank)
    batch.gt_label[-1] = bool(rank)
    batch.gt_mask[-1] = False
    batch.gt_mask[-1, 3:5, 3:5] = bool(rank)
    return [batch]


def one_process(rank: int, folder: Path, roots: tuple[Path, Path]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    metrics = [PerCategory(inner) for inner in METRICS]
    for metric in metrics:
        for batch in batches_of(rank):
            metric.update(batch)
    torch.manual_seed(rank)
    datamodule = CrossDataset(MultiCategory(MVTecAD(roots[0])), MVTecAD(roots[1], "wood"), 0.3, num_workers=0)
    datamodule.setup()
    result = {
        "values": [metric.per_category() for metric in metrics],
        "means": [float(metric.compute()) for metric in metrics],
        "rows": rows_of(merged(gather(observe(batches_of(rank))), "-"), 100, 0),
        "held_out": datamodule.val_data.samples["image_path"].tolist(),
        "tested": [path for batch in datamodule.test_dataloader() for path in batch.image_path],
    }
    distributed.destroy_process_group()
    torch.save(result, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("ranks")
    roots = (folder / "auxiliary", folder / "target")
    for seed, place in enumerate((roots[0] / "bottle", roots[0] / "cable", roots[1] / "wood")):
        draw_category(place, seed)
    multiprocessing.spawn(one_process, (folder, roots), nprocs=2)
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def draw_category(folder: Path, seed: int) -> None:
    from PIL import Image

    for number in range(5):
        for split, label in (("train", "good"), ("test", "good"), ("test", "bad"), ("ground_truth", "bad")):
            path = folder / split / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (seed, number, len(split) * len(label))).save(path)


def test_two_processes_give_the_same_as_one(two_processes):
    _, results = two_processes
    assert results[0]["values"] == results[1]["values"]
    for position, inner in enumerate(METRICS):
        metric = PerCategory(inner)
        for rank in (0, 1):
            for batch in batches_of(rank):
                metric.update(batch)
        assert set(metric.per_category()) == {"a", "b", "c", "d"}
        assert results[0]["values"][position] == pytest.approx(metric.per_category())
        assert results[0]["means"][position] == results[1]["means"][position] == pytest.approx(float(metric.compute()))


def test_two_processes_observe_the_same_as_one(two_processes):
    _, results = two_processes
    alone = rows_of(merged([observe(batches_of(0) + batches_of(1))], "-"), 100, 0)
    for rows in (results[0]["rows"], results[1]["rows"]):
        assert [(row.category, row.normal, row.anomalous) for row in rows] == [
            (row.category, row.normal, row.anomalous) for row in alone
        ]
        for row, expected in zip(rows, alone, strict=True):
            assert {name: vars(figure) for name, figure in row.figures.items()} == {
                name: pytest.approx(vars(figure), abs=1e-9, nan_ok=True) for name, figure in expected.figures.items()
            }


def test_two_processes_hold_out_the_same_images(two_processes):
    _, results = two_processes
    assert results[0]["held_out"] == results[1]["held_out"]
    assert len(results[0]["held_out"]) == 8


def test_two_processes_share_the_test_images_without_repeating_any(two_processes):
    folder, results = two_processes
    tested = [Path(path) for result in results for path in result["tested"]]
    assert sorted(tested) == sorted(folder.glob("target/wood/test/*/*.png"))
