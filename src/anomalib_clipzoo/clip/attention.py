# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""One residual attention block, as explicit steps.

open_clip's blocks hold the weights; the forward pass is our own: batch-first whatever open_clip's layout is (it went
from sequence-first to batch-first between 2.24 and 3.x), on ``scaled_dot_product_attention``, and with queries, keys
and values exposed, which value-value attention needs.

Tokens are in single precision wherever the weights are in half: blocks add up to what many of them make of a token, and
sums in half precision lose what the later ones add. Matrix products run in the weights' precision.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from anomalib_clipzoo.anomaly.precision import full_precision

from .compiling import compilable


def normalize(norm: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Run a LayerNorm, in the precision of the tokens."""
    dtype = tokens.dtype
    if norm.weight.dtype == dtype:
        return norm(tokens)
    return functional.layer_norm(tokens, norm.normalized_shape, norm.weight.to(dtype), norm.bias.to(dtype), norm.eps)


def prepare(norm: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Run a LayerNorm before a matrix product, whose precision the result is in."""
    return normalize(norm, tokens).to(norm.weight.dtype)


def project_qkv(
    attention: nn.MultiheadAttention,
    tokens: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Project tokens to queries, keys and values in one product.

    Args:
        attention: The frozen attention layer that holds the projections.
        tokens: Normalised tokens, ``(B, N, D)``.

    Returns:
        Queries, keys and values, each ``(B, heads, N, D / heads)``.
    """
    projected = functional.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = projected.unflatten(-1, (3, attention.num_heads, attention.head_dim)).permute(2, 0, 3, 1, 4)
    return query, key, value


def attend(
    attention: nn.MultiheadAttention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    causal: bool = False,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Scaled dot-product attention, heads joined and projected out.

    Args:
        attention: The frozen attention layer that holds the output projection.
        query: ``(B, heads, N, D / heads)``.
        key: ``(B, heads, M, D / heads)``.
        value: ``(B, heads, M, D / heads)``.
        causal: Whether a token sees only itself and those before it.
        mask: Optional mask that broadcasts to ``(B, heads, N, M)``; ``True`` where a key may be seen.

    Returns:
        ``(B, N, D)``.
    """
    return join_heads(
        attention,
        functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal),
    )


def join_heads(attention: nn.MultiheadAttention, heads: torch.Tensor) -> torch.Tensor:
    """Join what the heads ``(B, heads, N, D / heads)`` found, and project it out: ``(B, N, D)``."""
    return attention.out_proj(heads.transpose(1, 2).flatten(2))


@compilable
def residual_block(
    block: Any,
    tokens: torch.Tensor,
    *,
    causal: bool = False,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Run one pre-norm residual attention block of open_clip.

    Args:
        block: An open_clip ``ResidualAttentionBlock``.
        tokens: ``(B, N, D)``.
        causal: Whether attention is causal, as in the text tower.
        mask: Optional attention mask, see :func:`attend`.

    Returns:
        ``(B, N, D)``.
    """
    query, key, value = project_qkv(block.attn, prepare(block.ln_1, tokens))
    tokens = tokens + block.ls_1(attend(block.attn, query, key, value, causal=causal, mask=mask))
    return feed_forward(block, tokens)


@compilable
def feed_forward(block: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Run the second half of a residual block, the MLP, on tokens ``(B, N, D)``."""
    return tokens + block.ls_2(block.mlp(prepare(block.ln_2, tokens)))


def select(tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Pick one token ``(B, D)`` of each sequence in ``(B, N, D)`` at positions ``(B,)``."""
    return tokens[torch.arange(tokens.shape[0], device=tokens.device), positions]


@compilable
def single_token_block(block: Any, tokens: torch.Tensor, last: torch.Tensor | None = None) -> torch.Tensor:
    """Run a residual block for one token of each sequence, as the last block is where nothing else is read.

    With one query a head, keys and values need not be made: the query goes through the keys' projection to meet the
    tokens themselves, and their weighted mean through the values' projection. The keys' bias shifts all weights of a
    head alike, which the softmax does not see.

    Args:
        block: An open_clip ``ResidualAttentionBlock``.
        tokens: ``(B, N, D)``.
        last: Position ``(B,)`` of the token, which does not see what follows it, as in the text tower. ``None`` for
            the first token, the class token, which sees all.

    Returns:
        ``(B, 1, D)``.
    """
    attention, normalized = block.attn, prepare(block.ln_1, tokens)
    heads = (attention.num_heads, attention.head_dim)
    to_query, to_key, to_value = attention.in_proj_weight.chunk(3)
    query_bias, _, value_bias = attention.in_proj_bias.chunk(3)
    query = functional.linear(_pick(normalized, last), to_query, query_bias) * attention.head_dim**-0.5
    query = query.unflatten(-1, heads).permute(2, 0, 1, 3).flatten(1, 2)  # (heads, B, D / heads)
    query = (query @ to_key.unflatten(0, heads)).transpose(0, 1)  # (B, heads, D)
    mean = _weighted_mean(query, normalized, last).to(to_value.dtype)
    value = mean.transpose(0, 1) @ to_value.unflatten(0, heads).transpose(1, 2)  # (heads, B, D / heads)
    value = value.transpose(0, 1).flatten(1).unflatten(1, (1, -1)) + value_bias
    return feed_forward(block, _pick(tokens, last) + block.ls_1(attention.out_proj(value)))


@full_precision
def _weighted_mean(query: torch.Tensor, tokens: torch.Tensor, last: torch.Tensor | None) -> torch.Tensor:
    """Average tokens ``(B, N, D)`` by how well each head's query ``(B, heads, D)`` meets them: ``(B, heads, D)``."""
    weights = query @ tokens.transpose(1, 2)
    if last is not None:
        follows = torch.arange(tokens.shape[1], device=tokens.device) > last.unsqueeze(1)
        weights = weights.masked_fill(follows.unsqueeze(1), float("-inf"))
    return weights.softmax(dim=-1) @ tokens


def _pick(tokens: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
    return tokens[:, :1] if positions is None else select(tokens, positions).unsqueeze(1)
