# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""A model scores the same from every file that holds it, whatever comes with an image, on any number of threads."""

from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from anomalib_clipzoo.anomaly.references import Reference
from anomalib_clipzoo.deploy.metadata import describe, read_metadata, write_metadata
from anomalib_clipzoo.deploy.scorer import load_scorer
from anomalib_clipzoo.models.vcp_clip import VcpClip
from anomalib_clipzoo.models.win_clip_plus import WinClipPlus
from anomalib_clipzoo.results.regions import find_regions

from .pictures import draw_pictures, to_batch

KINDS = (
    "safetensors",
    "ckpt",
    "pt",
    pytest.param("onnx", marks=pytest.mark.slow),
    pytest.param("xml", marks=pytest.mark.slow),
)


@pytest.fixture(scope="module")
def model() -> WinClipPlus:
    """WinClipPlus with references, thresholds of its own and another image size than the toy's."""
    model = WinClipPlus(backbone="toy", image_size=64, class_name="screw").eval()
    model.model.remember(
        model.pre_processor.transform(torch.from_numpy(to_batch(draw_pictures(2, seed=9)))),
        [Reference(None, "first.png"), Reference(None, "second.png")],
    )
    model.post_processor._image_threshold.fill_(0.4)
    model.post_processor._pixel_threshold.fill_(0.45)
    return model


@pytest.fixture(scope="module")
def write(model, tmp_path_factory):
    """Return what writes the model to a file of some kind, once."""
    folder, written = tmp_path_factory.mktemp("files"), {}

    def checkpoint() -> Path:
        content = {"state_dict": model.state_dict(), "pytorch-lightning_version": "2.0.0"}
        model.on_save_checkpoint(content)
        torch.save(content, folder / "model.ckpt")
        return folder / "model.ckpt"

    def describing(path: Path) -> Path:
        try:
            read_metadata(path)
        except ValueError:
            write_metadata(path, describe(model))
        return path

    writers = {
        "safetensors": lambda: model.save_weights(folder / "learned.safetensors"),
        "ckpt": checkpoint,
        "pt": lambda: describing(model.to_torch(folder)),
        "onnx": lambda: describing(model.to_onnx(folder)),
        "xml": lambda: describing(model.to_openvino(folder)),
    }

    def write_once(kind: str) -> Path:
        if kind not in written:
            written[kind] = Path(writers[kind]())
        return written[kind]

    return write_once


@pytest.fixture
def load(write, monkeypatch):
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    return lambda kind, **arguments: copy(load_once(write(kind), **arguments))


