# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Tests of the datamodules and the evaluator in anomalib's engine and command line."""

from pathlib import Path

import pytest
import torch
from anomalib import LearningType, TaskType
from anomalib.cli import AnomalibCLI
from anomalib.data import Folder, InferenceBatch, MVTecAD
from anomalib.engine import Engine
from anomalib.metrics import AUROC, F1Score
from anomalib.models import AnomalibModule
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Resize

from anomalib_clipzoo.data import CrossDataset, MultiCategory, categories_of
from anomalib_clipzoo.metrics import PerCategoryEvaluator
from anomalib_clipzoo.tables import read_csv


class Brightness(AnomalibModule):
    """Bright pixels are anomalous; one weight is learned so that there is something to train."""

    def __init__(self, **arguments) -> None:
        super().__init__(**arguments)
        self.weight = torch.nn.Parameter(torch.tensor(1.0))
        self.model = torch.nn.Identity()
        self.seen: dict[str, set[str]] = {"train": set(), "validate": set()}

    def training_step(self, batch, batch_idx):
        self.seen["train"].update(categories_of(batch))
        return ((self.weight * batch.image.mean(1) - batch.gt_mask.float()) ** 2).mean()

    def validation_step(self, batch, batch_idx):
        self.seen["validate"].update(categories_of(batch))
        return self.test_step(batch, batch_idx)

    def test_step(self, batch, batch_idx, *args, **kwargs):
        maps = batch.image.mean(1)
        return batch.update(**InferenceBatch(pred_score=maps.amax((1, 2)), anomaly_map=maps)._asdict())

    predict_step = test_step

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=0.01)

    @property
    def trainer_arguments(self):
        return {}

    @property
    def learning_type(self):
        return LearningType.ONE_CLASS


def many(root: Path) -> MultiCategory:
    return MultiCategory(MVTecAD(root))


@pytest.fixture
def datamodule(auxiliary_root, target_root) -> CrossDataset:
    return CrossDataset(many(auxiliary_root), many(target_root), validation_split=0.3, num_workers=0)


def engine_in(folder: Path) -> Engine:
    return Engine(default_root_dir=folder, max_epochs=1, accelerator="cpu", devices=1, logger=False)


def test_fit_test_and_predict(datamodule, tmp_path):
    model = Brightness(evaluator=PerCategoryEvaluator(), pre_processor=PreProcessor(Resize((8, 8))))
    engine = engine_in(tmp_path / "results")
    engine.fit(model, datamodule=datamodule)
    assert model.seen == {"train": {"bottle", "cable", "own"}, "validate": {"bottle", "cable", "own"}}
    assert datamodule.train_data[0].image.shape == (3, 8, 8)

    (means,) = engine.test(model, datamodule=datamodule)
    folder = Path(engine.trainer.default_root_dir)
    assert folder.parts[-4:-1] == ("results", "Brightness", "target")
    rows = {
        row.category: {name: figure.value for name, figure in row.figures.items()}
        for row in read_csv(folder / "metrics.csv")
    }
    assert list(rows) == ["tile", "wood", "mean"]
    assert rows["mean"] == pytest.approx(means)
    assert model.evaluator.results.keys() == rows.keys()
    for name, mean in means.items():
        assert mean == pytest.approx((rows["tile"][name] + rows["wood"][name]) / 2)
    assert means["image_AUROC"] > 0.9
    assert means["pixel_AUROC"] > 0.9

    heatmaps = {path.relative_to(folder / "images") for path in folder.glob("images/**/*.png")}
    assert len(heatmaps) == len(datamodule.test_data)
    assert {path.parts[0] for path in heatmaps} == {"tile", "wood"}

    predictions = engine.predict(model, datamodule=datamodule)
    categories = [category for batch in predictions for category in categories_of(batch)]
    assert categories == datamodule.test_data.samples["category"].tolist()


def test_single_category_datamodule_and_chosen_metrics(target_root, tmp_path, capsys):
    metrics = [AUROC(["pred_score", "gt_label"], prefix="image_"), F1Score(["pred_label", "gt_label"])]
    model = Brightness(evaluator=PerCategoryEvaluator(test_metrics=metrics), pre_processor=False, visualizer=False)
    engine = engine_in(tmp_path)
    datamodule = MVTecAD(target_root, "wood", num_workers=0)
    (means,) = engine.test(model, datamodule=datamodule)
    assert set(means) == {"image_AUROC", "F1Score"}
    assert list(model.evaluator.results) == ["wood", "mean"]
    assert model.evaluator.results["wood"] == pytest.approx(means)
    assert model.evaluator.results["mean"] == pytest.approx(means)
    assert "Test metrics by category" in capsys.readouterr().out


