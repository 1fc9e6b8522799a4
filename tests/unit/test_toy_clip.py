# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, tokenize
from open_clip.model import CLIP
from safetensors.torch import load_file

import anomalib_clipzoo
from anomalib_clipzoo.clip.files import load_clip_weights
from anomalib_clipzoo.data.drawing import DEFECTS, draw
from anomalib_clipzoo.data.toy import CATEGORIES, UNSEEN_CATEGORIES

ASSETS = Path(anomalib_clipzoo.__file__).parent / "assets"
WEIGHTS = ASSETS / "toy_clip.safetensors"


@pytest.fixture(scope="module")
def config() -> dict:
    return json.loads((ASSETS / "toy_clip.json").read_text())


@pytest.fixture(scope="module")
def clip(config: dict) -> CLIP:
    model = CLIP(**config).eval()
    load_clip_weights(model, "toy", WEIGHTS)
    return model


def test_it_is_small():
    assert WEIGHTS.stat().st_size < 8e6


def test_every_other_tensor_is_open_clips_own(config: dict):
    expected = {name: value.shape for name, value in CLIP(**config).state_dict().items()}
    found = {name: value.shape for name, value in load_file(WEIGHTS).items()}
    ids = found.pop("token_embedding.ids")
    assert found.pop("token_embedding.weight") == (*ids, config["text_cfg"]["width"])
    expected.pop("token_embedding.weight")
    assert found == expected


def test_configuration_suits_every_model(config: dict):
    assert config["text_cfg"]["width"] == config["embed_dim"]
    assert 518 % config["vision_cfg"]["patch_size"]
    assert not config["quick_gelu"]


def test_the_words_of_prompts_and_categories_are_kept():
    ids = set(load_file(WEIGHTS)["token_embedding.ids"].tolist())
    words = (
        "a photo of the good damaged broken flawless perfect unblemished without with flaw defect damage object X . "
    )
    words += "visual inspection anomaly detection cropped close-up bright dark jpeg corrupted blurry small large "
    words += " ".join((*CATEGORIES, *DEFECTS))
    assert set(tokenize(words.split()).flatten().tolist()) - {0} <= ids


@torch.no_grad()
def test_it_tells_damaged_from_flawless_on_a_category_it_never_saw(clip: CLIP):
    scenes = [(category, seed) for category in UNSEEN_CATEGORIES for seed in range(14)]
    defects = list(DEFECTS)
    pairs = [
        [draw(category, defect, np.random.default_rng(seed))[0] for defect in (None, defects[seed % len(defects)])]
        for category, seed in scenes
    ]
    pixels = torch.from_numpy(np.array(pairs)).flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    text = clip.encode_text(tokenize(["a photo of a flawless object.", "a photo of a damaged object."]), normalize=True)
    score = clip.encode_image((pixels - mean) / std, normalize=True) @ (text[1] - text[0])
    assert (score[1::2] > score[::2]).float().mean() > 0.75
