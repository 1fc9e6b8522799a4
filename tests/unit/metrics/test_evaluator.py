# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Tests of the evaluator in anomalib's engine: what a test leaves behind."""

import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.data import Folder, InferenceBatch
from anomalib.engine import Engine
from anomalib.models import AnomalibModule
from PIL import Image
from pyaupro import PerRegionOverlap
from sklearn.metrics import roc_auc_score

from anomalib_clipzoo import tables
from anomalib_clipzoo.metrics import PerCategoryEvaluator
from anomalib_clipzoo.models.components.post_processor import ProbabilityPostProcessor
from anomalib_clipzoo.tables import Figure, read_csv

NAME = "part [/A]"  # what rich takes for markup
DEFECTS = {"crack": 200, "dent": 120}


class Brightness(AnomalibModule):
    """Bright pixels are anomalous."""

    def __init__(self, scale: float = 1.0, **arguments) -> None:
        super().__init__(**{"pre_processor": False, "visualizer": False, "post_processor": False, **arguments})
        self.model = torch.nn.Identity()
        self.scale = scale

    def test_step(self, batch, batch_idx, *args, **kwargs):
        maps = batch.image.mean(1) * self.scale
        return batch.update(**InferenceBatch(pred_score=maps.mean((1, 2)), anomaly_map=maps)._asdict())

    @property
    def trainer_arguments(self):
        return {}

    @property
    def learning_type(self):
        return LearningType.ONE_CLASS


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Grey parts; cracks are bright spots, dents less so; one dent cannot be seen."""
    folder = tmp_path_factory.mktemp("parts")
    noise = np.random.default_rng(0)
    for kind, brightness in {"good": 0, **DEFECTS}.items():
        for number in range(6):
            image, mask = noise.integers(60, 100, (16, 16), dtype=np.uint8), np.zeros((16, 16), dtype=np.uint8)
            if kind != "good":
                mask[4:8, 5 : 9 + number] = 255
                if (kind, number) != ("dent", 0):
                    image[mask > 0] = brightness
                path = folder / "masks" / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(path)
            path = folder / kind / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(image).convert("RGB").save(path)
    return folder


def parts(root: Path, *kinds: str) -> Folder:
    return Folder(
        NAME,
        root / "good",
        abnormal_dir=[root / kind for kind in kinds],
        normal_test_dir=root / "good",
        mask_dir=[root / "masks" / kind for kind in kinds],
        test_split_mode="from_dir",
        val_split_mode="same_as_test",
        num_workers=0,
    )


def run(root: Path, folder: Path, model: Brightness, **arguments) -> tuple[dict[str, float], Path]:
    engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, logger=False, **arguments)
    datamodule = parts(root, *DEFECTS)
    datamodule.category = NAME
    (means,) = engine.test(model, datamodule=datamodule)
    return means, Path(engine.trainer.default_root_dir)


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory) -> tuple[dict[str, float], Path]:
    return run(root, tmp_path_factory.mktemp("run"), Brightness(evaluator=PerCategoryEvaluator(bootstrap=200)))


def test_a_test_leaves_a_table_of_categories_and_kinds_of_defects(finished):
    means, folder = finished
    rows = read_csv(folder / "metrics.csv")
    assert [(row.category, row.defect, row.normal, row.anomalous) for row in rows] == [
        (NAME, "", 6, 12),
        (NAME, "crack", 6, 6),
        (NAME, "dent", 6, 6),
        ("mean", "", 6, 12),
    ]
    whole, crack, dent, mean = (row.figures for row in rows)
    assert whole == mean
    assert {name: figure.value for name, figure in mean.items()} == pytest.approx(means)
    assert list(crack) == list(dent) == ["image_AUROC"]
    assert dent["image_AUROC"].value < crack["image_AUROC"].value == 1
    for name in ("image_AUROC", "image_AP", "image_F1Max", "pixel_AUROC", "pixel_AP", "pixel_F1Max", "pixel_AUPRO"):
        assert 0 <= whole[name].low <= whole[name].value <= whole[name].high <= 1, name


def test_its_auroc_is_that_of_the_images(finished, root):
    def brightness(kind: str) -> list[float]:
        return [np.asarray(Image.open(path)).mean() for path in sorted((root / kind).iterdir())]

    rows = read_csv(finished[1] / "metrics.csv")
    for row, kinds in ((rows[0], ("crack", "dent")), (rows[2], ("dent",))):
        good, bad = brightness("good"), [value for kind in kinds for value in brightness(kind)]
        expected = roc_auc_score([0] * len(good) + [1] * len(bad), good + bad)
        assert row.figures["image_AUROC"].value == pytest.approx(expected)


@pytest.mark.parametrize("threshold", [None, 0.15])
def test_pro_of_200_thresholds_is_pyaupros_on_the_models_own_scale(threshold, root, tmp_path):
    """What a post-processor did to the scale makes no difference."""

    def curved(images: torch.Tensor) -> torch.Tensor:
        return images.mean(1) ** 1.5  # so that no pixel is as high as one of the even thresholds

    class Curved(Brightness):
        def test_step(self, batch, batch_idx, *args, **kwargs):
            maps = curved(batch.image)
            return batch.update(pred_score=maps.amax((1, 2)), anomaly_map=maps)

    post_processor = ProbabilityPostProcessor()
    if threshold is not None:
        post_processor._pixel_threshold.fill_(threshold)
    model = Curved(evaluator=PerCategoryEvaluator(bootstrap=0), post_processor=post_processor)
    means, _ = run(root, tmp_path, model)
    dataset = parts(root, *DEFECTS)
    dataset.setup()
    images = [dataset.test_data[number] for number in range(len(dataset.test_data))]
    maps = curved(torch.stack([item.image for item in images]))
    masks = torch.stack([item.gt_mask.int() for item in images])
    oracle = PerRegionOverlap(thresholds=torch.linspace(maps.min(), maps.max(), 201)[:-1].nextafter(torch.ones(())))
    oracle.update(maps, masks)
    rates, overlaps = (curve.flip(0) for curve in oracle.compute())
    kept = rates < 0.3
    rates, overlaps = rates[kept], overlaps[kept]
    expected = torch.trapezoid(overlaps, (rates - rates.min()) / (rates.max() - rates.min()))
    assert means["pixel_PRO200"] == pytest.approx(float(expected), abs=1e-4)
    assert means["pixel_PRO200"] != pytest.approx(means["pixel_AUPRO"], abs=5e-4)


def test_markdown_and_latex_say_the_same(finished):
    rows, folder = read_csv(finished[1] / "metrics.csv"), finished[1]
    caption = "In per cent; in brackets 95 % intervals from 200 bootstrap resamples of the images (seed 0)."
    assert (folder / "metrics.md").read_text() == tables.to_markdown(rows, caption)
    assert (folder / "metrics.tex").read_text() == tables.to_latex(rows, caption)


def test_intervals_are_the_same_again_and_other_with_another_seed(finished, root, tmp_path):
    first = (finished[1] / "metrics.csv").read_text()
    _, again = run(root, tmp_path / "again", Brightness(evaluator=PerCategoryEvaluator(bootstrap=200)))
    _, other = run(root, tmp_path / "other", Brightness(evaluator=PerCategoryEvaluator(bootstrap=200, seed=1)))
    assert (again / "metrics.csv").read_text() == first
    assert (other / "metrics.csv").read_text() != first


def test_one_label_alone_is_left_out_and_the_table_says_so(root, tmp_path, capsys):
    model = Brightness(evaluator=PerCategoryEvaluator(bootstrap=10))
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False)
    engine.test(model, datamodule=Folder("good", root / "good", test_split_mode="from_dir", num_workers=0))
    folder = Path(engine.trainer.default_root_dir)
    assert "n/a" in (folder / "metrics.csv").read_text()
    assert "without -, where all are normal or all are anomalous." in (folder / "metrics.md").read_text()
    assert "n/a" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [{"barebones": True}, {"fast_dev_run": True}])
def test_runs_that_are_to_leave_nothing_leave_nothing(root, tmp_path, arguments, monkeypatch):
    monkeypatch.chdir(tmp_path)
    means, _ = run(root, tmp_path, Brightness(evaluator=PerCategoryEvaluator(bootstrap=10)), **arguments)
    assert "image_F1Max" in means
    assert not list(tmp_path.rglob("metrics.*"))


def test_a_saturated_map_does_not_end_the_test(root, tmp_path):
    means, _ = run(root, tmp_path, Brightness(scale=1 + 4e-7, evaluator=PerCategoryEvaluator(bootstrap=0)))
    assert means["pixel_AUROC"] > 0.8


def test_not_a_number_names_the_image(root, tmp_path):
    with pytest.raises(ValueError, match=r"of .*crack/0\.png is not a number"):
        run(root, tmp_path, Brightness(scale=float("nan"), evaluator=PerCategoryEvaluator(bootstrap=0)))


def test_a_full_disk_is_told_after_the_table_is_printed(root, tmp_path, monkeypatch, capsys):
    write_bytes = Path.write_bytes

    def full(self: Path, content: bytes) -> None:
        if "metrics.md" in self.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_bytes(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device.*metrics\.md"):
        run(root, tmp_path, Brightness(evaluator=PerCategoryEvaluator(bootstrap=0)))
    assert NAME in capsys.readouterr().out
    (table,) = tmp_path.rglob("metrics.csv")
    assert read_csv(table)[0].category == NAME


def test_resamples_cannot_be_fewer_than_none():
    with pytest.raises(ValueError, match="bootstrap is the number of resamples"):
        PerCategoryEvaluator(bootstrap=-1)


def test_figures_without_intervals(root, tmp_path):
    _, folder = run(root, tmp_path, Brightness(evaluator=PerCategoryEvaluator(bootstrap=0)))
    figures = read_csv(folder / "metrics.csv")[0].figures
    assert all(figure == Figure(figure.value) for figure in figures.values())
    assert "low" not in (folder / "metrics.csv").read_text()
