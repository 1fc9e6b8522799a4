# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What the processes of a distributed run tell each other."""

from typing import TypeVar

from torch import distributed

T = TypeVar("T")


def gather(value: T) -> list[T]:
    """Return the values of all processes, in their order; where there is one process alone, its own."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[T] = [value] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
