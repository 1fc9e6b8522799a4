# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The memory of reference images, apart from any model."""

import pytest
import torch
from torch.nn import functional

from anomalib_clipzoo.anomaly.references import _distances


@pytest.mark.parametrize("block", [1, 7, 20, 1000])
def test_search_in_blocks_finds_the_same_and_never_compares_more_at_once(block, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    references, features = (
        functional.normalize(torch.randn(*shape, generator=generator), dim=-1) for shape in ((20, 8), (2, 6, 8))
    )
    expected = (1 - (features @ references.T).amax(dim=-1)) / 2
    compared = []
    amax = torch.Tensor.amax
    monkeypatch.setattr(torch.Tensor, "amax", lambda *a, **k: compared.append(a[0].shape) or amax(*a, **k))
    torch.testing.assert_close(_distances(features, references, block), expected)
    assert max(shape[-1] for shape in compared[:-1]) == min(block, 20)
