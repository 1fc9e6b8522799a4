# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What blocks do in parts, or with plain products, is what they do as a whole."""

import pytest
import torch
from open_clip.transformer import QuickGELU as OpenClips
from torch.nn import functional

from anomalib_clipzoo.clip import processor
from anomalib_clipzoo.clip.activation import QuickGELU
from anomalib_clipzoo.clip.processor import in_parts, weigh_values


def heads(length: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values of 2 sequences and 3 heads, as slices of one projection, keys far from zero."""
    projected = torch.randn(2, length, 3 * 3 * 64, generator=torch.Generator().manual_seed(0))
    query, key, value = projected.unflatten(-1, (3, 3, 64)).permute(2, 0, 3, 1, 4)
    return query.to(dtype), (key + 5).to(dtype), value.to(dtype)


@pytest.mark.parametrize("length", [5, 50, 300])
@pytest.mark.parametrize("weight_bytes", [processor.WEIGHT_BYTES, 50_000])
def test_attention(monkeypatch: pytest.MonkeyPatch, length: int, weight_bytes: int) -> None:
    """Plain products give what torch's function gives, however many heads are taken at once."""
    monkeypatch.setattr(processor, "WEIGHT_BYTES", weight_bytes)
    monkeypatch.setattr(processor, "SHORT", 1000)
    query, key, value = heads(length)
    expected = functional.scaled_dot_product_attention(query, key, value)
    with torch.no_grad():
        torch.testing.assert_close(weigh_values(query, key, value), expected, atol=1e-6, rtol=1e-5)


def test_attention_in_bfloat16() -> None:
    """What all keys have in common costs no precision: the error stays near that of rounding the results."""
    query, key, value = heads(300, torch.bfloat16)
    exact = functional.scaled_dot_product_attention(query.double(), key.double(), value.double())
    with torch.no_grad():
        error = (weigh_values(query, key, value) - exact).norm() / exact.norm()
    assert error < 2e-2


def test_queries_of_another_number() -> None:
    """A single query attends as several do."""
    query, key, value = heads(20)
    with torch.no_grad():
        torch.testing.assert_close(
            weigh_values(query[:, :, :1], key, value),
            weigh_values(query, key, value)[:, :, :1],
        )


def test_what_stays_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks, causal attention and gradients are torch's business."""
    calls = []
    attention = functional.scaled_dot_product_attention
    monkeypatch.setattr(
        processor.functional,
        "scaled_dot_product_attention",
        lambda *args, **kwargs: calls.append(kwargs) or attention(*args, **kwargs),
    )
    query, key, value = heads(5)
    with torch.no_grad():
        weigh_values(query, key, value)
        assert not calls
        weigh_values(query, key, value, causal=True)
        weigh_values(query, key, value, mask=torch.ones(5, 5, dtype=torch.bool))
    weigh_values(query, key, value)
    assert len(calls) == 3


def test_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens run in parts of bounded size, as a whole where gradients are asked for, with the same result."""
    seen = []

    def run(tokens: torch.Tensor) -> torch.Tensor:
        seen.append(tokens.shape[:-1].numel())
        return tokens.square()

    tokens = torch.randn(3, 50, 8)
    monkeypatch.setattr(processor, "HIDDEN_BYTES", 40 * 32 * tokens.element_size())
    whole = in_parts(run, tokens, width=32)
    assert seen == [150]
    seen.clear()
    with torch.no_grad():
        assert in_parts(run, tokens, width=32).equal(whole)
    assert sum(seen) == 150
    assert max(seen) <= 40


def test_graphs_are_bound_to_no_sizes() -> None:
    """What is traced for export takes batches of any size, although parts depend on it."""

    class Squares(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return weigh_values(*(in_parts(torch.square, tokens, width=32).unflatten(-1, (2, 4)).transpose(1, 2),) * 3)

    with torch.no_grad():
        shapes = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(Squares(), (torch.randn(2, 50, 8),), dynamic_shapes=shapes).module()
        for count in (1, 2, 7):
            tokens = torch.randn(count, 50, 8)
            torch.testing.assert_close(program(tokens), Squares()(tokens))


def test_quick_gelu() -> None:
    """Ours is open_clip's, with its gradient."""
    ours, theirs = (torch.linspace(-20, 20, 1001).requires_grad_() for _ in range(2))
    QuickGELU()(ours).sum().backward()
    OpenClips()(theirs).sum().backward()
    torch.testing.assert_close(QuickGELU()(ours), OpenClips()(theirs))
    torch.testing.assert_close(ours.grad, theirs.grad)
