# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Half precision through anomalib's engine: scores and maps in single precision, and no worse than in fp32.

On processors Lightning runs 16-mixed as bf16-mixed, and float16 takes several times as long as float32: few models are
judged in them here, all on a tiny CLIP in the unit tests.
"""

from functools import partial

import pytest
import torch
from anomalib.engine import Engine

import anomalib_clipzoo
from anomalib_clipzoo import CrossDataset, MultiCategory, ToyAD

pytestmark = pytest.mark.slow

LEARNED_ON = ["bottle", "coin", "grid", "washer"]
TESTED_ON = ["gear", "leather", "pill", "screw", "tile", "wood"]
TOLERANCE = 0.002
MODELS = {
    "VcpClip": {"lr": 5e-4, "temperature_lr": 0.0, "top_pixels": 10, "sigma": 3.0},
    "AnomalyClip": {"layers": [2]},
    "AdaClip": {"lr": 1e-3},
    "AprilGan": {},
    "Crane": {"layers": [2]},
    "MuSc": {},
    "WinClipPlus": {},
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")

    def some(categories):
        return MultiCategory(data=ToyAD(root=root), categories=categories)

    def make(tested_on=TESTED_ON):
        return CrossDataset(
            auxiliary=some(LEARNED_ON), target=some(tested_on), train_batch_size=16, eval_batch_size=32, num_workers=0
        )

    return make


def engine(folder, precision="32-true", **arguments) -> Engine:
    return Engine(
        accelerator="cpu",
        devices=1,
        precision=precision,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        **arguments,
    )


def test(model, data, folder, precision) -> dict[str, float]:
    outputs = []
    model.model.register_forward_hook(lambda *given: outputs.append(given[-1]))
    (metrics,) = engine(folder, precision).test(model, datamodule=data)
    for output in outputs:
        for values in (output.pred_score, output.anomaly_map):
            assert values.dtype is torch.float32
            assert values.isfinite().all()
    return {name: metrics[name] for name in ("image_AUROC", "pixel_AUROC")}


test.__test__ = False  # anomalib's word


@pytest.mark.parametrize("name", MODELS)
def test_half_precision_is_as_good(name, toy, tmp_path):
    model_class = getattr(anomalib_clipzoo, name)
    arguments = {"backbone": "toy", "visualizer": False, "predictions": False, **MODELS[name]}
    torch.manual_seed(0)
    if model_class.LEARNS:
        model = model_class(**arguments, feature_cache="memory")
        engine(tmp_path, max_epochs=1, limit_val_batches=0).fit(model, datamodule=toy())
        arguments["weights"] = model.save_weights(tmp_path / "learned.safetensors")
    data = partial(toy, TESTED_ON[:3]) if name in {"AdaClip", "MuSc", "WinClipPlus"} else toy  # they take long
    expected = test(model_class(**arguments), data(), tmp_path, "32-true")
    assert expected["pixel_AUROC"] != 0.5
    for precision in ("bf16-mixed", "bf16-true", *(["16-true"] if name == "AnomalyClip" else [])):
        got = test(model_class(**arguments), data(), tmp_path, precision)
        assert got == pytest.approx(expected, abs=TOLERANCE), precision


def test_nothing_is_learned_where_it_would_be_lost(toy, tmp_path):
    model = anomalib_clipzoo.VcpClip(backbone="toy", visualizer=False)
    with pytest.raises(ValueError, match="Nothing can be learned in 16-true"):
        engine(tmp_path, "16-true", max_steps=2).fit(model, datamodule=toy())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-mixed"])
def test_it_learns_in_half_precision(precision, toy, tmp_path):
    for name in ("VcpClip", "AnomalyClip", "AdaClip", "AprilGan", "Crane"):
        model = getattr(anomalib_clipzoo, name)(backbone="toy", visualizer=False, predictions=False, **MODELS[name])
        losses = []
        loss = model.loss if hasattr(model, "loss") else None
        if loss is not None:
            loss.register_forward_hook(lambda *given, losses=losses: losses.append(given[-1]))
        engine(tmp_path, precision, max_steps=2, limit_val_batches=0).fit(model, datamodule=toy())
        for value in losses:
            assert value.dtype is torch.float32
            assert value.isfinite()
        assert all(value.isfinite().all() for value in model.parameters() if value.requires_grad)
