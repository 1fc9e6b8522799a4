# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What blocks run faster with on a processor: parts that stay in its cache.

Large tensors cost more than their arithmetic: memory that was given back is taken anew from the system, page by page.
And ``scaled_dot_product_attention`` neither uses bfloat16 units nor suits short sequences, such as windows. Results are
the same but for rounding. What learns, compiles or exports runs as a whole, and so does every other device.
"""

from collections.abc import Callable

import torch
from torch.nn import functional

HIDDEN_BYTES = 12 * 2**20  # of an MLP's hidden values at a time
WEIGHT_BYTES = 4 * 2**20  # of attention weights at a time
SHORT = 256  # tokens of a sequence that plain products are faster for in single precision, too


def pays(tensor: torch.Tensor) -> bool:
    """Say whether a tensor is on a processor, and nothing but its values is asked for."""
    watched = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()
    return tensor.device.type == "cpu" and not watched


def in_parts(run: Callable[[torch.Tensor], torch.Tensor], tokens: torch.Tensor, width: int) -> torch.Tensor:
    """Run a function of single tokens on a part of them after the other, where that pays.

    Args:
        run: From tokens ``(..., D)`` to tokens ``(..., D)``.
        tokens: ``(B, N, D)``.
        width: Values that ``run`` makes of each token in between.

    Returns:
        ``(B, N, D)``.
    """
    if not pays(tokens):  # first: a graph that is traced must not be bound to sizes
        return run(tokens)
    hidden = tokens.shape[:-1].numel() * width * tokens.element_size()
    if hidden <= HIDDEN_BYTES:
        return run(tokens)
    parts = tokens.flatten(0, -2).chunk(-(-hidden // HIDDEN_BYTES))
    return torch.cat([run(part) for part in parts]).view_as(tokens)


def weigh_values(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    causal: bool = False,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Scaled dot-product attention.

    Args:
        query: ``(B, heads, N, D / heads)``.
        key: ``(B, heads, M, D / heads)``.
        value: ``(B, heads, M, D / heads)``.
        causal: Whether a token sees only itself and those before it.
        mask: Optional mask that broadcasts to ``(B, heads, N, M)``; ``True`` where a key may be seen.

    Returns:
        ``(B, heads, N, D / heads)``.
    """
    if causal or mask is not None or not pays(query) or query.dtype != torch.float32 or key.shape[-2] > SHORT:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    heads = [part.flatten(0, 1) for part in (query, key, value)]
    weights = query.shape[-2] * key.shape[-2] * query.element_size()
    parts = zip(*(part.split(max(1, WEIGHT_BYTES // weights)) for part in heads), strict=True)
    attended = [torch.bmm(_logits(queries, keys).softmax(dim=-1), values) for queries, keys, values in parts]
    return torch.cat(attended).unflatten(0, query.shape[:2])


def _logits(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Compare queries ``(S, N, D)`` with keys ``(S, M, D)``, scaled before anything is rounded: ``(S, N, M)``."""
    return torch.baddbmm(queries.new_zeros(()), queries, keys.mT, beta=0, alpha=queries.shape[-1] ** -0.5)
