# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Exported files as they are used: images from disk, of any size, in anomalib's inferencers, threads and commands."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
import torch
from anomalib.deploy import CompressionType, OpenVINOInferencer, TorchInferencer
from PIL import Image

from anomalib_clipzoo.command import main
from anomalib_clipzoo.deploy.metadata import read_metadata
from anomalib_clipzoo.deploy.runtimes import OnnxRuntime, OpenVinoRuntime
from anomalib_clipzoo.models.vcp_clip import VcpClip
from anomalib_clipzoo.models.win_clip_plus import WinClipPlus

pytestmark = pytest.mark.slow

SIZE = (32, 48)  # of the model's images in pixels
SIZES = ((32, 48), (24, 24), (90, 130), (61, 40))  # of images in files: the model's own, smaller, larger, not square
F32 = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("deployed")


@pytest.fixture(scope="module")
def weights(folder):
    """Weights with thresholds, as a short training leaves them."""
    torch.manual_seed(0)
    model = VcpClip(backbone="toy", image_size=SIZE, top_pixels=10, sigma=2.0)
    model.post_processor._image_threshold.fill_(0.44)
    model.post_processor._pixel_threshold.fill_(0.47)
    return model.save_weights(folder / "learned.safetensors")


@pytest.fixture(scope="module")
def model(weights):
    return VcpClip(weights=weights).eval()


@pytest.fixture(scope="module")
def files(model, folder):
    """Files of all formats for images of any size; one graph is behind those of ONNX and OpenVINO."""
    onnx = model.to_onnx(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "to_onnx", lambda *_, **__: onnx, raising=False)
        openvino = model.to_openvino(folder)
        half = model.to_openvino(folder, "half", compression_type=CompressionType.FP16)
    return {"onnx": onnx, "openvino": openvino, "half": half, "torch": model.to_torch(folder)}


@pytest.fixture(scope="module")
def photographs(folder):
    """Folders of pictures of several sizes, some of them with a spot."""
    noise = np.random.default_rng(0)
    for index in range(12):
        height, width = SIZES[index % len(SIZES)]
        coarse = Image.fromarray(noise.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        picture = coarse.resize((width, height), Image.Resampling.BICUBIC)
        kind = "spot" if index % 3 == 0 else "good"
        if kind == "spot":
            picture.paste((255, 0, 0), (5, 5, 15, 12))
        path = folder / "photographs" / kind / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    return folder / "photographs"


@pytest.fixture
def trust(monkeypatch):
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")


@pytest.mark.parametrize("name", ["onnx", "openvino", "torch"])
def test_scores_are_those_of_pytorch_at_all_sizes(files, weights, photographs, capsys, trust, name):
    status = main(["check-export", str(files[name]), "--against", str(weights), "--data", str(photographs)])
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "labels changed                      0 of 12" in printed
    assert "within the tolerance" in printed


def test_what_differs_is_found(files, weights, photographs, folder, capsys):
    other = VcpClip(weights=weights)
    with torch.no_grad():
        for learned in (value for value in other.model.parameters() if value.requires_grad):
            learned.mul_(1.5)
    path = other.save_weights(folder / "other.safetensors")
    status = main(["check-export", str(files["onnx"]), "--against", str(path), "--data", str(photographs)])
    assert status == 1
    assert "BEYOND the tolerance" in capsys.readouterr().out


def test_half_precision_is_beyond_the_tolerance_of_full_and_within_its_own(files, weights, photographs, capsys):
    command = ["check-export", str(files["half"]), "--against", str(weights), "--data", str(photographs)]
    assert main([*command, "--tolerance", "1e-7"]) == 1
    assert main([*command, "--tolerance", "0.005"]) == 0
    assert "(fp16)" in capsys.readouterr().out


def test_other_thresholds_are_named(files, weights, photographs, folder, capsys):
    other = VcpClip(weights=weights)
    other.post_processor._image_threshold.fill_(0.6)
    path = other.save_weights(folder / "thresholds.safetensors")
    assert main(["check-export", str(files["onnx"]), "--against", str(path), "--data", str(photographs)]) == 1
    assert "set-threshold" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["onnx", "openvino", "half", "torch"])
def test_files_say_what_they_are(files, name):
    said = read_metadata(files[name])
    assert (said["model"], said["backbone"], said["learned_weights"]) == ("VcpClip", "toy", "learned.safetensors")
    assert said["precision"] == ("fp16" if name == "half" else "fp32")
    assert said["thresholds"]["image"] == pytest.approx(0.44)
    assert said["image_size"] == list(SIZE)


def test_thresholds_of_half_precision_are_whole(files, model):
    """Half precision would round 0.44 and 0.47, and change labels near them."""
    import openvino

    graph = openvino.Core().read_model(files["half"])
    (constant,) = (node for node in graph.get_ops() if node.get_friendly_name() == "thresholds")
    np.testing.assert_array_equal(constant.data, model.post_processor.middles.numpy())


def test_anomalibs_inferencers_read_every_file(files, model, photographs, trust, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # OpenVINO's inferencer leaves a cache
    path = photographs / "good" / "2.png"
    image = torch.from_numpy(np.asarray(Image.open(path)) / np.float32(255)).permute(2, 0, 1)[None]
    expected = model(image)
    inferencers = [OpenVINOInferencer(files[name], device="CPU", config=F32) for name in ("onnx", "openvino")]
    for inferencer in [*inferencers, TorchInferencer(files["torch"], device="cpu")]:
        prediction = inferencer.predict(path)
        assert np.asarray(prediction.pred_score).item() == pytest.approx(expected.pred_score.item(), abs=1e-4)
        assert bool(np.asarray(prediction.pred_label).item()) == expected.pred_label.item()
        difference = torch.as_tensor(prediction.anomaly_map).reshape(SIZE) - expected.anomaly_map[0]
        assert difference.abs().max() <= 1e-3


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "torch"])
def test_two_threads_get_right_answers(files, model, runtime):
    images = torch.rand(8, 1, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = [model(image).pred_score.item() for image in images]
    if runtime == "torch":
        score = lambda image: {"pred_score": model(torch.from_numpy(image)).pred_score.numpy()}  # noqa: E731
    else:
        score = {"onnx": OnnxRuntime, "openvino": OpenVinoRuntime}[runtime](files[runtime])
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda image: float(score(image)["pred_score"][0]), [*images.numpy()] * 3))
    assert found == pytest.approx(expected * 3, abs=1e-4)


def test_wrong_channels_are_the_runtimes_error(files):
    session = onnxruntime.InferenceSession(files["onnx"])
    with pytest.raises(Exception, match="index: 1 Got: 1 Expected: 3"):
        session.run(None, {"input": np.zeros((1, 1, *SIZE), np.float32)})
    with pytest.raises(Exception, match="Unexpected input data type"):
        session.run(None, {"input": np.zeros((1, 3, *SIZE), np.uint8)})


def test_what_has_not_learned_is_not_exported(tmp_path):
    for export in ("to_torch", "to_onnx", "to_openvino"):
        with pytest.raises(ValueError, match="has learned nothing yet"):
            getattr(VcpClip(backbone="toy"), export)(tmp_path)
    assert not list(tmp_path.rglob("*.*"))
    WinClipPlus(backbone="toy", class_name="gear").to_torch(tmp_path)
