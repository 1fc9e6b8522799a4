# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""DPAM: a second, local stream beside the image tower, fed by attention of tokens to their own kind."""

from collections.abc import Sequence
from functools import reduce
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch.nn import functional

from anomalib_clipzoo.clip import VisionTower
from anomalib_clipzoo.clip.attention import attend, feed_forward, join_heads, prepare, project_qkv

DPAM_LAYER, DPAM_DEPTH = 20, 24  # the reference code's setting, and the tower that it is meant for

LocalAttention = Literal["vv", "qq", "kk", "qq+kk", "qq+kk+vv", "(q+k+v)^2"]


class DualFeatures(NamedTuple):
    """What the two streams say about a batch of images.

    Attributes:
        class_token: The class token that leaves CLIP's own stream, without any normalisation, ``(B, D)``.
        local: The local stream after each layer asked for, class token first, each ``(B, 1 + N, D)``.
        own: Patches of CLIP's own stream after some layers, ``(B, N, D)``.
    """

    class_token: torch.Tensor
    local: list[torch.Tensor]
    own: dict[int, torch.Tensor]


class DualPath:
    """Diagonally prominent attention map (DPAM, Sec. 3.4 of the paper): patches keep telling what is at their place.

    From the first dual layer on, a local stream leaves CLIP's own. Layer by layer it takes up the attention of values
    to values (or of other tokens to their own kind), whose map is strongest on its diagonal. It is read from CLIP's own
    stream, which goes on untouched, and has neither LayerNorm nor MLP. Nothing in it is learned.

    Args:
        vision: The frozen image tower.
        layers: Blocks, counted from 1, after which the local stream is wanted; before the first dual layer it is CLIP's
            own. ``None`` for the last alone.
        dpam_layer: The reference code's setting: the last ``dpam_layer - 1`` layers are dual, so 20 of 24 means layers
            6 to 24. At 1 no layer is. ``None`` for 20 of 24, scaled by depth.
        local_attention: What attends to its own kind: values, queries or keys; several with a plus, whose results add
            up (Crane's E-Attn); or "(q+k+v)^2", all three side by side. What is summed are always values.

    Raises:
        ValueError: If the layers do not exist or an argument is out of range.
    """

    def __init__(
        self,
        vision: VisionTower,
        layers: Sequence[int] | None = None,
        dpam_layer: int | None = None,
        local_attention: LocalAttention = "vv",
    ) -> None:
        depth = vision.depth
        self.layers = vision.check_layers([depth] if layers is None else layers)
        if dpam_layer is None:
            dpam_layer = round(depth * DPAM_LAYER / DPAM_DEPTH)
        if not 1 <= dpam_layer <= depth + 1:
            msg = f"dpam_layer {dpam_layer} is not within 1 (no layer is dual) to {depth + 1} (all {depth} layers are)."
            raise ValueError(msg)
        if local_attention not in get_args(LocalAttention):
            msg = f"local_attention must be one of {', '.join(get_args(LocalAttention))}, not {local_attention!r}."
            raise ValueError(msg)
        self.first_dual = depth - dpam_layer + 2
        self.local_attention = local_attention

    def __call__(self, vision: VisionTower, images: torch.Tensor, taps: Sequence[int] = ()) -> DualFeatures:
        """Run both streams on normalised images ``(B, 3, H, W)``, neither further than it is looked at.

        Args:
            vision: The frozen image tower.
            images: The images.
            taps: Blocks, counted from 1, after which CLIP's own stream is wanted, too.
        """
        tokens = local = vision.embed(images)
        tapped, own = [], {}
        block: Any  # a residual block of open_clip
        for layer, block in enumerate(vision.blocks, start=1):
            query, key, value = project_qkv(block.attn, prepare(block.ln_1, tokens))
            if self.first_dual <= layer <= self.layers[-1]:
                heads = local_heads(query, key, value, self.local_attention)
                local = local + block.ls_1(join_heads(block.attn, heads))
            only_class = layer >= self.first_dual or layer not in self.layers
            if layer == vision.depth and only_class and layer not in taps:
                tokens, query = tokens[:, :1], query[:, :, :1]  # only the class token leaves CLIP's own stream
            tokens = feed_forward(block, tokens + block.ls_1(attend(block.attn, query, key, value)))
            if layer < self.first_dual:
                local = tokens
            if layer in self.layers:
                tapped.append(local)
            if layer in taps:
                own[layer] = tokens[:, 1:]
        return DualFeatures(tokens[:, 0], tapped, own)


def local_heads(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    local_attention: LocalAttention,
) -> torch.Tensor:
    """Let tokens attend to their own kind and take up values, all ``(B, heads, N, D / heads)``."""
    if local_attention == "(q+k+v)^2":
        kinds = [torch.cat([query, key, value], dim=-1)]
    else:
        kinds = [{"qq": query, "kk": key, "vv": value}[kind] for kind in local_attention.split("+")]
    return reduce(torch.add, [functional.scaled_dot_product_attention(kind, kind, value) for kind in kinds])
