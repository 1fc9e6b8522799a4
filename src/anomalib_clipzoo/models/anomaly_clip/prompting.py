# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The learned prompts of AnomalyCLIP: words for normal and abnormal that name no product."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import nn

from anomalib_clipzoo.anomaly.prompts import average_states
from anomalib_clipzoo.clip import TextTower
from anomalib_clipzoo.clip.text import END_OF_TEXT, START_OF_TEXT, encode, end_of_text

CONTEXT_WORD = "X"  # holds the place of a learned word
NORMAL_WORDS = ("{}",)
ABNORMAL_WORDS = ("damaged {}",)
CLASS_NAME = "object"
N_CTX = 12
DEPTH = 9
T_N_CTX = 4
STANDARD_DEVIATION = 0.02  # of the learned words at first

ImageToken = Literal["none", "pad_suffix", "pad_prefix", "replace_suffix", "replace_prefix"]


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
        image_token: Where an image's feature goes when prompts are made for an image (Crane): one more word after
            ("pad_suffix") or before ("pad_prefix") the learned ones, or in place of the last ("replace_suffix") or
            first ("replace_prefix") of them; "none" leaves it out.

    Raises:
        ValueError: If there is no state, or a number is out of the text tower's range.
    """

    words: torch.Tensor
    end: torch.Tensor

    def __init__(
        self,
        text: TextTower,
        *,
        normal_states: Sequence[str] = NORMAL_WORDS,
        abnormal_states: Sequence[str] = ABNORMAL_WORDS,
        class_name: str = CLASS_NAME,
        n_ctx: int = N_CTX,
        depth: int = DEPTH,
        t_n_ctx: int = T_N_CTX,
        half_prompts: bool = True,
        image_token: ImageToken = "none",
    ) -> None:
        super().__init__()
        _check_lengths(text, n_ctx, depth, t_n_ctx)
        _check_image_token(text, image_token)
        self.half_prompts = half_prompts
        self.image_token = image_token
        self.shift = int(image_token.startswith("pad"))  # of what follows the image's token
        self.normal = _learned(1, 1, n_ctx, text.width)
        self.abnormal = _learned(1, 1, n_ctx, text.width)
        self.deep = nn.ParameterList(_learned(t_n_ctx, text.width) for _ in range(depth - 1))
        sentences = [_sentences(states, class_name) for states in (normal_states, abnormal_states)]
        self.states = [len(kind) for kind in sentences]
        ids = _tokenize(text, [sentence for kind in sentences for sentence in kind], n_ctx, self.shift)
        self.register_buffer("words", text.embed(ids).detach(), persistent=False)
        self.register_buffer("end", end_of_text(ids), persistent=False)

    def tokens(self, image_features: torch.Tensor | None = None) -> torch.Tensor:
        """Return the embeddings of all S prompts, learned words inserted, without positions.

        Args:
            image_features: Image features ``(B, D)`` of unit length that prompts are made for; ``None`` for any image.

        Returns:
            ``(B, S, L, D)``, where B is 1 for any image.
        """
        normal, abnormal = self.states
        context = torch.cat([self.normal[0].expand(normal, -1, -1), self.abnormal[0].expand(abnormal, -1, -1)])[None]
        start, rest = self.words[None, :, :1], self.words[None, :, 1 + context.shape[2] :]
        if image_features is not None:
            count = image_features.shape[0]  # len() would fix the batch size of exported graphs
            start, context, rest = (part.expand(count, -1, -1, -1) for part in (start, context, rest))
            image = image_features[:, None, None].to(context.dtype)
            context = self._with_image(context, image.expand(-1, context.shape[1], -1, -1))
        return torch.cat([start, context, rest], dim=2)

    def _with_image(self, context: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Put the image's token ``(B, S, 1, D)`` among the learned words ``(B, S, n_ctx, D)``."""
        parts = {
            "none": [context],
            "pad_suffix": [context, image],
            "pad_prefix": [image, context],
            "replace_suffix": [context[:, :, :-1], image],
            "replace_prefix": [image, context[:, :, 1:]],
        }
        return torch.cat(parts[self.image_token], dim=2)

    def deep_prompts(self, sequences: int) -> dict[int, torch.Tensor]:
        """Return what overwrites the first words of so many sequences before a block (index from 0), one copy each."""
        # Rounding each prompt's copy, not the parameter, rounds the gradient of each copy as well before they add up.
        copies = [prompt.expand(sequences, -1, -1) for prompt in self.deep]
        return dict(enumerate([copy.half() if self.half_prompts else copy for copy in copies], start=1))

    def encode(self, text: TextTower, image_features: torch.Tensor | None = None) -> torch.Tensor:
        """Encode every prompt to a text feature, not normalised: ``(B, S, E)``, see :meth:`tokens`."""
        tokens = self.tokens(image_features)
        tokens = tokens.float() + text.position[: tokens.shape[2]]
        end = self.end if image_features is None else self.end + self.shift
        images, count = tokens.shape[:2]
        encoded = text.run_blocks(tokens.flatten(0, 1), end.repeat(images), self.deep_prompts(images * count))
        return text.project(encoded).unflatten(0, (images, count))

    def forward(self, text: TextTower, image_features: torch.Tensor | None = None) -> torch.Tensor:
        """Average the prompts of a kind: text features of (normal, abnormal), unit length, ``(B, 2, E)``."""
        return average_states(self.encode(text, image_features), self.states)


def _learned(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) * STANDARD_DEVIATION)


def _sentences(states: Sequence[str], class_name: str) -> list[str]:
    """Put the object into each state: ``"crack"`` and ``"crack {}"`` make ``"crack object."``."""
    if isinstance(states, str) or not states:
        msg = f"Normal and abnormal states are lists of at least one word each, such as ['damaged'], not {states!r}."
        raise ValueError(msg)
    return [(state if "{}" in state else f"{state} {{}}").replace("{}", class_name).strip() + "." for state in states]


def _tokenize(text: TextTower, sentences: list[str], n_ctx: int, shift: int) -> torch.Tensor:
    """Return the ids ``(S, L)`` of sentences after so many places for learned words; they may be shifted later."""
    context = encode(CONTEXT_WORD) * n_ctx
    ids = [torch.tensor([START_OF_TEXT, *context, *encode(sentence), END_OF_TEXT]) for sentence in sentences]
    padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)
    length = padded.shape[1] + shift
    if length > text.context_length:
        longest = sentences[max(range(len(ids)), key=lambda index: len(ids[index]))]
        words = f"n_ctx {n_ctx} learned words{', the image' if shift else ''} and {longest!r}"
        msg = (
            f"{words} make a prompt of {length} tokens, but the text tower has room for {text.context_length}: use a "
            "smaller n_ctx or a shorter state."
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


def _check_image_token(text: TextTower, image_token: str) -> None:
    if image_token not in get_args(ImageToken):
        msg = f"image_token must be one of {', '.join(map(repr, get_args(ImageToken)))}, not {image_token!r}."
        raise ValueError(msg)
    joint = text.projection.shape[1]
    if image_token != "none" and joint != text.width:
        msg = (
            f"An image's feature becomes a word of the prompts, so the backbone's joint space ({joint}) and text tower "
            f"({text.width}) must be equally wide, as in ViT-L-14-336 or ViT-B-16; image_token 'none' goes without."
        )
        raise ValueError(msg)
