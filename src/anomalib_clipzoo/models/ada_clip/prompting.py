# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Hybrid prompts in both towers: learned tokens that all images share, plus tokens made from the image itself."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from anomalib_clipzoo.anomaly.prompts import clean_class_name, compose
from anomalib_clipzoo.clip import TextTower, VisionFeatures, VisionTower
from anomalib_clipzoo.clip.attention import residual_block, single_token_block
from anomalib_clipzoo.clip.text import end_of_text

PromptingType = Literal["SD", "S", "D"]
PromptingBranch = Literal["VL", "V", "L", ""]

INITIAL_DEVIATION = 0.02  # of static prompts; the reference code


class HybridPrompts(nn.Module):
    """Prompts of one tower's first layers: static, dynamic, or the sum of both.

    Static prompts are one set of tokens per layer. Dynamic prompts are linear in the image feature, one map per token,
    and the same at every layer.

    Args:
        width: Width D of the tower's tokens.
        joint: Width E of image features.
        depth: Number of layers J that are prompted.
        length: Number of tokens M.
        kind: "S" for static, "D" for dynamic, "SD" for hybrid prompts.
    """

    def __init__(self, width: int, joint: int, *, depth: int, length: int, kind: PromptingType) -> None:
        super().__init__()
        self.depth = depth
        static = [INITIAL_DEVIATION * torch.randn(length, width) for _ in range(depth if "S" in kind else 0)]
        self.static = nn.ParameterList(static)
        self.dynamic = nn.ModuleList(nn.Linear(joint, width) for _ in range(length if "D" in kind else 0))

    def forward(self, image_features: torch.Tensor | None) -> list[torch.Tensor]:
        """Return every layer's prompt.

        Args:
            image_features: CLIP's own image features ``(B, E)``, not normalised; static prompts don't need them.

        Returns:
            J prompts, each ``(B, M, D)``, or ``(1, M, D)`` where they are static.
        """
        static = [prompt[None] for prompt in self.static]
        if image_features is None or not len(self.dynamic):
            return static
        dynamic = torch.stack([generate(image_features) for generate in self.dynamic], dim=1)
        return [prompt + dynamic for prompt in static] or [dynamic] * self.depth


@torch.no_grad()
def plain_image_features(vision: VisionTower, tokens: torch.Tensor) -> torch.Tensor:
    """Run the frozen tower without prompts, for its image feature alone.

    Args:
        vision: The frozen image tower.
        tokens: Embedded images after ``ln_pre``, ``(B, 1 + N, D)``.

    Returns:
        Image features, not normalised, ``(B, E)``.
    """
    for block in vision.blocks[:-1]:
        tokens = residual_block(block, tokens)
    return vision.project(single_token_block(vision.blocks[-1], tokens)[:, 0])


def prompted_features(
    vision: VisionTower,
    tokens: torch.Tensor,
    prompts: Sequence[torch.Tensor],
    layers: Sequence[int],
) -> VisionFeatures:
    """Run the frozen tower with prompts after the last patch.

    Each of the first layers gets its own prompt in place of what became of the one before; the last one's output
    travels on through the tower.

    Args:
        vision: The frozen image tower.
        tokens: Embedded images after ``ln_pre``, ``(B, 1 + N, D)``.
        prompts: Prompts of the first layers, each ``(B, M, D)`` or ``(1, M, D)``; none leaves the tower as it is.
        layers: Blocks, counted from 1, whose output tokens are wanted.

    Returns:
        Image features and the layers' tokens without the prompts, each ``(B, 1 + N, D)``.
    """
    images, length = tokens.shape[:2]
    tapped = []
    for index, block in enumerate(vision.blocks):
        if index < len(prompts):
            prompt = prompts[index].expand(images, -1, -1).to(tokens.dtype)
            tokens = torch.cat([tokens[:, :length], prompt], dim=1)
        tokens = residual_block(block, tokens)
        if index + 1 in layers:
            tapped.append(tokens[:, :length])
    return VisionFeatures(image=vision.project(tokens[:, 0]), tokens=tapped)


