# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Post-VCP: text features look at the image's patches."""

import math

import torch
from torch import nn
from torch.nn import functional

from anomalib_clipzoo.anomaly.precision import compare, like_weights, unit

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

    def adapt(self, text_features: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """Adapt text features to every layer's patches.

        Args:
            text_features: ``(B, 2, E)``.
            dense: Patch tokens of K layers, unit length, ``(K, B, N, D)``.

        Returns:
            Adapted text features, unit length, ``(K, B, 2, D)``.
        """
        layers, patches = len(dense), dense.flatten(0, 1)  # one batch axis: exporters know attention on four axes alone
        query = _heads(like_weights(self.query, text_features).expand(layers, -1, -1, -1).flatten(0, 1))
        key, value = _heads(like_weights(self.key, patches)), _heads(like_weights(self.value, patches))
        attended = functional.scaled_dot_product_attention(query, key, value, scale=1.0)
        adapted = unit(self.output(attended.transpose(1, 2).flatten(2)))
        return adapted.unflatten(0, (layers, -1))

    def forward(self, text_features: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        """Compare patches with the adapted text: logits of (normal, abnormal), ``(K, B, N, 2)``."""
        adapted = self.adapt(text_features, dense)
        return compare(self.temperature.float().exp() * dense, adapted)


def _heads(tokens: torch.Tensor) -> torch.Tensor:
    """Split ``(B, N, D)`` into heads ``(B, 8, N, D / 8)``."""
    return tokens.unflatten(-1, (HEADS, -1)).transpose(1, 2)
