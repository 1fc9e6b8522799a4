# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds from other data must decide, and must not blur the ranking."""

import math
import pickle
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.data import Folder, InferenceBatch, PredictDataset
from anomalib.engine import Engine
from anomalib.models import AnomalibModule
from anomalib.post_processing import PostProcessor
from PIL import Image

from anomalib_clipzoo.models.components.post_processor import ProbabilityPostProcessor


def bend(scores: torch.Tensor, threshold: float) -> torch.Tensor:
    nan = torch.tensor(float("nan"))
    return ProbabilityPostProcessor._normalize(scores, nan, nan, torch.tensor(threshold))


def test_the_threshold_comes_to_one_half_and_the_ranking_stays():
    scores = torch.linspace(0, 1, 1001)
    for threshold in (0.05, 0.5, 0.93):
        bent = bend(scores, threshold)
        assert (bent.diff() > 0).all()
        assert bent[0] == 0
        assert bent[-1] == 1
        assert torch.equal(bent > 0.5, scores > threshold)
        torch.testing.assert_close(bend(torch.tensor([threshold]), threshold), torch.tensor([0.5]))


def test_without_a_threshold_scores_stay_as_they_are():
    scores = torch.linspace(0, 1, 11)
    torch.testing.assert_close(bend(scores, float("nan")), scores)


def test_extreme_thresholds_stay_finite():
    scores = torch.linspace(0, 1, 11)
    for threshold in (0.0, 1.0):
        bent = bend(scores, threshold)
        assert bent.isfinite().all()
        assert 0 <= bent.min() <= bent.max() <= 1


# ---- thresholds that keep a false alarm rate ----


