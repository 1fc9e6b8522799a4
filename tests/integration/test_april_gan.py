# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AprilGan through the anomalib command, zero- and few-shot."""

import pytest
from safetensors import safe_open

from .commands import QuickstartCommands
from .conftest import NO_PICTURES, forked_anomalib

pytestmark = pytest.mark.slow


class TestQuickstart(QuickstartCommands):
    # Seeds come to 0.60 to 0.76 before learning, to 0.885 and more after; image scores are CLIP's own.
    model, floors = "AprilGan", {"pixel_AUROC": 0.85}


@pytest.fixture(scope="module")
def few_shot(train_quickstart, workspace):
    """The quickstart's weights, now with four references of each category that is tested."""
    trained = train_quickstart("AprilGan")
    arguments = (*trained.arguments, *NO_PICTURES, "--model.weights", trained.weights, "--model.k_shot", "4")
    return forked_anomalib("train", *arguments, "--default_root_dir", "results/few_shot", folder=workspace), arguments


def test_references_find_what_words_do_not(few_shot, train_quickstart):
    run, _ = few_shot
    assert run.metrics["pixel_AUROC"] >= train_quickstart("AprilGan").run.metrics["pixel_AUROC"] + 0.005


def test_references_stay(few_shot, workspace):
    run, arguments = few_shot
    (weights,) = (workspace / "results" / "few_shot").rglob("learned.safetensors")
    with safe_open(weights, "pt") as file:
        assert len(file.get_tensor("model.references.layer_2")) == 6 * 4
    given = (*arguments[:-4], "--model.weights", weights)
    again = forked_anomalib("test", *given, folder=workspace)
    for name in ("image_AUROC", "pixel_AUROC"):
        assert again.metrics[name] == pytest.approx(run.metrics[name], abs=1e-6)


def test_the_reference_codes_score(few_shot, workspace):
    run, arguments = few_shot
    scaled = forked_anomalib("test", *arguments, "--model.min_max", "true", folder=workspace)
    assert scaled.metrics["pixel_AUROC"] == pytest.approx(run.metrics["pixel_AUROC"], abs=1e-6)
    assert scaled.metrics["image_AUROC"] != pytest.approx(run.metrics["image_AUROC"], abs=1e-3)
