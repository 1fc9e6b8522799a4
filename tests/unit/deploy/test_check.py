# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""How an exported file is compared with the model, on runtimes that say what they are told to say."""

import math

import numpy as np
import pytest
from PIL import Image

from anomalib_clipzoo.command import main
from anomalib_clipzoo.deploy.check import Comparison, Side, compare, size_of

SCORES = [0.1, 0.4, 0.6, 0.9]
METADATA = {"model": "VcpClip", "precision": "fp32"}


class Saying:
    """A runtime that gives scores in their order, and maps of them."""

    def __init__(self, scores, image_size=None, maps=None):
        self.scores, self.maps, self.image_size, self.seen = list(scores), list(maps or scores), image_size, []

    def __call__(self, images):
        self.seen.append(images.shape)
        score, value = self.scores.pop(0), np.full((1, 2, 2), self.maps.pop(0), np.float32)
        return {
            "pred_score": np.array([score]),
            "pred_label": np.array([score > 0.5]),
            "anomaly_map": value,
            "pred_mask": value > 0.5,
        }


@pytest.fixture
def paths(tmp_path):
    paths = [tmp_path / kind / f"{index}.png" for index, kind in enumerate(["good", "good", "hole", "hole"])]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (6, 4), (255, 0, 0)).save(path)
    return paths


def test_the_same_is_within_the_tolerance(paths):
    found = compare(Saying(SCORES), Saying(SCORES), paths)
    assert (found.score_difference, found.map_difference, found.labels_changed, found.pixels_changed) == (0, 0, 0, 0)
    assert found.auroc(found.exported) == found.auroc(found.original) == 1
    assert found.within(0)


def test_the_largest_difference_and_every_changed_label_count(paths):
    found = compare(Saying([0.1, 0.5002, 0.4, 0.9]), Saying(SCORES), paths)
    assert found.score_difference == pytest.approx(0.2)
    assert (found.labels_changed, found.pixels_changed) == (2, 0.5)
    assert found.auroc(found.exported) == 0.75
    assert found.within(0.21)
    assert not found.within(0.19)


@pytest.mark.parametrize("values", [[math.nan, *SCORES[1:]], [*SCORES[:3], math.nan]], ids=["first", "last"])
def test_what_is_not_a_number_is_never_within(paths, values):
    assert not compare(Saying(values), Saying(SCORES), paths).within(1)
    assert not compare(Saying(SCORES, maps=values), Saying(SCORES), paths).within(1)


def test_maps_may_differ_ten_times_as_much(paths):
    maps = [value + 0.009 for value in SCORES]
    assert compare(Saying(SCORES, maps=maps), Saying(SCORES), paths).within(0.001)
    assert not compare(Saying(SCORES, maps=maps), Saying(SCORES), paths).within(0.0008)


def test_both_get_images_in_the_size_that_the_file_takes(paths):
    exported, original = Saying(SCORES, image_size=(8, 10)), Saying(SCORES)
    compare(exported, original, paths)
    assert exported.seen == original.seen == [(1, 3, 8, 10)] * 4
    exported, original = Saying(SCORES), Saying(SCORES)
    compare(exported, original, paths)
    assert exported.seen == original.seen == [(1, 3, 4, 6)] * 4


def test_the_table(paths, tmp_path):
    (file := tmp_path / "model.onnx").write_bytes(bytes(1_000_000))
    (tmp_path / "model.onnx.data").write_bytes(bytes(2_000_000))
    assert size_of(file) == 3_000_000
    lines = compare(Saying(SCORES), Saying([0.1, 0.4, 0.3, 0.9]), paths).table(file, METADATA, 1e-4)
    text = "\n".join(lines)
    assert "VcpClip (fp32) on 4 images" in text
    assert "3.0" in text
    assert "1.0000      0.7500" in text
    assert "labels changed                      1 of 4" in text
    assert lines[-1] == "BEYOND the tolerance"


def test_without_folders_of_good_images_auroc_is_not_known(tmp_path):
    found = Comparison([tmp_path / "a.png", tmp_path / "b.png"], Side([0.1, 0.2]), Side([0.1, 0.2]))
    assert found.auroc(found.exported) is None


def test_data_has_to_be_given(tmp_path, capsys):
    assert main(["check-export", str(tmp_path / "model.onnx")]) == 1
    assert "--data" in capsys.readouterr().err
    assert main(["check-export", str(tmp_path / "model.onnx"), "--data", str(tmp_path)]) == 1
    assert "no exported file" in capsys.readouterr().err
