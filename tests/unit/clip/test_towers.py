# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The towers against open_clip's own forward pass."""

import open_clip
import pytest
import torch
from open_clip.factory import get_model_config
from open_clip.model import CLIP, resize_pos_embed

from anomalib_clipzoo.clip import TextTower, VisionTower
from anomalib_clipzoo.clip.attention import residual_block, select, single_token_block
from anomalib_clipzoo.clip.config import unplain_keys
from anomalib_clipzoo.clip.text import tokenize

TEXTS = ["a photo of a damaged bottle.", "tile", "a close-up photo of the metal_nut for visual inspection"]
PLAIN = [name for name in open_clip.list_models() if not unplain_keys(get_model_config(name))]


def shallow(name: str) -> dict:
    """A shipped configuration with its own widths, heads, patches and sizes, but two blocks to a tower.

    Full towers take minutes and gigabytes; every block runs the same code.
    """
    config = get_model_config(name)
    vision = {**config["vision_cfg"], "layers": 2}
    return {"embed_dim": config["embed_dim"], "vision_cfg": vision, "text_cfg": {**config["text_cfg"], "layers": 2}}


def same_shapes_once() -> list[str]:
    unique = {str(shallow(name)): name for name in reversed(PLAIN)}
    return sorted(unique.values())


def build(config: dict, *, quick_gelu: bool = False) -> CLIP:
    torch.manual_seed(0)
    arguments = (config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    return CLIP(*arguments, quick_gelu=quick_gelu).eval().requires_grad_(requires_grad=False)


def close(given: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)


def resized(clip: CLIP, config: dict, size: tuple[int, int], **how) -> CLIP:
    """The same weights in a CLIP of another image size, by open_clip's own loading code."""
    other = build({**config, "vision_cfg": {**config["vision_cfg"], "image_size": size}})
    state = dict(clip.state_dict())
    resize_pos_embed(state, other, **how)
    other.load_state_dict(state)
    return other


def test_there_are_plain_configurations():
    assert {"ViT-L-14-336", "ViT-B-16", "ViT-B-16-plus-240", "ViT-H-14", "ViT-B-32-quickgelu"} <= set(PLAIN)


@pytest.mark.parametrize("name", same_shapes_once())
def test_towers_equal_open_clip(name):
    clip = build(shallow(name), quick_gelu="quickgelu" in name or name == "ViT-L-14")
    vision, text = VisionTower(clip.visual), TextTower(clip)
    images = torch.randn(1, 3, *vision.image_size)
    close(vision(images).image, clip.encode_image(images))
    close(text(tokenize(TEXTS, 77)), clip.encode_text(open_clip.tokenize(TEXTS)))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(96, 96), (64, 160)])
def test_other_image_sizes_equal_open_clips_resizing(size, antialias):
    config = shallow("ViT-S-16")
    clip = build(config)
    tower = VisionTower(clip.visual, size, antialias=antialias)
    images = torch.randn(2, 3, *size)
    close(tower(images).image, resized(clip, config, size, antialias=antialias).encode_image(images))


@pytest.mark.parametrize("size", [(96, 96), (64, 160)])
def test_bilinear_positions(size):
    config = shallow("ViT-S-16")
    clip = build(config)
    tower = VisionTower(clip.visual, size, interpolation="bilinear", antialias=False)
    images = torch.randn(2, 3, *size)
    expected = resized(clip, config, size, interpolation="bilinear", antialias=False)
    close(tower(images).image, expected.encode_image(images))


def test_layers_are_the_residual_stream_after_each_block():
    config = shallow("ViT-S-16")
    clip = build(config)
    tower = VisionTower(clip.visual)
    features = tower(torch.randn(2, 3, 224, 224), layers=(1, 2))
    assert [tokens.shape for tokens in features.tokens] == [(2, 197, 384)] * 2
    close(tower.project(features.tokens[1][:, 0]), features.image)


def test_overwritten_tokens_reach_the_following_blocks_only():
    text = TextTower(build(shallow("ViT-S-16")))
    tokens = text.embed(tokenize(TEXTS[:1], 77)) + text.position[:9]
    prompt = torch.randn(1, 2, text.width)
    start, later = torch.tensor([0]), torch.tensor([5])
    assert not torch.allclose(text.run_blocks(tokens, later, {1: prompt}), text.run_blocks(tokens, later))
    torch.testing.assert_close(
        text.run_blocks(tokens, start, {1: prompt}), text.run_blocks(tokens, start)
    )  # the mask is causal: start sees itself only


def test_too_long_a_prompt_is_an_error():
    with pytest.raises(ValueError, match=r"takes 82 tokens.*room for 77"):
        tokenize(["word " * 80], 77)


@pytest.mark.parametrize("name", ["ViT-S-16", "ViT-B-16-plus-240"])
def test_the_class_token_alone_equals_the_whole_block(name):
    tower = VisionTower(build(shallow(name)).visual)
    block, tokens = tower.blocks[-1], torch.randn(3, 11, tower.width)
    torch.nn.init.normal_(block.attn.in_proj_bias)  # zero at first, which would hide a bias that is left out
    close(single_token_block(block, tokens), residual_block(block, tokens)[:, :1])


def test_the_last_token_alone_equals_the_whole_block():
    text = TextTower(build(shallow("ViT-S-16")))
    block, tokens, last = text.blocks[-1], torch.randn(3, 11, text.width), torch.tensor([10, 0, 4])
    torch.nn.init.normal_(block.attn.in_proj_bias)
    whole = residual_block(block, tokens, causal=True)
    close(single_token_block(block, tokens, last)[:, 0], select(whole, last))


def test_a_run_that_begins_after_the_last_block_changes_nothing():
    text = TextTower(build(shallow("ViT-S-16")))
    tokens = torch.randn(2, 4, text.width)
    assert torch.equal(text.run_blocks(tokens, torch.tensor([3, 1]), first=text.depth), tokens[[0, 1], [3, 1]])
