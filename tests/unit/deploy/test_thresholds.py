# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds of exported files are changed in the file, and 0.5 decides again."""

import json

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from anomalib.data import InferenceBatch
from anomalib.post_processing import PostProcessor
from torch import nn

from anomalib_clipzoo.command import main
from anomalib_clipzoo.deploy.metadata import FORMAT, describe_thresholds, read_metadata, write_metadata
from anomalib_clipzoo.deploy.thresholds import finish_onnx, finish_openvino, set_threshold
from anomalib_clipzoo.models.components.post_processor import ProbabilityPostProcessor

pytestmark = pytest.mark.slow

NAMES = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
IMAGES = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
FILES = ("model.onnx", "fp32.xml", "fp16.xml", "model.pt")


class Brightness(nn.Module):
    """A model that takes bright images for anomalous."""

    def __init__(self, image: float = 0.45, pixel: float = 0.45, **arguments) -> None:
        super().__init__()
        self.post_processor = ProbabilityPostProcessor(**arguments)
        self.post_processor._image_threshold.fill_(image)
        self.post_processor._pixel_threshold.fill_(pixel)

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        maps = images.mean(1)
        return self.post_processor(InferenceBatch(pred_score=maps.mean((1, 2)), anomaly_map=maps))


def facts(model, precision="fp32"):
    return {"format": FORMAT, "precision": precision, "thresholds": describe_thresholds(model.post_processor)}


def export_onnx(model, path, **options):
    shapes = ({0: torch.export.Dim("batch")},)
    arguments = {"dynamo": True, "dynamic_shapes": shapes, **options}
    torch.onnx.export(model, (IMAGES[:2],), str(path), input_names=["input"], output_names=NAMES, **arguments)
    finish_onnx(path, facts(model))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return the files of all formats, the same thresholds for images and pixels."""
    folder, model = tmp_path_factory.mktemp("exported"), Brightness().eval()
    export_onnx(model, folder / "model.onnx")
    for precision in ("fp32", "fp16"):
        path = folder / f"{precision}.xml"
        openvino.save_model(openvino.convert_model(folder / "model.onnx"), path, compress_to_fp16=precision == "fp16")
        finish_openvino(path, facts(model, precision))
    torch.save({"model": model}, folder / "model.pt")
    write_metadata(folder / "model.pt", facts(model))
    return folder


@pytest.fixture
def folder(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def run(path):
    """Return a file's outputs by name."""
    if path.suffix == ".onnx":
        return dict(
            zip(NAMES, onnxruntime.InferenceSession(path).run(list(NAMES), {"input": IMAGES.numpy()}), strict=True)
        )
    if path.suffix == ".xml":
        compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return {name: compiled(IMAGES.numpy())[name].copy() for name in NAMES}
    outputs = torch.load(path, weights_only=False)["model"](IMAGES)._asdict()
    return {name: outputs[name].numpy() for name in NAMES}


def check(path, image, pixel):
    found, expected = run(path), Brightness(image, pixel)(IMAGES)._asdict()
    for name in NAMES:
        np.testing.assert_allclose(found[name].astype(float), expected[name].numpy().astype(float), atol=1e-6)
    said = read_metadata(path)["thresholds"]
    assert (said["image"], said["pixel"]) == pytest.approx((image, pixel), abs=1e-6)


@pytest.mark.parametrize("name", FILES)
def test_both_thresholds_are_changed_each_for_itself(folder, name):
    check(folder / name, 0.45, 0.45)
    set_threshold(folder / name, 0.52, raw=True)
    check(folder / name, 0.52, 0.45)
    set_threshold(folder / name, 0.5, pixel=0.31, raw=True)
    check(folder / name, 0.5, 0.31)


@pytest.mark.parametrize("name", FILES)
def test_a_score_of_the_file_becomes_the_threshold(folder, name):
    scores = run(folder / name)["pred_score"]
    highest, second = sorted(scores)[:-3:-1]
    set_threshold(folder / name, float(highest + second) / 2, pixel=0.7)
    after = run(folder / name)
    assert (after["pred_score"] > 0.5).tolist() == after["pred_label"].tolist() == (scores == highest).tolist()
    assert np.argsort(after["pred_score"]).tolist() == np.argsort(scores).tolist()


def test_the_file_says_that_it_was_done_by_hand(folder):
    set_threshold(folder / "model.onnx", 0.6)
    said = read_metadata(folder / "model.onnx")["thresholds"]["origin"]
    assert said["method"] == "set by hand"


def test_the_command(folder, capsys):
    assert main(["set-threshold", str(folder / "fp32.bin"), "0.6", "--raw", "true", "--pixel", "0.2"]) == 0
    check(folder / "fp32.xml", 0.6, 0.2)
    assert main(["set-threshold", str(folder / "fp32.xml"), "1.5"]) == 1
    assert "in 0..1, not 1.5" in capsys.readouterr().err
    check(folder / "fp32.xml", 0.6, 0.2)


def test_a_file_that_runs_code_needs_trust(folder, monkeypatch):
    monkeypatch.delenv("TRUST_REMOTE_CODE")
    with pytest.raises(ValueError, match="TRUST_REMOTE_CODE"):
        set_threshold(folder / "model.pt", 0.6)


@pytest.mark.parametrize("options", [{"dynamic_shapes": None}, {"optimize": False}], ids=["batch of two", "as it is"])
def test_what_cannot_be_changed_is_refused(tmp_path, options):
    export_onnx(Brightness().eval(), path := tmp_path / "model.onnx", **options)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="exported with options"):
        set_threshold(path, 0.6)
    assert path.read_bytes() == before


def test_scores_that_are_not_bent_have_no_threshold_to_change(tmp_path):
    model = Brightness(enable_normalization=False)
    torch.save({"model": model}, path := tmp_path / "model.pt")
    write_metadata(path, json.loads(json.dumps(facts(model))))
    with pytest.raises(ValueError, match="not bent around thresholds"):
        set_threshold(path, 0.6)


def test_other_post_processors_are_exported_too(tmp_path):
    model = Brightness()
    model.post_processor = PostProcessor()
    export_onnx(model.eval(), path := tmp_path / "model.onnx")
    assert read_metadata(path)["thresholds"]["post_processor"] == "PostProcessor"
    with pytest.raises(ValueError, match="not bent around thresholds"):
        set_threshold(path, 0.6)
