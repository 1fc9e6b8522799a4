# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Where half precision ends: similarities, probabilities, maps and scores are in full precision, whatever is around.

Towers and projections may run in bfloat16 or float16, by autocast or as they are. What compares their features, and
all that follows, may not: a temperature turns the last bit of a cosine into a visible step of the map, and the
epsilons of harmonic means are zero in half precision.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional

Result = TypeVar("Result")


def full_precision(function: Callable[..., Result]) -> Callable[..., Result]:
    """Run a function in single precision: its tensors are cast, and autocast is off inside."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Result:
        cast = [_to_single(value) for value in args]
        named = {name: _to_single(value) for name, value in kwargs.items()}
        device = next(value.device for value in (*cast, *named.values()) if isinstance(value, torch.Tensor))
        with without_autocast(device):
            return function(*cast, **named)

    return run


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Return a context without autocast."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()  # exported graphs know no context


def _to_single(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def unit(features: torch.Tensor) -> torch.Tensor:
    """Bring features ``(..., D)`` to unit length, in single precision."""
    return functional.normalize(features.float(), dim=-1)


@full_precision
def compare(features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
    """Compare features ``(..., N, E)`` with text features ``(..., S, E)``: inner products ``(..., N, S)``."""
    return features @ text_features.transpose(-2, -1)


def like_weights(layer: Any, features: torch.Tensor) -> torch.Tensor:
    """Run a linear layer in its own precision on features in single precision."""
    return layer(features.to(layer.weight.dtype))


class FullPrecision(nn.Module):
    """A module whose tensors, its parts' among them, go with the model to other devices, not to other precisions."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
        return super()._apply(lambda tensor: _moved(tensor, fn(tensor)), recurse)


def _moved(tensor: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """Take of what a tensor is to become all but the precision."""
    return given if given.dtype == tensor.dtype else tensor.to(given.device)
