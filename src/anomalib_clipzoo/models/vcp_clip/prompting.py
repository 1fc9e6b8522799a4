# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The learned prompts of VCP-CLIP: words for any product, informed by the image."""

from collections.abc import Sequence

import torch
from torch import nn

from anomalib_clipzoo.anomaly.precision import FullPrecision
from anomalib_clipzoo.anomaly.prompts import average_states
from anomalib_clipzoo.clip import TextTower
from anomalib_clipzoo.clip.attention import normalize
from anomalib_clipzoo.clip.text import END_OF_TEXT, START_OF_TEXT, encode

PROMPT_NORM_EPSILON = 1e-6  # the reference code; CLIP's own LayerNorms have 1e-5
DROPOUT = 0.1
PLACEHOLDER = "{}"


class PreVcp(nn.Module):
    """Pre-VCP: the vectors that stand for the product's name, with a term from the image's global feature.

    The global feature is read as a one-channel signal; a convolution turns it into one additive term per vector.

    Args:
        width: Width of text tokens and of the image feature.
        prompt_len: Number of vectors r.
        use_global: Whether the image has a say; without, all images share the same vectors.
    """

    def __init__(self, width: int, prompt_len: int, use_global: bool) -> None:
        super().__init__()
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, prompt_len, width), a=-2, b=2))
        self.convolution = nn.Conv1d(1, prompt_len, kernel_size=3, padding="same") if use_global else None

    def forward(self, image_features: torch.Tensor) -> torch.Tensor:
        """Turn image features ``(B, E)``, not normalised, into the visual context ``(B, r, D)``."""
        if self.convolution is None:
            return self.query.expand(image_features.shape[0], -1, -1)
        return self.query + self.convolution(image_features[:, None])


class DeepTextPrompts(nn.Module):
    """Deep text prompts (DTP): learned tokens after the start of text, anew in every block of the text tower.

    Args:
        width: Width of text tokens.
        depth: Number of blocks of the text tower.
        length: Number of tokens n.
    """

    def __init__(self, width: int, depth: int, length: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(1, length, width).uniform_(-1, 1))
        self.deep = nn.Parameter(torch.empty(depth - 1, length, width).uniform_(-1, 1))
        self.projection = nn.Linear(width, width)
        nn.init.kaiming_normal_(self.projection.weight, mode="fan_out")
        self.dropout = nn.Dropout(DROPOUT)
        self.norm = nn.LayerNorm(width, eps=PROMPT_NORM_EPSILON)

    def forward(self, sequences: int) -> list[torch.Tensor]:
        """Return the prompt of every block, first to last, for so many sequences: each ``(sequences, n, D)``."""
        projected = self.projection(torch.cat([self.first, self.deep]))
        return [self.dropout(prompt.expand(sequences, -1, -1)) for prompt in projected]


class GappedSentences(FullPrecision):
    """Sentences with a gap for the visual context, embedded once.

    Args:
        text: The frozen text tower.
        normal: Templates for the normal state, each with one ``{}``.
        abnormal: Templates for the abnormal state.
        prompt_len: Number of context vectors that fill the gap.
        deep_prompt_len: Number of tokens that will be inserted later; only to check the length.

    Raises:
        ValueError: If a list is empty, a template has not exactly one ``{}``, or the prompts exceed the context.
    """

    frozen: torch.Tensor
    gap: torch.Tensor
    end: torch.Tensor

    def __init__(
        self,
        text: TextTower,
        normal: Sequence[str],
        abnormal: Sequence[str],
        *,
        prompt_len: int,
        deep_prompt_len: int,
    ) -> None:
        super().__init__()
        ids, gap, self.states = self._tokenize(normal, abnormal, prompt_len)
        if (longest := ids.shape[1] + deep_prompt_len) > text.context_length:
            msg = (
                f"The longest prompt takes {longest} tokens with prompt_len {prompt_len} and deep_prompt_len "
                f"{deep_prompt_len}, but the text tower has room for {text.context_length}: shorten one of them."
            )
            raise ValueError(msg)
        is_gap = gap.any(dim=-1, keepdim=True)
        frozen = text.embed(ids).detach().masked_fill(is_gap, 0) + text.position[: ids.shape[1]].detach()
        self.register_buffer("frozen", frozen, persistent=False)
        self.register_buffer("gap", gap.to(frozen.dtype), persistent=False)
        self.register_buffer("end", ids.argmax(dim=-1), persistent=False)

    @staticmethod
    def _tokenize(
        normal: Sequence[str],
        abnormal: Sequence[str],
        prompt_len: int,
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
        """Return ids ``(T, L)``, where each context vector goes ``(T, L, r)``, and how many sentences a state has."""
        ids, gaps = [], []
        for template in (*normal, *abnormal):
            if template.count(PLACEHOLDER) != 1:
                msg = (
                    f"The template {template!r} must have exactly one {{}}, where the learned words for the product go."
                )
                raise ValueError(msg)
            before, after = (encode(part) for part in template.split(PLACEHOLDER))
            start = 1 + len(before)
            ids.append(torch.tensor([START_OF_TEXT, *before, *[0] * prompt_len, *after, END_OF_TEXT]))
            gap = torch.zeros(len(ids[-1]), prompt_len, dtype=torch.bool)
            gap[start : start + prompt_len] = torch.eye(prompt_len, dtype=torch.bool)
            gaps.append(gap)
        if not normal or not abnormal:
            msg = "Give at least one normal and one abnormal template."
            raise ValueError(msg)
        pad = nn.utils.rnn.pad_sequence
        return pad(ids, batch_first=True), pad(gaps, batch_first=True), (len(normal), len(abnormal))

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """Fill the gaps of all T sentences with the visual context ``(B, r, D)``: tokens ``(B, T, L, D)``."""
        return self.frozen + torch.einsum("tlr,brd->btld", self.gap, context.float())


def encode_gapped(
    text: TextTower,
    sentences: GappedSentences,
    context: torch.Tensor,
    deep_prompts: DeepTextPrompts | None,
) -> torch.Tensor:
    """Encode every sentence for every image in one pass through the frozen text tower.

    Args:
        text: The frozen text tower.
        sentences: The sentences with gaps.
        context: Visual context, ``(B, r, D)``.
        deep_prompts: Deep text prompts, or ``None`` to go without.

    Returns:
        Text features of (normal, abnormal), unit length, ``(B, 2, E)``.
    """
    tokens = sentences(context)
    images, count = tokens.shape[:2]
    tokens, end = tokens.flatten(0, 1), sentences.end.repeat(images)
    if deep_prompts is None:
        tokens = text.run_blocks(tokens, end)
    else:
        first, *deep = deep_prompts(tokens.shape[0])
        tokens = torch.cat([tokens[:, :1], first.to(tokens.dtype), tokens[:, 1:]], dim=1)
        tokens = text.run_blocks(tokens, end + first.shape[1], dict(enumerate(deep, start=1)))
        tokens = normalize(deep_prompts.norm, tokens)
    return average_states(text.project(tokens).unflatten(0, (images, count)), sentences.states)
