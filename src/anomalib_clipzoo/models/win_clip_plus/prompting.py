# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The compositional prompt ensemble of WinCLIP (paper, section 4.1): two text vectors a class."""

from collections.abc import Sequence

import torch

from anomalib_clipzoo.anomaly.precision import unit
from anomalib_clipzoo.anomaly.prompts import WINCLIP_TEMPLATES, StateEnsemble
from anomalib_clipzoo.clip import TextTower

# Two templates more, none twice, no full stops: the list of caoyunkang's reproduction.
CAOYUNKANG_TEMPLATES = tuple(
    template.removesuffix(".")
    for template in dict.fromkeys((*WINCLIP_TEMPLATES, "a cropped photo of a {}.", "a jpeg corrupted photo of a {}."))
)
SENTENCE_BATCH = 256  # sentences encoded at once, which bounds the memory


class PromptEnsemble(StateEnsemble):
    """All states in all templates, averaged, for any class.

    Args:
        normal_states: States of a normal object, ``{}`` is where the class name goes.
        abnormal_states: States of an object with an anomaly.
        templates: Sentences, ``{}`` is where the object in its state goes.
        tidy: Whether class names are written in words ("metal nut" for ``metal_nut``) and a sentence that is there
            twice counts once.

    Raises:
        ValueError: If a list is empty, or an entry has not exactly one ``{}``.
    """

    def __init__(
        self,
        normal_states: Sequence[str],
        abnormal_states: Sequence[str],
        templates: Sequence[str],
        *,
        tidy: bool = False,
    ) -> None:
        self.tidy = tidy
        super().__init__(normal_states, abnormal_states, templates)

    def sentences(self, class_name: str) -> tuple[list[str], list[str]]:
        """Write the normal and the abnormal sentences about a class."""
        if self.tidy:
            class_name = " ".join(class_name.replace("_", " ").replace("-", " ").split())
        normal, abnormal = super().sentences(class_name)
        return (_distinct(normal), _distinct(abnormal)) if self.tidy else (normal, abnormal)

    def encode(self, text: TextTower, class_name: str) -> torch.Tensor:
        """Return the unit text vectors ``(2, E)`` of a class, normal first.

        The sentences' features are averaged as they are, then normalised.
        """
        return torch.stack([unit(self._mean(text, side)) for side in self.sentences(class_name)])

    @staticmethod
    def _mean(text: TextTower, sentences: Sequence[str]) -> torch.Tensor:
        """Average the features ``(E,)`` of sentences; each one is encoded once, however often it counts."""
        distinct = _distinct(sentences)
        features = torch.cat([text(ids) for ids in text.tokenize(distinct).split(SENTENCE_BATCH)]).float()
        counts = features.new_tensor([sentences.count(sentence) for sentence in distinct])
        return counts @ features / len(sentences)


def _distinct(sentences: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(sentences))
