# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Post-VCP: text features look at the image's patches."""

import math

import torch
from torch import nn

from anomalib_clipzoo.precision import cosines, full_precision, inverse_length, like_weights, unit

HEADS = 8
TEMPERATURE = 0.07  # initial; learned as the logarithm of its inverse


def inverse_temperature() -> nn.Parameter:
    """Return a learned logit scale, log(1 / 0.07) at first."""
    return nn.Parameter(torch.tensor(math.log(1 / TEMPERATURE)))


class PostVcp(nn.Module):
    """Post-VCP: cross-attention from the text features to the dense image features.

    Queries come from text, keys and values from patches. There is no 1/sqrt(d) in the attention (the reference code has
    an attribute for it that it never uses), no residual and no normalisation but the last. The reference writes the
    four linear layers as convolutions of kernel 1.

    Args:
        text_width: Width E of text features.
        vision_width: Width D of patch tokens.
    """

    def __init__(self, text_width: int, vision_width: int) -> None:
        super().__init__()
        self.query = nn.Linear(text_width, vision_width)
        self.key = nn.Linear(vision_width, vision_width)
        self.value = nn.Linear(vision_width, vision_width)
        self.output = nn.Linear(vision_width, vision_width)
        self.temperature = inverse_temperature()

    def adapt(self, text_features: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """Adapt text features to every layer's patches.

        With two queries an image, keys and values need not be made: queries go through the keys' projection to meet the
        patches themselves, and their weighted means through the values'. The keys' bias shifts all weights of a query
        alike, which the softmax does not see; it takes part all the same, as training on several devices asks for.

        Args:
            text_features: ``(B, 2, E)``.
            patches: Patch tokens of K layers, which count by their direction, ``(K, B, N, D)``.

        Returns:
            Adapted text features, unit length, ``(K, B, 2, D)``.
        """
        query = like_weights(self.query, text_features)
        learned = (self.key.weight, self.key.bias, self.value.weight, self.value.bias)
        return unit(like_weights(self.output, _attend(query, patches, *learned)))

    def forward(self, text_features: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """Compare patches ``(K, B, N, D)`` with the adapted text: logits of (normal, abnormal), ``(K, B, N, 2)``."""
        adapted = self.adapt(text_features, patches)
        return cosines(patches, self.temperature.float().exp() * adapted)


@full_precision
def _attend(
    query: torch.Tensor,
    patches: torch.Tensor,
    to_key: torch.Tensor,
    key_bias: torch.Tensor,
    to_value: torch.Tensor,
    value_bias: torch.Tensor,
) -> torch.Tensor:
    """Let queries ``(B, Q, D)`` attend to the directions of patches ``(K, B, N, D)``: ``(K, B, Q, D)``."""
    count, query = query.shape[1], query.unflatten(-1, (HEADS, -1))
    bias = (query * key_bias.unflatten(0, (HEADS, -1))).sum(dim=-1).transpose(1, 2).flatten(1)
    query = torch.einsum("bqhc,hcd->bhqd", query, to_key.unflatten(0, (HEADS, -1))).flatten(1, 2)  # (B, heads * Q, D)
    scale = inverse_length(patches).transpose(-2, -1)
    weights = (query @ patches.transpose(-2, -1) * scale + bias.unsqueeze(-1)).softmax(dim=-1)
    mean = (weights * scale @ patches).unflatten(2, (HEADS, count))
    return torch.einsum("kbhqd,hcd->kbqhc", mean, to_value.unflatten(0, (HEADS, -1))).flatten(3) + value_bias
