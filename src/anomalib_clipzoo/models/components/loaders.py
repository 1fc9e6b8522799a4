# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The images of a loop before the loop itself comes to them."""

from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import DataLoader, Subset


def read_before(
    loader: DataLoader,
    numbers: Sequence[int] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    batch_size: int | None = None,
) -> DataLoader:
    """Return a loader of the same images in the dataset's order, all of them, whatever the loop's limits.

    Iterating over a loop's own loader exhausts the samplers by which Lightning keeps predictions: it would return none.

    Args:
        loader: The loop's loader.
        numbers: Which images of the dataset; left out: all.
        collate: What makes a batch of items, if not what the loop has.
        batch_size: Images in a batch, if not as many as in the loop.
    """
    return DataLoader(
        loader.dataset if numbers is None else Subset(loader.dataset, numbers),
        batch_size=batch_size or getattr(loader.batch_sampler, "batch_size", 1),
        num_workers=loader.num_workers,
        collate_fn=collate or loader.collate_fn,
    )
