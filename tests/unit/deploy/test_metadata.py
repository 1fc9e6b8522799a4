# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What exported files say of themselves, in each format, and what is said of damaged ones."""

import json
import zipfile

import pytest
import torch

from anomalib_clipzoo.anomaly.references import Reference
from anomalib_clipzoo.deploy.metadata import FORMAT, KEY, describe, licence_of, read_metadata, write_metadata
from anomalib_clipzoo.models.vcp_clip import VcpClip
from anomalib_clipzoo.models.win_clip_plus import WinClipPlus


def torch_file(folder):
    path = folder / "model.pt"
    torch.save({"model": torch.nn.Linear(2, 2)}, path)
    return path


def onnx_file(folder):
    import onnx

    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("input", "output")]
    node = onnx.helper.make_node("Identity", ["input"], ["output"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "graph", values[:1], values[1:]))
    onnx.helper.set_model_props(model, {"theirs": "kept"})
    onnx.save(model, path := folder / "model.onnx")
    return path


def openvino_file(folder):
    import openvino

    value = openvino.opset13.parameter([1], openvino.Type.f32)
    model = openvino.Model([openvino.opset13.relu(value)], [value])
    openvino.save_model(model, path := folder / "model.xml")
    return path


UNFITTED = {"origin": None, "post_processor": "ProbabilityPostProcessor"}
FILES = {"torch": torch_file, "onnx": onnx_file, "openvino": openvino_file}


@pytest.mark.parametrize("kind", FILES)
def test_what_is_written_is_read_and_can_be_replaced(kind, tmp_path):
    path = FILES[kind](tmp_path)
    with pytest.raises(ValueError, match="says nothing of itself"):
        read_metadata(path)
    said = {
        "format": FORMAT,
        "class_names": ['a "Schraube" <ä> & more'],
        "category": None,
        "thresholds": {"image": 0.1},
    }
    write_metadata(path, said)
    assert read_metadata(path) == said
    if kind != "torch":  # whose files are written anew
        write_metadata(path, {**said, "category": "screw"})
        assert read_metadata(path) == {**said, "category": "screw"}


def test_files_still_run(tmp_path):
    import onnx
    import openvino

    for make in FILES.values():
        write_metadata(make(tmp_path), {"format": FORMAT})
    assert torch.load(tmp_path / "model.pt", weights_only=False)["model"].weight.shape == (2, 2)
    assert {entry.key for entry in onnx.load(tmp_path / "model.onnx").metadata_props} == {"theirs", KEY}
    model = openvino.Core().read_model(tmp_path / "model.xml")
    assert json.loads(model.get_rt_info(KEY).astype(str)) == {"format": FORMAT}
    assert read_metadata(tmp_path / "model.bin") == {"format": FORMAT}


def test_reading_runs_no_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    torch.save({"model": Bomb()}, path := tmp_path / "model.pt")
    write_metadata(path, {"format": FORMAT})
    assert read_metadata(path) == {"format": FORMAT}


@pytest.mark.parametrize("name", ["model.pt", "model.onnx", "model.xml", "empty.pt", "empty.xml", "model.engine"])
def test_a_damaged_file_is_named(name, tmp_path):
    (path := tmp_path / name).write_bytes(b"" if name.startswith("empty") else b"no such format")
    with pytest.raises(ValueError, match=name):
        read_metadata(path)


def test_an_archive_of_nothing(tmp_path):
    with zipfile.ZipFile(path := tmp_path / "model.pt", "w"):
        pass
    with pytest.raises(ValueError, match="says nothing"):
        read_metadata(path)


def test_files_of_newer_versions_are_refused(tmp_path):
    write_metadata(path := onnx_file(tmp_path), {"format": FORMAT + 1, "version": "9.1"})
    with pytest.raises(ValueError, match=r"exported by anomalib-clipzoo 9\.1"):
        read_metadata(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no exported file"):
        read_metadata(tmp_path / "model.onnx")


def test_a_model_is_described():
    model = VcpClip(backbone="toy", image_size=[32, 48])
    model.category = "screw"
    model.post_processor._image_threshold.fill_(0.25)
    said = json.loads(json.dumps(describe(model, input_size=(64, 64), precision="fp16")))
    assert (said["model"], said["backbone"], said["category"]) == ("VcpClip", "toy", "screw")
    assert (said["image_size"], said["input"]["size"], said["precision"]) == ([32, 48], [64, 64], "fp16")
    assert said["outputs"] == ["pred_score", "anomaly_map", "pred_label", "pred_mask"]
    assert said["thresholds"] == {"image": 0.25, "pixel": 0.25, "normalized": 0.5, **UNFITTED}
    assert (said["class_names"], said["memory"]) == (None, None)
    assert VcpClip(**said["arguments"]).hparams["prompt_len"] == said["arguments"]["prompt_len"]


def test_class_names_and_references_are_described():
    model = WinClipPlus(backbone="toy", class_name="gear").eval()
    assert describe(model)["class_names"] == ["gear"]
    model.model.remember(model.pre_processor.transform(torch.rand(1, 3, 96, 96)), [Reference("cog", "1.png")])
    memory = describe(model)["memory"]
    assert (memory["images"], memory["categories"]) == (1, ["cog"])


def test_a_model_without_a_post_processor_has_scores_alone():
    said = describe(VcpClip(backbone="toy", post_processor=False))
    assert (said["thresholds"], said["outputs"]) == (None, ["pred_score", "anomaly_map"])


@pytest.mark.parametrize(
    ("clip", "licence"),
    [
        (("toy", None), "Apache-2.0"),
        (("ViT-L-14-336", "openai"), "MIT"),
        (("ViT-L-14", "metaclip_400m"), "CC-BY-NC-4.0"),
        (("ViT-L-14", "dfn2b"), None),
        (("ViT-L-14", "/somewhere/openai.pt"), None),
        (("ViT-L-14", None), None),
    ],
)
def test_licences(clip, licence):
    assert licence_of(*clip) == licence
