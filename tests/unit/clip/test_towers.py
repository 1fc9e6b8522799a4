# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The towers against open_clip's own forward pass."""

import json

import open_clip
import pytest
import torch
from open_clip.factory import get_model_config
from open_clip.model import CLIP, resize_pos_embed

from anomalib_clipzoo.clip import Backbone
from anomalib_clipzoo.clip.backbone import _unplain_keys, read_config

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 48, "heads": 3, "layers": 2},
}
# Full-size towers take seconds and gigabytes each; what differs between the shipped configurations is shape, so each is
# run with its own heads, widths, patch and image size but only the first two blocks of either tower.
PLAIN = [name for name in open_clip.list_models() if not _unplain_keys(get_model_config(name))]


def shallow(name: str) -> dict:
    config = read_config(name)
    return {
        "embed_dim": config["embed_dim"],
        "vision_cfg": {**config["vision_cfg"], "layers": 2},
        "text_cfg": {**config["text_cfg"], "layers": 2, "vocab_size": 49408},
    }


def both(config: dict, tmp_path, *, quick_gelu: bool = False, **arguments) -> tuple[CLIP, Backbone]:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    backbone = Backbone(str(path), None, quick_gelu=quick_gelu, **arguments)
    clip = CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=quick_gelu).eval()
    weights = tmp_path / "weights.pt"
    torch.save(clip.state_dict(), weights)
    return clip, Backbone(str(path), weights, quick_gelu=quick_gelu, **arguments)


def test_there_are_plain_configurations():
    assert {"ViT-L-14-336", "ViT-B-16", "ViT-B-16-plus-240", "ViT-H-14", "ViT-B-32-quickgelu"} <= set(PLAIN)


@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16-plus-240", "ViT-L-14-336", "ViT-M-16-alt", "ViT-S-32"])
def test_towers_equal_open_clip(name, quick_gelu, tmp_path):
    clip, backbone = both(shallow(name), tmp_path, quick_gelu=quick_gelu)
    images = torch.randn(2, 3, *backbone.vision.image_size)
    texts = ["a photo of a damaged bottle.", "tile"]
    with torch.no_grad():
        expected, given = clip.encode_image(images), backbone.vision(images).image
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)
        expected, given = clip.encode_text(open_clip.tokenize(texts)), backbone.text(backbone.text.tokenize(texts))
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)