@cache
def load_once(path: Path, **arguments):
    return load_scorer(path, device="cpu", **arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_scores_as_the_model_does(kind, load, model):
    scorer, batch = load(kind), to_batch(draw_pictures(3, (120, 90)))
    scores = scorer(batch)
    with torch.no_grad():
        expected = model(torch.from_numpy(batch))
    assert np.ptp(scores.score) > 1e-3
    np.testing.assert_allclose(scores.score, expected.pred_score, atol=2e-5)
    np.testing.assert_allclose(scores.map, expected.anomaly_map.reshape(scores.map.shape), atol=1e-4)
    np.testing.assert_array_equal(scores.label, expected.pred_label.flatten())
    assert scores.mask.dtype == bool
    assert scores.map.shape == (3, 64, 64)


@pytest.mark.parametrize("kind", ["safetensors", *KINDS[3:]])
def test_threads_get_their_own_answers(kind, load):
    scorer = load(kind)
    batches = [to_batch(draw_pictures(1 + seed % 3, seed=seed)) for seed in range(4)]
    alone = [scorer(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(scorer, batches * 2))
    for expected, given in zip(alone * 2, together, strict=True):
        np.testing.assert_allclose(given.score, expected.score, atol=1e-6)
        np.testing.assert_allclose(given.map, expected.map, atol=1e-5)


def test_the_file_says_what_it_is(load):
    scorer = load("safetensors")
    assert (scorer.model, scorer.class_name, scorer.image_size) == ("WinClipPlus", "screw", (64, 64))
    assert (scorer.threshold, scorer.thresholds.raw_image) == (0.5, pytest.approx(0.4))


def test_thresholds_may_be_changed_while_it_runs(load):
    scorer, batch = load("safetensors"), to_batch(draw_pictures(4))
    score = scorer(batch).score
    scorer.threshold = float(np.sort(score)[1])
    scorer.pixel_threshold = 0.25
    changed = scorer(batch)
    assert sorted(changed.label) == [False, False, True, True]
    np.testing.assert_array_equal(changed.mask, changed.map > 0.25)
    with pytest.raises(ValueError, match=r"number in 0..1, not 50"):
        scorer.threshold = 50


def test_pictures_of_any_size_score_as_if_they_were_alone(load):
    scorer = load("safetensors")
    pictures = [draw_pictures(1, size, seed)[0] for seed, size in enumerate([(96, 96), (200, 50), (31, 77), (96, 96)])]
    for picture, finding in zip(pictures, scorer.find(pictures), strict=True):
        alone = scorer(to_batch([picture]))
        assert finding.score == pytest.approx(float(alone.score[0]), abs=1e-6)
        assert finding.size == picture.size
        assert finding.regions == find_regions(alone.mask[0], picture.size)
        assert (finding.label == "anomalous") == (finding.score > 0.5)


def test_maps_come_in_the_size_of_the_images(load):
    scores = load("safetensors")(to_batch(draw_pictures(2, (120, 90))))
    own = scores.at_size(90, 120)
    assert own.map.shape == own.mask.shape == (2, 90, 120)
    assert own.mask.dtype == bool
    assert own.map.max() <= scores.map.max()
    assert own.mask.mean() == pytest.approx(scores.mask.mean(), abs=0.05)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((3, 8, 8)), "shape"),
        (np.zeros((1, 4, 8, 8)), "shape"),
        (np.zeros((0, 3, 8, 8)), "shape"),
        (np.full((1, 3, 8, 8), 255), "0..1"),
        (np.full((1, 3, 8, 8), np.nan), "0..1"),
    ],
    ids=["no batch", "four channels", "empty", "levels", "not numbers"],
)
def test_what_is_no_batch_of_images_is_refused(images, message, load):
    with pytest.raises(ValueError, match=message):
        load("safetensors")(images)


def test_files_that_run_code_are_refused_unless_trusted(write, monkeypatch):
    monkeypatch.delenv("TRUST_REMOTE_CODE", raising=False)
    with pytest.raises(ValueError, match=r"runs the code that the file holds.*TRUST_REMOTE_CODE=1"):
        load_scorer(write("pt"))


def test_foreign_and_broken_files_are_refused(write, tmp_path, monkeypatch):
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "foreign.pt")
    for name in ("broken.onnx", "broken.xml", "broken.bin", "broken.ckpt", "broken.pt", "model.txt"):
        (tmp_path / name).write_bytes(b"none of these")
    for name, message in {
        "foreign.ckpt": "was not written by anomalib-clipzoo",
        "foreign.pt": "says nothing of itself",
        "broken.onnx": "is damaged",
        "broken.xml": "is damaged",
        "broken.ckpt": "broken.ckpt",
        "broken.pt": "is damaged",
        "model.txt": "none of the files",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_scorer(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no file"):
        load_scorer(tmp_path / "missing.ckpt")


def test_what_a_model_cannot_do_without_is_asked_for(write, monkeypatch):
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    with pytest.raises(ValueError, match="VcpClip has to learn first"):
        load_scorer(model="VcpClip", backbone="toy")
    with pytest.raises(ValueError, match="no model 'Vcp'; there are AdaClip"):
        load_scorer(model="Vcp")
    with pytest.raises(ValueError, match="needs reference images"):
        load_scorer(model="WinClipPlus", backbone="toy", k_shot=2)
    with pytest.raises(ValueError, match="pool_source"):
        load_scorer(model="MuSc", backbone="toy")
    with pytest.raises(ValueError, match="is exported: class_name cannot be changed"):
        load_scorer(write("pt"), class_name="gear")


def test_arguments_take_the_place_of_recorded_ones(load):
    scorer = load("safetensors", class_name="gear")
    assert scorer.class_name == "gear"


def test_models_that_learn_bring_all_that_they_need(tmp_path):
    model = VcpClip(backbone="toy", image_size=64).eval()
    model.category = "gear"
    scorer = load_scorer(model.save_weights(tmp_path / "learned.safetensors"), device="cpu")
    batch = to_batch(draw_pictures(2))
    with torch.no_grad():
        expected = model(torch.from_numpy(batch))
    np.testing.assert_allclose(scorer(batch).score, expected.pred_score, atol=1e-6)
