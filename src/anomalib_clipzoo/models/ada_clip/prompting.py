# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Hybrid prompts in both towers: learned tokens that all images share, plus tokens made from the image itself."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from anomalib_clipzoo.clip import Backbone, VisionFeatures, VisionTower
from anomalib_clipzoo.clip.attention import residual_block, single_token_block

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
        half: Whether prompts pass through half precision, as they do in the reference code on a GPU.
    """

    def __init__(
        self,
        width: int,
        joint: int,
        *,
        depth: int,
        length: int,
        kind: PromptingType,
        half: bool = False,
    ) -> None:
        super().__init__()
        self.depth = depth
        self.half_prompts = half
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
        prompts = self._prompts(image_features)
        return [prompt.half().to(prompt.dtype) for prompt in prompts] if self.half_prompts else prompts

    def _prompts(self, image_features: torch.Tensor | None) -> list[torch.Tensor]:
        static = [prompt[None] for prompt in self.static]
        if image_features is None or not len(self.dynamic):
            return static
        dynamic = torch.stack([generate(image_features) for generate in self.dynamic], dim=1)
        return [prompt + dynamic for prompt in static] or [dynamic] * self.depth


def check_prompting(backbone: Backbone, depth: int, length: int, branch: str, kind: str) -> None:
    """Make sure that prompts fit both towers.

    Raises:
        ValueError: If branch or kind is unknown, or depth or length beyond the towers.
    """
    if branch not in {"VL", "V", "L", ""} or kind not in {"SD", "S", "D"}:
        msg = (
            f"prompting_branch must be 'VL', 'V', 'L' or '', not {branch!r}; "
            f"prompting_type 'SD', 'S' or 'D', not {kind!r}."
        )
        raise ValueError(msg)
    deepest = min(backbone.vision.depth, backbone.text.depth)
    if not 1 <= depth <= deepest:
        msg = (
            f"prompting_depth {depth} must be within both towers, 1 to {deepest} for this backbone; "
            "prompting_branch '' goes without prompts."
        )
        raise ValueError(msg)
    longest = backbone.text.context_length - 1
    if not 1 <= length <= longest:
        msg = f"prompting_length {length} must be 1 to {longest}, what the text tower has room for."
        raise ValueError(msg)


@torch.no_grad()
def plain_features(vision: VisionTower, tokens: torch.Tensor, layers: Sequence[int] = ()) -> VisionFeatures:
    """Run the frozen tower without prompts, none of its tokens further than it is looked at.

    Args:
        vision: The frozen image tower.
        tokens: Embedded images, ``(B, 1 + N, D)``.
        layers: Blocks, counted from 1, whose output tokens are wanted.

    Returns:
        Image features, not normalised, ``(B, E)``, and the layers' tokens, each ``(B, 1 + N, D)``.
    """
    tapped = []
    for layer, block in enumerate(vision.blocks, start=1):
        only_class = layer == vision.depth and layer not in layers
        tokens = single_token_block(block, tokens) if only_class else residual_block(block, tokens)
        if layer in layers:
            tapped.append(tokens)
    return VisionFeatures(image=vision.project(tokens[:, 0]), tokens=tapped)


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
        tokens: Embedded images, ``(B, 1 + N, D)``.
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
