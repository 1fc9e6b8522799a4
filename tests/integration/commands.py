# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What every model that learns is to do, as a user types it."""

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from anomalib.deploy import TorchInferencer

from anomalib_clipzoo.results.reading import PREDICTIONS_FILE, read_predictions
from anomalib_clipzoo.results.run_record import RunRecord

from .conftest import NO_PICTURES, Trained, forked_anomalib


def predict_with_a_few_good_parts(*model: str | Path, tiles: Path, folder: Path) -> RunRecord:
    """Predict on the toy's tiles, four good ones of which are references; return the run's record."""
    few_shot = ("--model.k_shot", "4", "--model.few_shot_source", tiles / "train" / "good")
    forked_anomalib("predict", *model, *NO_PICTURES, *few_shot, "--data", tiles / "test", folder=folder)
    (results,) = folder.glob("results/*/latest")
    assert len(read_predictions(results / PREDICTIONS_FILE)) == len(list((tiles / "test").rglob("*.png")))
    record = RunRecord.read(results)
    assert record.references["images"] == 4
    return record


class QuickstartCommands:
    """The quickstart with a model, and every command after it. Unseen categories are those tested on."""

    model: ClassVar[str]
    floors: ClassVar[dict[str, float]]  # metrics that the untrained model does not reach
    gain: ClassVar[float] = 0.10  # in pixel AUROC by learning

    @pytest.fixture
    def trained(self, train_quickstart) -> Trained:
        return train_quickstart(self.model)

    def test_it_learns(self, trained, workspace):
        untrained = forked_anomalib("test", *trained.arguments, *NO_PICTURES, folder=workspace).metrics
        learned = trained.run.metrics
        for name, floor in self.floors.items():
            assert untrained[name] < floor <= learned[name]
        assert learned["pixel_AUROC"] >= untrained["pixel_AUROC"] + self.gain

    def test_checkpoint_holds_no_frozen_clip(self, trained):
        content = torch.load(trained.checkpoint, weights_only=True)
        assert not any("backbone" in key for key in content["state_dict"])
        assert any(key.startswith("model.") for key in content["state_dict"])
        assert "post_processor.image_min" in content["state_dict"]

    def test_checkpoint_gives_the_same_metrics_again(self, trained, workspace):
        again = forked_anomalib(
            *("test", *trained.arguments, *NO_PICTURES, "--ckpt_path", trained.checkpoint), folder=workspace
        )
        assert again.metrics == pytest.approx(trained.run.metrics, abs=1e-6)

    def test_learned_weights_are_validated_and_tested_without_training(self, trained, workspace):
        run = forked_anomalib(
            *("train", *trained.arguments, *NO_PICTURES, "--model.weights", trained.weights), folder=workspace
        )
        assert "train_loss" not in run.text
        for name in ("image_AUROC", "pixel_AUROC"):
            assert run.metrics[name] == pytest.approx(trained.run.metrics[name], abs=1e-3)

    def test_predict_on_a_folder_of_ones_own(self, trained, photos, tmp_path):
        model = ("--model", trained.model, "--model.backbone", "toy", "--model.weights", trained.weights)
        run = forked_anomalib("predict", *model, "--data", photos, folder=tmp_path)
        heatmaps = {path.stem for path in tmp_path.glob(f"results/{trained.model}/latest/images/**/*.*")}
        assert heatmaps == {"rgb", "grey", "rgba", "photo", "deep"}, run.text

    def test_predict_with_a_few_good_parts(self, trained, workspace, tmp_path):
        model = ("--model", trained.model, "--model.backbone", "toy", "--model.weights", trained.weights)
        record = predict_with_a_few_good_parts(*model, tiles=workspace / "datasets" / "ToyAD" / "tile", folder=tmp_path)
        assert record.thresholds["fitted_on"] is not None  # the weights'

    def test_export_to_torch(self, trained, photos, tmp_path, monkeypatch):
        forked_anomalib(
            *("export", *trained.model_arguments, "--model.backbone", "toy", "--export_type", "torch"),
            *("--ckpt_path", trained.checkpoint, "--export_root", tmp_path),
            folder=tmp_path,
        )
        monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
        inferencer = TorchInferencer(tmp_path / "weights" / "torch" / "model.pt", device="cpu")
        prediction = inferencer.predict(photos / "rgb.png")
        assert prediction.anomaly_map.shape[-2:] == (96, 96)
        assert 0 <= float(prediction.pred_score) <= 1

    def test_a_finished_run_goes_on(self, trained, workspace):
        before = torch.load(trained.checkpoint, weights_only=True)
        folder, epochs = workspace / "resumed", before["epoch"] + 2  # one more; they count from 0
        go_on = ("--ckpt_path", trained.checkpoint, "--default_root_dir", folder, "--trainer.max_epochs", epochs)
        short = ("--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "1")
        forked_anomalib("fit", *trained.arguments, *go_on, *short, folder=workspace)
        (resumed,) = (folder / trained.model).rglob("model.ckpt")
        after = torch.load(resumed, weights_only=True)
        assert after["epoch"] == epochs - 1
        assert after["global_step"] == before["global_step"] + 3
