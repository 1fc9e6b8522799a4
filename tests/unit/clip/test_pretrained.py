# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What is taken from open_clip's configurations of pretrained tags."""

import json

import pytest
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from anomalib_clipzoo.clip import Backbone, config, pretrained
from anomalib_clipzoo.clip.pretrained import pixel_statistics, trained_with_quick_gelu
from tests.tiny import TINY_CLIP, write_tiny_clip

OPENAI = (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("name", "tag", "statistics"),
    [
        ("ViT-L-14-336", "openai", OPENAI),
        ("ViT-L-14", "laion2b_s32b_b82k", HALF),
        ("ViT-B-16-plus-240", "laion400m_e32", OPENAI),
        ("ViT-L-14", "/some/file.pt", OPENAI),
        ("ViT-L-14", None, OPENAI),
        ("toy", "openai", OPENAI),
    ],
)
def test_mean_and_standard_deviation(name, tag, statistics):
    assert pixel_statistics(name, tag, {}) == statistics


@pytest.fixture
def with_tag(tmp_path, monkeypatch):
    """A tag whose configuration says less, or other, than those of today's open_clip."""

    def make(**says):
        from safetensors.torch import save_file

        from anomalib_clipzoo.clip.backbone import _build_clip

        name = write_tiny_clip(tmp_path)
        save_file(_build_clip(config.read_config(name), quick_gelu=False).state_dict(), tmp_path / "clip.safetensors")
        monkeypatch.setattr("open_clip.pretrained.get_pretrained_cfg", lambda *_: {"url": "somewhere", **says})
        monkeypatch.setattr("open_clip.pretrained.download_pretrained", lambda _: str(tmp_path / "clip.safetensors"))
        return name

    return make


def test_backbone_takes_the_tags_values_unless_others_are_given(with_tag):
    name = with_tag(mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
    backbone = Backbone(name, "own")
    assert (backbone.mean, backbone.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    backbone = Backbone(name, "own", std=[0.5, 0.5, 0.5])
    assert (backbone.mean, backbone.std) == ((0.5, 0.4, 0.3), (0.5, 0.5, 0.5))


def test_a_tag_that_says_nothing_has_openais_values(with_tag):
    backbone = Backbone(with_tag(), "own")
    assert (backbone.mean, backbone.std) == OPENAI
    assert backbone.trained_with_quick_gelu is None


def test_a_hubs_config_has_values_of_its_own(tmp_path):
    path = tmp_path / "open_clip_config.json"
    preprocessing = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"}
    path.write_text(json.dumps({"model_cfg": TINY_CLIP, "preprocess_cfg": preprocessing}))
    backbone = Backbone(str(path), None)
    assert (backbone.mean, backbone.std) == HALF


@pytest.mark.parametrize(
    ("name", "tag", "quick_gelu"),
    [
        ("ViT-L-14-336", "openai", True),
        ("ViT-B-32-quickgelu", "openai", True),
        ("ViT-B-16-plus-240", "laion400m_e32", False),
        ("ViT-L-14", "/some/file.pt", None),
        ("ViT-L-14", None, None),
        ("toy", "openai", None),
    ],
)
def test_activation_in_training(name, tag, quick_gelu):
    says = "quick_gelu" in pretrained.tag_config("ViT-B-32", "openai")
    expected = quick_gelu if says or quick_gelu else None  # open_clip 2 does not tell what was trained with GELU
    assert trained_with_quick_gelu(name, tag, config.read_config(name)) is expected
