# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""From a name or a file to a frozen CLIP, and what is said when that fails."""

import json
import pickle

import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import nn

from anomalib_clipzoo.clip import Backbone, default_image_size, quarter_layers

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 4, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY))
    return str(path)


@pytest.fixture
def clip():
    torch.manual_seed(1)
    return CLIP(TINY["embed_dim"], TINY["vision_cfg"], TINY["text_cfg"])


class Holder(nn.Module):
    """A tree of parameters under given names, for TorchScript to save, as OpenAI's files are."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        children: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in state.items():
            head, _, rest = key.partition(".")
            if rest:
                children.setdefault(head, {})[rest] = value
            elif value.is_floating_point():
                self.register_parameter(head, nn.Parameter(value))
            else:
                self.register_buffer(head, value)
        for name, child in children.items():
            self.add_module(name, Holder(child))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def write(clip: CLIP, path) -> None:
    state = {key: value.contiguous() for key, value in clip.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif path.name == "openai.pt":
        extras = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(77)}
        half = {key: value.half() for key, value in state.items()}
        torch.jit.save(torch.jit.script(Holder({**half, **extras})), path)
    elif path.name == "training.bin":
        torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    else:
        torch.save(state, path)


@pytest.mark.parametrize("name", ["clip.safetensors", "openai.pt", "plain.pt", "training.bin"])
def test_weights_of_every_format(name, config, clip, tmp_path):
    write(clip, tmp_path / name)
    backbone = Backbone(config, tmp_path / name)
    atol = 1e-3 if name == "openai.pt" else 0  # OpenAI's files are in half precision
    torch.testing.assert_close(backbone.vision.projection, clip.visual.proj, atol=atol, rtol=0)
    torch.testing.assert_close(
        backbone.text.blocks[1].mlp.c_fc.weight, clip.transformer.resblocks[1].mlp.c_fc.weight, atol=atol, rtol=0
    )


def test_everything_is_frozen_and_stays_in_eval_mode(config):
    backbone = nn.Sequential(Backbone(config, None)).train()[0]
    assert not any(value.requires_grad for value in backbone.parameters())
    assert not any(module.training for module in backbone.modules())
    images = torch.randn(1, 3, 32, 32)
    assert not backbone.vision(images).image.requires_grad


def test_random_weights_are_the_same_everywhere_and_leave_the_callers_randomness_alone(config):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = Backbone(config, None)
    assert torch.equal(torch.rand(1), expected)
    assert first.fingerprint() == Backbone(config, None).fingerprint()


def test_fingerprint_tells_weights_apart_not_sizes(config, clip, tmp_path):
    write(clip, tmp_path / "clip.safetensors")
    other = Backbone(config, tmp_path / "clip.safetensors")
    assert other.fingerprint() != Backbone(config, None).fingerprint()
    assert other.fingerprint() == Backbone(config, tmp_path / "clip.safetensors", image_size=64).fingerprint()


def test_activation_is_set_explicitly(config):
    images = torch.randn(1, 3, 32, 32)
    exact, quick = (Backbone(config, None, quick_gelu=quick_gelu).vision(images).image for quick_gelu in (False, True))
    assert (exact - quick).abs().max() > 1e-4


def test_the_toy_needs_no_download():
    backbone = Backbone("toy", "openai")
    assert backbone.text.width == backbone.embed_dim
    assert 518 % backbone.vision.patch_size


def test_default_image_size(config):
    assert default_image_size("ViT-L-14-336", 518) == (518, 518)
    assert default_image_size("ViT-B-16-plus-240", None) == (240, 240)
    assert default_image_size("ViT-B-16", 518) == (224, 224)
    assert default_image_size(config, 518) == (32, 32)


def test_quarter_layers():
    assert quarter_layers(24) == (6, 12, 18, 24)
    assert quarter_layers(12) == (3, 6, 9, 12)
    assert quarter_layers(2) == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "ViT-L-15"}, ValueError, r"Unknown backbone 'ViT-L-15'.*ViT-B-16.*ViT-L-14-336"),
        ({"name": "RN50"}, ValueError, r"'RN50' has no plain ViT tower \(vision_cfg.layers \(a ResNet\)"),
        ({"name": "ViT-B-16-SigLIP"}, ValueError, r"no plain ViT tower.*timm_model_name"),
        ({"name": "coca_ViT-B-32"}, ValueError, r"no plain ViT tower.*multimodal_cfg"),
        ({"name": "nowhere.json"}, FileNotFoundError, "no backbone config at nowhere.json"),
        ({"name": "ViT-B-16", "pretrained": "opnai"}, ValueError, r"Unknown pretrained tag 'opnai'.*openai"),
        ({"pretrained": "nowhere.pt"}, FileNotFoundError, "no file of CLIP weights at nowhere.pt"),
        ({"image_size": 33}, ValueError, r"33x33 is not a multiple of.*patch size 8.*32x32"),
        ({"image_size": (32, 30)}, ValueError, r"32x30 is not a multiple.*32x32"),
    ],
)
def test_bad_input(arguments, error, message, config):
    with pytest.raises(error, match=message):
        Backbone(**{"name": config, "pretrained": None, **arguments})


def test_images_of_another_size(config):
    with pytest.raises(ValueError, match="images are 40x40 pixels, the model was made for 32x32"):
        Backbone(config, None).vision(torch.zeros(1, 3, 40, 40))


def test_layers_beyond_the_tower(config):
    with pytest.raises(ValueError, match=r"layers \[2, 5\].*from 1 to 4"):
        Backbone(config, None).vision.check_layers([5, 2])


def test_not_a_config(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('{"hidden_size": 3}')
    with pytest.raises(ValueError, match="not an open_clip config"):
        Backbone(str(path), None)


def test_offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError

    monkeypatch.setattr("open_clip.pretrained.download_pretrained", refuse)
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded.*ConnectionError.*pretrained=/path/to/file"):
        Backbone("ViT-B-32", "openai")


def test_weights_of_another_width(config, clip, tmp_path):
    write(clip, tmp_path / "clip.pt")
    wider = json.loads(json.dumps(TINY))
    wider["vision_cfg"]["width"] = 64
    path = tmp_path / "wider.json"
    path.write_text(json.dumps(wider))
    with pytest.raises(ValueError, match=r"clip.pt does not hold the weights.*\(32,\) instead of \(64,\)"):
        Backbone(str(path), tmp_path / "clip.pt")


class Evil:
    """Unpickling this writes a file."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("how", ["truncated", "truncated.safetensors", "text", "empty", "code", "raw_pickle"])
def test_files_that_are_no_weights(how, config, clip, tmp_path):
    path = tmp_path / (how if "." in how else f"{how}.pt")
    marker = tmp_path / "executed"
    if how.startswith("truncated"):
        write(clip, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif how == "text":
        path.write_text("no weights at all")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "code":
        torch.save({"weight": torch.zeros(1), "evil": Evil(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(Evil(marker)))
    with pytest.raises(ValueError, match=r"(cannot be read as weights|not a plain file of weights)"):
        Backbone(config, path)
    assert not marker.exists()
