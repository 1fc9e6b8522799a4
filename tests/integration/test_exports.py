# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Every model's exported files, run by their runtimes, against the model itself.

anomalib exports to ONNX, and from there to OpenVINO, with the exporter on ``torch.export`` (``dynamo=True``), the only
one that it has left.
"""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from anomalib_clipzoo.anomaly.references import Reference
from anomalib_clipzoo.models.ada_clip import AdaClip
from anomalib_clipzoo.models.anomaly_clip import AnomalyClip
from anomalib_clipzoo.models.april_gan import AprilGan
from anomalib_clipzoo.models.crane import Crane
from anomalib_clipzoo.models.musc import MuSc
from anomalib_clipzoo.models.vcp_clip import VcpClip
from anomalib_clipzoo.models.win_clip_plus import WinClipPlus

pytestmark = pytest.mark.slow

SIZE = (64, 96)  # of the model's images in pixels; the toy's own is 96 x 96
MODELS = {
    "VcpClip": (VcpClip, {}),
    "VcpClip, few-shot": (VcpClip, {}),
    "AnomalyClip": (AnomalyClip, {"layers": [2, 4, 6]}),
    "AnomalyClip, few-shot": (AnomalyClip, {"layers": [2, 4, 6]}),
    "AdaClip": (AdaClip, {"class_name": "screw"}),
    "AdaClip, few-shot": (AdaClip, {"class_name": "screw"}),
    "AdaClip, static prompts": (AdaClip, {"class_name": "screw", "prompting_type": "S"}),
    "WinClipPlus": (WinClipPlus, {"class_name": "screw"}),
    "WinClipPlus, few-shot": (WinClipPlus, {"class_name": "screw", "mean": [0.5, 0.4, 0.6], "std": [0.5, 0.5, 0.3]}),
    "AprilGan": (AprilGan, {"class_name": "screw"}),
    "AprilGan, few-shot": (AprilGan, {"class_name": "screw", "reference_layers": [2, 5], "sigma": 2.0}),
    "Crane": (Crane, {"layers": [2, 6], "image_token_at_test": True}),
    "Crane, few-shot": (Crane, {"layers": [2, 6], "reference_layers": [2, 5]}),
    "MuSc, pool": (MuSc, {"distance_precision": "float16"}),
}
KEPT = {"few-shot": 2, "pool": 6}  # how many images a model keeps features of
ATOL = 2e-5


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    kind, arguments = MODELS[request.param]
    model = kind(backbone="toy", image_size=SIZE, **arguments).eval()
    model.has_learned = True
    for word, count in KEPT.items():
        if word in request.param:
            images = model.pre_processor.transform(photographs(count, SIZE, seed=5))
            model.model.remember(images, [Reference(None, f"{number}.png") for number in range(count)])
    return model


def photographs(count: int, size: tuple[int, int], seed: int = 1) -> torch.Tensor:
    """Return smooth pictures in 8-bit levels, as files hold them."""
    coarse = torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    smooth = functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 255


def check(run, model) -> None:
    """Compare the outputs of a runtime, by name, with the model's, for batches of several sizes."""
    for count in (1, 3):
        images = photographs(count, SIZE)
        given = {name: torch.as_tensor(value).float() for name, value in run(images).items() if value is not None}
        with torch.no_grad():
            expected = model(images)
        assert expected.anomaly_map.std() > 1e-3
        for name in ("pred_score", "anomaly_map"):
            torch.testing.assert_close(given[name], getattr(expected, name), atol=ATOL, rtol=0)


def test_torch(model, tmp_path):
    exported = torch.load(model.to_torch(tmp_path), weights_only=False)["model"].eval()
    check(lambda images: exported(images)._asdict(), model)


def test_onnx(model, tmp_path):
    import onnxruntime

    path = model.to_onnx(tmp_path, input_size=SIZE)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    check(lambda images: dict(zip(names, session.run(None, {"input": images.numpy()}), strict=True)), model)


def test_openvino(model, tmp_path):
    import openvino

    path: Path = model.to_openvino(tmp_path, input_size=SIZE)
    # Where the processor has bfloat16, OpenVINO takes it unless told otherwise.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [output.any_name for output in compiled.outputs]
    check(lambda images: {name: compiled(images.numpy())[name].copy() for name in names}, model)