class Brightness(AnomalibModule):
    """The mean brightness is the score."""

    def __init__(self, rate=None, scale=1.0, **arguments) -> None:
        processor = arguments.pop("post_processor", None) or ProbabilityPostProcessor(false_alarm_rate=rate)
        super().__init__(post_processor=processor, pre_processor=False, evaluator=False, visualizer=False)
        self.model = torch.nn.Identity()
        self.scale = scale
        self.batches = 0

    def test_step(self, batch, *args, **kwargs):
        self.batches += 1
        maps = batch.image.mean(1) * self.scale
        return batch.update(**InferenceBatch(pred_score=maps.mean((1, 2)), anomaly_map=maps)._asdict())

    validation_step = predict_step = test_step

    def val_dataloader(self):
        return []  # as this package's models: prediction needs no validation data

    @property
    def trainer_arguments(self):
        return {"num_sanity_val_steps": 0}

    @property
    def learning_type(self):
        return LearningType.ZERO_SHOT


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Forty good parts, of any brightness up to a half, and four bright ones."""
    folder = tmp_path_factory.mktemp("parts")
    noise = np.random.default_rng(0)
    for kind, count in (("good", 40), ("bad", 4)):
        for number in range(count):
            top = 0.5 * noise.random() if kind == "good" else 0.9
            pixels = (255 * top * noise.random((8, 8))).astype(np.uint8)
            path = folder / kind / f"{number:02}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).convert("RGB").save(path)
    return folder


def parts(root: Path, *bad: Path, **arguments) -> Folder:
    """Good images, of which some are for validation and some for testing, and bad ones to test where given."""
    return Folder("parts", root / "good", abnormal_dir=list(bad) or None, num_workers=0, **arguments)


def engine_in(folder: Path) -> Engine:
    quiet = {"logger": False, "enable_progress_bar": False}
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, **quiet)


def brightness(image_paths) -> list[float]:
    return [float(np.asarray(Image.open(path)).astype(np.float32).mean() / 255) for path in image_paths]


@pytest.fixture
def datamodule(root) -> Folder:
    """Nothing but good images: 8 to test, 25 to validate on, and the rest."""
    datamodule = parts(root, val_split_mode="from_train", val_split_ratio=0.8)
    datamodule.setup()
    return datamodule


@pytest.fixture
def both(root) -> Folder:
    """Good and bad images to validate on."""
    return parts(root, root / "bad", val_split_mode="same_as_test", test_split_ratio=0.5)


def test_good_images_alone_give_the_threshold(datamodule, root, tmp_path, caplog):
    model = Brightness(rate=0.1)
    engine_in(tmp_path).validate(model, datamodule=datamodule)
    scores = sorted(brightness(datamodule.val_data.samples.image_path))
    assert float(model.post_processor.image_threshold) == pytest.approx(
        scores[math.ceil((len(scores) + 1) * 0.9) - 1], abs=1e-6
    )
    assert "does not contain any anomalous images" not in caplog.text
    assert 0 < float(model.post_processor.pixel_threshold) < 1
    predictions = engine_in(tmp_path).predict(model, data_path=root / "bad")
    assert all(bool(batch.pred_label.all()) for batch in predictions)
    predictions = engine_in(tmp_path).predict(model, data_path=root / "good")
    paths = [path for batch in predictions for path in batch.image_path]
    labels = [bool(label) for batch in predictions for label in batch.pred_label]
    assert labels == [score > float(model.post_processor.image_threshold) + 1e-7 for score in brightness(paths)]


def test_what_the_threshold_comes_from_is_kept(datamodule, tmp_path):
    model = Brightness(rate=0.1)
    assert model.post_processor.provenance is None
    engine = engine_in(tmp_path)
    engine.validate(model, datamodule=datamodule)
    origin = model.post_processor.provenance
    assert origin == {
        "method": "false alarm rate",
        "false_alarm_rate": 0.1,
        "normal_images": len(datamodule.val_data),
        "anomalous_images": 0,
        "categories": ["parts"],
        "date": origin["date"],
    }
    assert datetime.fromisoformat(origin["date"]).tzinfo
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = Brightness.load_from_checkpoint(tmp_path / "model.ckpt")
    assert again.post_processor.provenance == origin
    assert again.post_processor.false_alarm_rate == 0.1
    assert again.post_processor.image_threshold == model.post_processor.image_threshold
    copied = pickle.loads(pickle.dumps(model.post_processor))
    assert copied.provenance == origin
    engine_in(tmp_path).predict(
        again, dataset=PredictDataset(Path(datamodule.val_data.samples.image_path.iloc[0]).parent)
    )


def test_a_later_validation_replaces_it(datamodule, both, tmp_path):
    model = Brightness(rate=0.1)
    engine_in(tmp_path).validate(model, datamodule=datamodule)
    first = model.post_processor.provenance
    model.post_processor = ProbabilityPostProcessor()
    engine_in(tmp_path).validate(model, datamodule=both)
    second = model.post_processor.provenance
    assert (second["method"], second["false_alarm_rate"], second["anomalous_images"]) == ("best F1 score", None, 4)
    assert second["normal_images"] != first["normal_images"]


def test_anomalous_validation_images_are_left_aside(both, tmp_path):
    model = Brightness(rate=0.1)
    engine_in(tmp_path).validate(model, datamodule=both)
    samples = both.val_data.samples
    scores = sorted(brightness(samples[samples.label_index == 0].image_path))
    expected = scores[math.ceil((len(scores) + 1) * 0.9) - 1]
    assert float(model.post_processor.image_threshold) == pytest.approx(expected, abs=1e-6)
    assert model.post_processor.provenance["anomalous_images"] == 0


def test_too_few_images_are_told_before_any_work(datamodule, tmp_path):
    model = Brightness(rate=0.001)
    with pytest.raises(ValueError, match=r"needs at least 999 normal validation images, and there are \d+"):
        engine_in(tmp_path).validate(model, datamodule=datamodule)
    assert model.batches == 0


def test_validation_without_normal_images_is_told_before_any_work(root, tmp_path):
    bad = parts(root, root / "bad", test_split_mode="none", val_split_mode="same_as_test")
    model = Brightness(rate=0.1)
    with pytest.raises(ValueError, match="needs at least 9 normal validation images, and there are 0"):
        engine_in(tmp_path).validate(model, datamodule=bad)
    assert model.batches == 0


def test_dataloaders_whose_labels_are_only_seen_as_they_come(datamodule, tmp_path):
    model = Brightness(rate=0.001)
    with pytest.raises(ValueError, match="needs at least 999 normal"):
        engine_in(tmp_path).validate(model, dataloaders=datamodule.val_dataloader())
    assert model.post_processor.provenance is None


def test_a_rate_without_thresholds_for_it_does_not_predict(datamodule, root, tmp_path):
    model = Brightness(rate=0.1)
    dataset = PredictDataset(root / "bad")
    with pytest.raises(ValueError, match=r"false alarm rate of 0\.1 needs thresholds .* found: none"):
        engine_in(tmp_path).predict(model, dataset=dataset)
    engine = engine_in(tmp_path)
    engine.validate(model, datamodule=datamodule)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    other = Brightness(rate=0.2)
    other.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match=r"false alarm rate of 0\.2 needs thresholds .* found: 0\.1"):
        engine_in(tmp_path).predict(other, dataset=dataset)


def test_a_rate_that_is_given_counts_more_than_a_checkpoints(datamodule, tmp_path):
    engine = engine_in(tmp_path)
    engine.validate(Brightness(rate=0.1), datamodule=datamodule)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    given = Brightness.load_from_checkpoint(tmp_path / "model.ckpt", rate=0.2)
    assert given.post_processor.false_alarm_rate == 0.2
    engine_in(tmp_path).test(given, datamodule=datamodule)  # validates first, and so fits them anew
    assert given.post_processor.provenance["false_alarm_rate"] == 0.2


def test_not_a_number_names_the_image(datamodule, tmp_path):
    for rate in (None, 0.1):
        with pytest.raises(ValueError, match=r"score of .*\d\d\.png is not a number"):
            engine_in(tmp_path).validate(Brightness(rate=rate, scale=float("nan")), datamodule=datamodule)


@pytest.mark.parametrize("rate", [0, 1, -0.5, 2, float("nan")])
def test_a_rate_outside_0_and_1_is_refused(rate):
    with pytest.raises(ValueError, match="false_alarm_rate is a share of normal images"):
        ProbabilityPostProcessor(false_alarm_rate=rate)


@pytest.mark.parametrize(
    "arguments",
    [
        {"image_sensitivity": 0.4},
        {"pixel_sensitivity": 0.6},
        {"image_sensitivity": 0.4, "pixel_sensitivity": 0.4},
        {"enable_normalization": False},
        {"enable_thresholding": False},
    ],
)
def test_arguments_that_would_move_the_threshold_are_refused(arguments):
    ProbabilityPostProcessor(**arguments)
    with pytest.raises(ValueError, match="kept only with"):
        ProbabilityPostProcessor(false_alarm_rate=0.1, **arguments)


def test_weights_bring_the_rate_with_the_threshold(datamodule, tmp_path):
    model, again = Brightness(rate=0.1), Brightness()
    engine_in(tmp_path).validate(model, datamodule=datamodule)
    again.load_state_dict(model.state_dict())
    assert again.post_processor.false_alarm_rate == 0.1
    engine_in(tmp_path).test(again, datamodule=datamodule)  # validates first
    assert again.post_processor.provenance["false_alarm_rate"] == 0.1
    assert again.post_processor.image_threshold == model.post_processor.image_threshold


def test_a_state_from_before_is_read():
    state = ProbabilityPostProcessor().state_dict()
    state.pop("_provenance")
    state["_image_threshold"] = torch.tensor(0.3)
    processor = ProbabilityPostProcessor()
    processor.load_state_dict(state)
    assert float(processor.image_threshold) == pytest.approx(0.3)
    assert processor.provenance is None


def test_without_a_rate_thresholds_are_anomalibs(both, tmp_path):
    ours, theirs = Brightness(), Brightness(post_processor=PostProcessor())
    for model in (ours, theirs):
        engine_in(tmp_path).validate(model, datamodule=both)
    assert ours.post_processor.image_threshold == theirs.post_processor.image_threshold
    assert ours.post_processor.pixel_threshold == theirs.post_processor.pixel_threshold  # no masks: the image's
    assert ours.post_processor.image_min == theirs.post_processor.image_min