def test_nobody_knows_the_category(target_root, tmp_path):
    metrics = [AUROC(["pred_score", "gt_label"], prefix="image_")]
    model = Brightness(evaluator=PerCategoryEvaluator(test_metrics=metrics), pre_processor=False, visualizer=False)
    wood = target_root / "wood"
    datamodule = Folder("parts", wood / "train" / "good", abnormal_dir=wood / "test" / "spot", num_workers=0)
    (means,) = engine_in(tmp_path).test(model, datamodule=datamodule)
    assert model.evaluator.results == {"-": pytest.approx(means), "mean": pytest.approx(means)}


class PartlyMasked(MVTecAD):
    """Category wood has no masks."""

    def _setup(self, _stage=None) -> None:
        super()._setup(_stage)
        if self.category == "wood":
            self.test_data.samples["mask_path"] = ""
            self.test_data.samples.attrs["task"] = TaskType.CLASSIFICATION.value


def test_a_category_without_masks_is_left_out_of_pixel_metrics_alone(target_root, tmp_path):
    def results(datamodule) -> dict:
        model = Brightness(evaluator=PerCategoryEvaluator(), pre_processor=False, visualizer=False)
        engine = engine_in(tmp_path)
        engine.test(model, datamodule=datamodule)
        predictions = engine.predict(model, datamodule=datamodule)
        assert sum(map(len, predictions)) == len(datamodule.test_data)
        return model.evaluator.results

    partly = results(MultiCategory(PartlyMasked(target_root), eval_batch_size=5, num_workers=0))
    whole = results(MultiCategory(MVTecAD(target_root), eval_batch_size=5, num_workers=0))
    names = {name for name in whole["tile"] if "F1Score" not in name}  # thresholds come from validation
    assert {name: partly["tile"][name] for name in names} == pytest.approx({n: whole["tile"][n] for n in names})
    assert {name.split("_")[0] for name in partly["wood"]} == {"image"}
    assert partly["mean"]["pixel_AUROC"] == partly["tile"]["pixel_AUROC"]


def parsed(*arguments: str):
    """Datamodule that the command line builds."""
    return AnomalibCLI(["test", "--model", "Padim", "--model.pre_trained", "false", *arguments], run=False).datamodule


def test_multi_category_on_the_command_line(auxiliary_root):
    data = ["--data", "MultiCategory", "--data.data", "MVTecAD", "--data.data.root", str(auxiliary_root)]
    assert parsed(*data).categories == ["bottle", "cable", "own"]
    datamodule = parsed(*data, "--data.categories", "[own, bottle]", "--data.eval_batch_size", "3")
    assert datamodule.categories == ["own", "bottle"]
    assert datamodule.eval_batch_size == 3


def test_cross_dataset_on_the_command_line(auxiliary_root, target_root):
    arguments = ["--data", "CrossDataset", "--data.auxiliary", "MultiCategory", "--data.auxiliary.data", "MVTecAD"]
    arguments += ["--data.auxiliary.data.root", str(auxiliary_root), "--data.auxiliary.categories", "[own, bottle]"]
    arguments += ["--data.target", "MVTecAD", "--data.target.root", str(target_root), "--data.target.category", "wood"]
    datamodule = parsed(*arguments, "--data.num_workers", "0")
    datamodule.setup()
    assert set(datamodule.train_data.samples["category"]) == {"own", "bottle"}
    assert set(datamodule.test_data.samples["category"]) == {"wood"}


CONFIG = """
model: {{class_path: Padim, init_args: {{pre_trained: false}}}}
data:
  class_path: CrossDataset
  init_args:
    auxiliary:
      - class_path: MVTecAD
        init_args: {{root: {auxiliary}, category: bottle}}
      - class_path: MultiCategory
        init_args:
          data: {{class_path: MVTecAD, init_args: {{root: {auxiliary}}}}}
          categories: [cable, own]
    target:
      class_path: MultiCategory
      init_args:
        data: {{class_path: MVTecAD, init_args: {{root: {target}}}}}
"""


def test_configuration_file(auxiliary_root, target_root, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(auxiliary=auxiliary_root, target=target_root))
    _, _, datamodule = Engine.from_config(config)
    datamodule.setup()
    assert set(datamodule.train_data.samples["category"]) == {"bottle", "cable", "own"}
    assert set(datamodule.test_data.samples["category"]) == {"tile", "wood"}


def test_wrong_category_on_the_command_line(auxiliary_root):
    data = ["--data", "MultiCategory", "--data.data", "MVTecAD", "--data.data.root", str(auxiliary_root)]
    with pytest.raises(ValueError, match="There are: bottle, cable, own"):
        parsed(*data, "--data.categories", "[botle]")
