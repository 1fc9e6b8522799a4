# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AdaCLIP's sentences about a class, and the text features that they come to, with and without prompts."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from anomalib_clipzoo.anomaly.prompts import StateEnsemble, average_states, clean_class_name
from anomalib_clipzoo.anomaly.text_cache import TextCache, is_exporting
from anomalib_clipzoo.clip import TextTower
from anomalib_clipzoo.clip.attention import residual_block
from anomalib_clipzoo.clip.text import end_of_text

from .prompting import HybridPrompts


class EmbeddedSentences(NamedTuple):
    """Sentences after the first text block, which no prompt reaches.

    Attributes:
        tokens: ``(..., T, L, D)``.
        end: Position of the end of text, ``(..., T)``.
    """

    tokens: torch.Tensor
    end: torch.Tensor


class StateSentences(nn.Module):
    """The sentences that describe a class in its normal and abnormal states.

    What no image has a say in is encoded once: the first block of every sentence, and with static prompts or none all
    of them.

    Args:
        normal_states: Normal states, each with one ``{}`` for the class name.
        abnormal_states: Abnormal states.
        templates: Sentences with one ``{}`` for the object in its state.
        prompting_length: Number M of tokens of a prompt, which sentences must have room for.

    Raises:
        ValueError: If a list is empty, or an entry has not exactly one ``{}``.
    """

    def __init__(
        self,
        normal_states: Sequence[str],
        abnormal_states: Sequence[str],
        templates: Sequence[str],
        prompting_length: int,
    ) -> None:
        super().__init__()
        self.ensemble = StateEnsemble(normal_states, abnormal_states, templates)
        self.prompting_length = prompting_length
        self.embedded, self.encoded = TextCache(), TextCache()

    def write(self, class_name: str) -> list[str]:
        """Write all sentences about a class, those of the normal states first."""
        return self.ensemble.all_sentences(clean_class_name(class_name))

    def forward(
        self,
        text: TextTower,
        class_names: Sequence[str],
        prompts: HybridPrompts | None,
        plain: torch.Tensor | None,
    ) -> torch.Tensor:
        """Encode the states of what images show.

        Args:
            text: The frozen text tower.
            class_names: Name of what each image shows, or one for all.
            prompts: The text tower's prompts, if it has any.
            plain: CLIP's own image features ``(B, E)``, where prompts depend on them.

        Returns:
            Text features of (normal, abnormal), unit length, ``(B, 2, E)``, or ``(1, 2, E)`` where all images share one
            name and no image has a say.
        """
        if prompts is not None and len(prompts.dynamic):
            return self._encode(text, class_names, prompts(plain), images=plain)
        if prompts is not None and torch.is_grad_enabled() and not is_exporting():
            distinct = list(dict.fromkeys(class_names))
            encoded = self._encode(text, distinct, prompts(None))
            return encoded[[distinct.index(name) for name in class_names]]
        modules = [text] if prompts is None else [text, prompts]
        kept = self.encoded.lookup(
            class_names, modules, lambda names: self._encode(text, names, prompts(None) if prompts else []).unbind()
        )
        return torch.stack(kept)

    def _encode(
        self,
        text: TextTower,
        class_names: Sequence[str],
        prompts: list[torch.Tensor],
        images: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Encode the sentences about each class ``(C, 2, E)``, or, where images have a say, about each image's."""
        each = self.embedded.lookup(class_names, [text], lambda names: [self._embed(text, name) for name in names])
        length = max(1 + self.prompting_length if prompts else 1, *(sentences.tokens.shape[1] for sentences in each))
        # Positions after the end of text are without influence, and filled with zeros.
        tokens = torch.stack([functional.pad(tokens, (0, 0, 0, length - tokens.shape[1])) for tokens, _ in each])
        end = torch.stack([end for _, end in each])
        if images is not None:  # one name may stand for all
            tokens, end = tokens.expand(images.shape[0], -1, -1, -1), end.expand(images.shape[0], -1)
        sentences = EmbeddedSentences(tokens, end)
        return encode_prompted(text, sentences, prompts, self.ensemble.counts)

    def _embed(self, text: TextTower, class_name: str) -> EmbeddedSentences:
        """Run the sentences about a class through the first block: ``(T, L, D)``, L as long as the longest needs."""
        ids = text.tokenize(self.write(class_name))
        tokens = residual_block(text.blocks[0], text.embed(ids) + text.position[: ids.shape[1]], causal=True)
        return EmbeddedSentences(tokens, end_of_text(ids))


def encode_prompted(
    text: TextTower,
    sentences: EmbeddedSentences,
    prompts: Sequence[torch.Tensor],
    counts: Sequence[int],
) -> torch.Tensor:
    """Encode all sentences of all images in one pass through the frozen text tower.

    From the second layer on, a layer's prompt takes the place of the words after the start of text, the same for all
    sentences of an image. The end of text does not move.

    Args:
        text: The frozen text tower.
        sentences: Sentences after the first block, ``(B, T, L, D)``.
        prompts: Prompts of the first layers, each ``(B, M, D)`` or ``(1, M, D)``; the very first is never used.
        counts: Number of sentences for the normal and the abnormal states, T in all.

    Returns:
        Text features of (normal, abnormal), unit length, ``(B, 2, E)``.
    """
    images, count = sentences.end.shape
    each = {
        index: prompt.expand(images, -1, -1).repeat_interleave(count, dim=0)
        for index, prompt in enumerate(prompts)
        if index
    }
    # What gradients need of some fifty sentences an image takes more memory than making it again takes time.
    recompute = torch.is_grad_enabled() and not is_exporting()
    ends = text.run_blocks(sentences.tokens.flatten(0, 1), sentences.end.flatten(), each, first=1, recompute=recompute)
    features = text.project(ends)
    return average_states(features.unflatten(0, (images, count)), counts)
