# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""JSON files of backbones: what cannot be built is refused with the file's name, before anything is built."""

import json
from copy import deepcopy

import open_clip
import pytest
from open_clip.factory import get_model_config

from anomalib_clipzoo.clip import Backbone
from anomalib_clipzoo.clip.config import PREPROCESSING, TEXT, TOP, VISION, read_config, unplain_keys
from tests.tiny import TINY_CLIP

HUGE = 10**12
NONSENSE = [-1, 0, 1.5, HUGE, float("nan"), float("inf"), True, None, "", "12", [], [8], [8, -8], [[8]], {"a": 1}]
PARTS = {"vision_cfg": VISION, "text_cfg": TEXT, "preprocess_cfg": PREPROCESSING}
SENSE = {("mlp_ratio", 1.5), ("ls_init_value", 0), ("ls_init_value", None)}


def test_all_plain_towers_of_open_clip_pass():
    plain = [name for name in open_clip.list_models() if not unplain_keys(get_model_config(name))]
    assert len(plain) > 20
    assert all(read_config(name) for name in plain)


def write(folder, content) -> str:
    path = folder / "own.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.mark.parametrize("part", ["", *PARTS])
def test_numbers_that_make_no_sense(part, tmp_path):
    for key in PARTS.get(part, TOP):
        for value in NONSENSE:
            config = deepcopy({**TINY_CLIP, "preprocess_cfg": {}})
            (config[part] if part else config)[key] = value
            if (key, value) in SENSE if not isinstance(value, (list, dict)) else False:
                read_config(write(tmp_path, config))
                continue
            with pytest.raises(ValueError, match=rf"own\.json.*{key}"):
                read_config(write(tmp_path, config))


@pytest.mark.parametrize("part", [*PARTS, "model_cfg"])
@pytest.mark.parametrize("value", [None, 3, "words", [1, 2]], ids=str)
def test_parts_that_are_no_tables(part, value, tmp_path):
    with pytest.raises(ValueError, match=r"own\.json"):
        read_config(write(tmp_path, {**TINY_CLIP, part: value}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_cfg": {"head_width": 24}}, "width 32 is no multiple of its head_width"),
        ({"text_cfg": {"heads": 3}}, "width 32 is no multiple of its number of heads"),
        ({"vision_cfg": {"patch_size": 64}}, "an image has 0 patches"),
        ({"vision_cfg": {"image_size": 16000, "patch_size": 2}}, "an image has 64000000 patches"),
        ({"vision_cfg": {"width": 16384, "layers": 200}}, "parameters, more than"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_numbers_that_do_not_go_together(changes, message, tmp_path):
    config = {**TINY_CLIP, **{part: {**TINY_CLIP[part], **values} for part, values in changes.items()}}
    with pytest.raises(ValueError, match=rf"own\.json.*{message}"):
        read_config(write(tmp_path, config))


@pytest.mark.parametrize(
    "content",
    ["", "{", "null", "3", '"words"', "[1, 2]", "[" * 10**5, " " * 2**21, json.dumps(TINY_CLIP)[:-20], "\x00\x01"],
    ids=["empty", "open", "null", "number", "words", "list", "deep", "large", "cut", "bytes"],
)
def test_damaged_files(content, tmp_path):
    with pytest.raises(ValueError, match=r"own\.json is not an open_clip config"):
        read_config(write(tmp_path, content))


def test_bytes_of_no_encoding(tmp_path):
    (tmp_path / "own.json").write_bytes(b"\xff\xfe\x80" * 40)
    with pytest.raises(ValueError, match=r"own\.json is not an open_clip config"):
        read_config(str(tmp_path / "own.json"))


def test_all_that_a_file_may_say(tmp_path):
    vision = {**TINY_CLIP["vision_cfg"], "image_size": [32, 48], "mlp_ratio": 2, "ls_init_value": None}
    backbone = Backbone(write(tmp_path, {**TINY_CLIP, "vision_cfg": vision}), None)
    assert backbone.vision.image_size == (32, 48)
    assert backbone.vision.blocks[0].mlp.c_fc.weight.shape == (64, 32)
