# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Texts are encoded once: what is kept of them, and when it no longer holds."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import nn


class TextCache:
    """What was encoded of texts, by name, as long as everything that it was made with stays as it is.

    Values are made without gradients, outside autocast and outside inference mode, so that training may use them later.
    Exported graphs hold them as constants, without the text tower.
    """

    def __init__(self) -> None:
        self._values: dict[Hashable, Any] = {}
        self._made_with: tuple[Any, ...] = ()

    def __len__(self) -> int:
        """Number of names that something is kept of."""
        return len(self._values)

    @property
    def names(self) -> list[Any]:
        """The names that something is kept of, in the order in which they came."""
        return list(self._values)

    def lookup(
        self,
        names: Sequence[Hashable],
        modules: Sequence[nn.Module],
        encode: Callable[[list[Any]], Sequence[Any]],
    ) -> list[Any]:
        """Return the values of names, encoding those that are not known.

        Args:
            names: What to look up; the same one may come several times.
            modules: All modules whose weights the values depend on.
            encode: Makes the values of names, one for each.
        """
        if not torch.compiler.is_compiling():
            made_with = tuple(_version(tensor) for module in modules for tensor in _tensors(module))
            if made_with != self._made_with:
                self._values, self._made_with = {}, made_with
        if unknown := [name for name in dict.fromkeys(names) if name not in self._values]:
            device = next(_tensors(modules[0])).device.type
            with torch.inference_mode(mode=False), torch.no_grad(), torch.autocast(device, enabled=False):
                self._values.update(zip(unknown, encode(unknown), strict=True))
        return [self._values[name] for name in names]


def _tensors(module: nn.Module) -> Any:
    yield from module.parameters()
    yield from module.buffers()


def _version(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Tell a tensor's values from others without looking at them: any change in place counts up its version."""
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tensor.device