class Sentences(NamedTuple):
    """Sentences after the first text block, which no prompt reaches.

    Attributes:
        tokens: ``(..., T, L, D)``.
        end: Position of the end of text, ``(..., T)``.
    """

    tokens: torch.Tensor
    end: torch.Tensor


class PromptEnsemble:
    """The sentences that describe a class in its normal and abnormal states, embedded once per class.

    Args:
        normal_states: Normal states, each with one ``{}`` for the class name.
        abnormal_states: Abnormal states.
        templates: Sentences with one ``{}`` for the object in its state.

    Raises:
        ValueError: If a list is empty, or an entry has not exactly one ``{}``.
    """

    def __init__(self, normal_states: Sequence[str], abnormal_states: Sequence[str], templates: Sequence[str]) -> None:
        self.states = (normal_states, abnormal_states)
        self.templates = templates
        self._embedded: dict[tuple[str, torch.device], Sentences] = {}
        self.sizes = [len(compose(states, templates, "")) for states in self.states]

    def write(self, class_name: str) -> list[str]:
        """Write the sentences about a class, those of the normal states first."""
        name = clean_class_name(class_name)
        return [sentence for states in self.states for sentence in compose(states, self.templates, name)]

    def embed(self, text: TextTower, class_name: str) -> Sentences:
        """Return the sentences about a class as ``(T, L, D)``, L as long as the longest needs.

        Raises:
            ValueError: If a sentence is longer than the text tower's context.
        """
        key = (class_name, text.position.device)
        if key not in self._embedded:
            # Made outside inference mode even if that is on, since training may use them later.
            with torch.inference_mode(mode=False), torch.no_grad():
                ids = text.tokenize(self.write(class_name))
                tokens = residual_block(text.blocks[0], text.embed(ids) + text.position[: ids.shape[1]], causal=True)
                self._embedded[key] = Sentences(tokens, end_of_text(ids))
        return self._embedded[key]

    def embed_all(self, text: TextTower, names: Sequence[str], shortest: int) -> Sentences:
        """Return the sentences about several classes as ``(C, T, L, D)``, L at least ``shortest``.

        Positions after the end of text are without influence, and filled with zeros.
        """
        each = [self.embed(text, name) for name in names]
        length = max(shortest, *(sentences.tokens.shape[1] for sentences in each))
        tokens = [functional.pad(tokens, (0, 0, 0, length - tokens.shape[1])) for tokens, _ in each]
        return Sentences(torch.stack(tokens), torch.stack([end for _, end in each]))


def encode_sentences(
    text: TextTower,
    sentences: Sentences,
    prompts: Sequence[torch.Tensor],
    sizes: Sequence[int],
) -> torch.Tensor:
    """Encode all sentences of all images in one pass through the frozen text tower.

    From the second layer on, a layer's prompt takes the place of the words after the start of text, the same for all
    sentences of an image. The end of text does not move.

    Args:
        text: The frozen text tower.
        sentences: Sentences after the first block, ``(B, T, L, D)``.
        prompts: Prompts of the first layers, each ``(B, M, D)`` or ``(1, M, D)``; the very first is never used.
        sizes: Number of sentences for the normal and the abnormal state, T in all.

    Returns:
        Text features of (normal, abnormal), unit length, ``(B, 2, E)``.
    """
    images, count = sentences.end.shape
    each = {
        index: prompt.expand(images, -1, -1).repeat_interleave(count, dim=0)
        for index, prompt in enumerate(prompts)
        if index
    }
    features = text.project(text.run_blocks(sentences.tokens.flatten(0, 1), sentences.end.flatten(), each, first=1))
    features = functional.normalize(features, dim=-1).unflatten(0, (images, count))
    states = [state.mean(dim=1) for state in features.split(list(sizes), dim=1)]
    return functional.normalize(torch.stack(states, dim=1), dim=-1)
