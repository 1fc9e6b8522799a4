# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""CLIP's weights are read once for a model, however it is made; and again where what is at hand is not the same."""

import os

import pytest
import torch
from anomalib.engine import Engine
from safetensors.torch import load_file, save_file

from anomalib_clipzoo.anomaly.references import Reference
from anomalib_clipzoo.clip import backbone, config, files
from anomalib_clipzoo.models.vcp_clip import VcpClip
from anomalib_clipzoo.models.win_clip_plus import WinClipPlus
from tests.tiny import write_tiny_clip
from tests.unit.models.test_arguments import MODELS, checkpoint_of, predict
from tests.unit.models.test_feature_cache import data, parts  # noqa: F401  # a fixture

OTHER_SIZE = {"image_size": 48}


@pytest.fixture
def clip(tmp_path) -> dict:
    """Arguments that name a CLIP in a file."""
    name = write_tiny_clip(tmp_path)
    built = backbone._build_clip(config.read_config(name), quick_gelu=False)
    save_file({key: value * 1.5 for key, value in built.state_dict().items()}, tmp_path / "clip.safetensors")
    return {"backbone": name, "pretrained": str(tmp_path / "clip.safetensors")}


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Names of the files that were looked for or read for a CLIP."""
    names = []

    def count(function, place: int):
        return lambda *args: (names.append(f"{function.__name__} {args[place]}"), function(*args))[1]

    monkeypatch.setattr(backbone, "find_weights", count(backbone.find_weights, 1))
    monkeypatch.setattr(files, "read_state_dict", count(files.read_state_dict, 0))
    return names


def once(clip: dict) -> list[str]:
    return [f"{step} {clip['pretrained']}" for step in ("find_weights", "read_state_dict")]


def make(model_class, **arguments):
    return model_class(visualizer=False, **arguments).eval()


def load(model, checkpoint: dict):
    model.on_load_checkpoint(checkpoint)
    model.load_state_dict(checkpoint["state_dict"])
    return model


@pytest.mark.parametrize("model_class", MODELS, ids=lambda model: model.__name__)
def test_a_model_is_made_with_one_reading(model_class, clip, reads, tmp_path):
    made = make(model_class, **clip, **OTHER_SIZE)
    assert reads == once(clip)
    path, checkpoint = made.save_weights(tmp_path / "learned.safetensors"), checkpoint_of(made)
    torch.save(checkpoint | {"pytorch-lightning_version": "2.0.0"}, tmp_path / "model.ckpt")
    expected = predict(made)
    for remake in (
        lambda: make(model_class, weights=path),
        lambda: make(model_class, weights=tmp_path / "model.ckpt"),
        lambda: load(make(model_class, **clip), checkpoint),
        lambda: model_class.load_from_checkpoint(tmp_path / "model.ckpt", visualizer=False).eval(),
    ):
        reads.clear()
        assert torch.equal(predict(remake()), expected)
        assert reads == once(clip)


def test_references_in_the_file(clip, reads, tmp_path):
    made = make(WinClipPlus, **clip, **OTHER_SIZE)
    made.model.remember(torch.rand(2, 3, 48, 48), [Reference(None, f"{number}.png") for number in range(2)])
    path, checkpoint = made.save_weights(tmp_path / "learned.safetensors"), checkpoint_of(made)
    reads.clear()
    assert torch.equal(predict(make(WinClipPlus, weights=path)), predict(made))
    assert torch.equal(predict(load(make(WinClipPlus, **clip), checkpoint)), predict(made))
    assert reads == 2 * once(clip)


def test_training_and_the_test_after_it(clip, reads, parts, tmp_path):  # noqa: F811
    model, folder = make(VcpClip, **clip), data(parts)
    folder.val_data = folder.test_data
    Engine(default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, logger=False).train(model, datamodule=folder)
    assert reads == once(clip)


def as_half(model, clip) -> None:
    model.model.bfloat16().float()


def with_other_weights(model, clip) -> None:
    model.model.backbone.text.position.data += 1


def learning(model, clip) -> None:
    model.model.backbone.requires_grad_()


def written_anew(model, clip) -> None:
    save_file({key: value / 2 for key, value in load_file(clip["pretrained"]).items()}, clip["pretrained"])
    os.utime(clip["pretrained"], ns=(0, 0))


def with_another_activation(model, clip) -> None:
    clip["quick_gelu"] = True


def with_random_weights(model, clip) -> None:
    clip["pretrained"] = None


@pytest.mark.parametrize(
    "change", [as_half, with_other_weights, learning, written_anew, with_another_activation, with_random_weights]
)
def test_what_is_not_as_it_was_read_is_read_again(change, clip, tmp_path):
    weights = make(VcpClip, **clip).save_weights(tmp_path / "learned.safetensors")
    opened = make(VcpClip, weights=weights)  # backbone and file are not given, the checkpoint's take their place
    change(opened, clip)
    made = make(VcpClip, **clip, **OTHER_SIZE)
    load(opened, checkpoint_of(made))
    assert torch.equal(predict(opened), predict(made))
    for name, weight in made.model.backbone.named_parameters():
        assert torch.equal(opened.model.backbone.get_parameter(name), weight)
    assert not any(weight.requires_grad for weight in opened.model.backbone.parameters())


def test_the_model_before_keeps_its_own_size(clip):
    before = make(VcpClip, **clip)
    first, expected = before.model, predict(before)
    load(before, checkpoint_of(make(VcpClip, **clip, **OTHER_SIZE)))
    assert not torch.equal(predict(before), expected)
    assert first.backbone.vision.image_size == (32, 32)
    assert first.backbone.vision.position.shape != before.model.backbone.vision.position.shape
    assert first.backbone.vision.projection is before.model.backbone.vision.projection
