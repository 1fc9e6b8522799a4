# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The learned prompts of AnomalyCLIP: words for normal and abnormal that name no product."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from anomalib_clipzoo.clip import TextTower
from anomalib_clipzoo.clip.text import END_OF_TEXT, START_OF_TEXT, encode, end_of_text

CONTEXT_WORD = "X"  # holds the place of a learned word
NORMAL_STATES = ("{}",)
ABNORMAL_STATES = ("damaged {}",)
CLASS_NAME = "object"
N_CTX = 12
DEPTH = 9
T_N_CTX = 4
STANDARD_DEVIATION = 0.02  # of the learned words at first


class ObjectAgnosticPrompts(nn.Module):
    """Object-agnostic prompts (Sec. 3.2 of the paper) and learned tokens inside the text tower (Sec. 3.3).

    A prompt is ``[learned words] [state] object.`` All states of a kind share their learned words.

    Args:
        text: The frozen text tower.
        normal_states: States of things in order; ``{}`` is where the object goes, which else comes last.
        abnormal_states: States of things with an anomaly.
        class_name: The word for any object.
        n_ctx: Number of learned words before the state.
        depth: Before how many of the text tower's blocks prompts are learned: before the first there are the learned
            words, before the ``depth - 1`` others learned tokens overwrite the first words.
        t_n_ctx: Number of learned tokens in a block.
        half_prompts: Whether those tokens pass through half precision, forward and backward, as in the reference code.

    Raises:
        ValueError: If there is no state, or a number is out of the text tower's range.
    """

    words: torch.Tensor
    end: torch.Tensor

    def __init__(
        self,
        text: TextTower,
        *,
        normal_states: Sequence[str] = NORMAL_STATES,
        abnormal_states: Sequence[str] = ABNORMAL_STATES,
        class_name: str = CLASS_NAME,
        n_ctx: int = N_CTX,
        depth: int = DEPTH,
        t_n_ctx: int = T_N_CTX,
        half_prompts: bool = True,
    ) -> None:
        super().__init__()
        _check_lengths(text, n_ctx, depth, t_n_ctx)
        self.half_prompts = half_prompts
        self.normal = _learned(1, 1, n_ctx, text.width)
        self.abnormal = _learned(1, 1, n_ctx, text.width)
        self.deep = nn.ParameterList(_learned(t_n_ctx, text.width) for _ in range(depth - 1))
        sentences = [_sentences(states, class_name) for states in (normal_states, abnormal_states)]
        self.states = [len(kind) for kind in sentences]
        ids = _tokenize(text, [sentence for kind in sentences for sentence in kind], n_ctx)
        self.register_buffer("words", text.embed(ids).detach(), persistent=False)
        self.register_buffer("end", end_of_text(ids), persistent=False)

    def tokens(self) -> torch.Tensor:
        """Return the embeddings of all S prompts, learned words inserted, without positions: ``(S, L, D)``."""
        normal, abnormal = self.states
        context = torch.cat([self.normal[0].expand(normal, -1, -1), self.abnormal[0].expand(abnormal, -1, -1)])
        return torch.cat([self.words[:, :1], context, self.words[:, 1 + context.shape[1] :]], dim=1)

    def deep_prompts(self) -> dict[int, torch.Tensor]:
        """Return the tokens ``(S, t_n_ctx, D)`` that overwrite the first words before a block (index from 0)."""
        # Rounding each prompt's copy, not the parameter, rounds the gradient of each copy as well before they add up.
        copies = [prompt.expand(sum(self.states), -1, -1) for prompt in self.deep]
        return dict(enumerate([copy.half() if self.half_prompts else copy for copy in copies], start=1))

    def encode(self, text: TextTower) -> torch.Tensor:
        """Encode every prompt to a text feature, not normalised: ``(S, E)``."""
        tokens = self.tokens()
        tokens = tokens + text.position[: tokens.shape[1]]
        return text.project(text.run_blocks(tokens, self.end, self.deep_prompts()))

    def forward(self, text: TextTower) -> torch.Tensor:
        """Average the prompts of a kind: text features of (normal, abnormal), unit length, ``(2, E)``."""
        kinds = functional.normalize(self.encode(text), dim=-1).split(self.states)
        return functional.normalize(torch.stack([kind.mean(dim=0) for kind in kinds]), dim=-1)


def _learned(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) * STANDARD_DEVIATION)


def _sentences(states: Sequence[str], class_name: str) -> list[str]:
    """Put the object into each state: ``"crack"`` and ``"crack {}"`` make ``"crack object."``."""
    if isinstance(states, str) or not states:
        msg = f"Normal and abnormal states are lists of at least one word each, such as ['damaged'], not {states!r}."
        raise ValueError(msg)
    return [(state if "{}" in state else f"{state} {{}}").replace("{}", class_name).strip() + "." for state in states]


def _tokenize(text: TextTower, sentences: list[str], n_ctx: int) -> torch.Tensor:
    """Return the ids ``(S, L)`` of sentences after so many places for learned words."""
    context = encode(CONTEXT_WORD) * n_ctx
    ids = [torch.tensor([START_OF_TEXT, *context, *encode(sentence), END_OF_TEXT]) for sentence in sentences]
    padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)
    if padded.shape[1] > text.context_length:
        longest = sentences[max(range(len(ids)), key=lambda index: len(ids[index]))]
        msg = (
            f"n_ctx {n_ctx} learned words and {longest!r} make a prompt of {padded.shape[1]} tokens, but the text "
            f"tower has room for {text.context_length}: use a smaller n_ctx or a shorter state."
        )
        raise ValueError(msg)
    return padded.to(text.position.device)


def _check_lengths(text: TextTower, n_ctx: int, depth: int, t_n_ctx: int) -> None:
    if n_ctx < 1:
        msg = f"n_ctx {n_ctx} must be at least 1: the words before the state are what is learned."
        raise ValueError(msg)
    if not 1 <= depth <= text.depth:
        msg = f"depth {depth} is not within 1 (no learned tokens inside) to {text.depth}, the text tower's blocks."
        raise ValueError(msg)
    if depth > 1 and not 1 <= t_n_ctx <= n_ctx:
        msg = (
            f"t_n_ctx {t_n_ctx} is not within 1 to n_ctx ({n_ctx}): the tokens overwrite learned words, not the state."
        )
        raise ValueError(msg)
