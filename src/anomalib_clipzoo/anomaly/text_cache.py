# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Texts are encoded once: what is kept of them, and when it no longer holds."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from .precision import without_autocast


class Origin(NamedTuple):
    """What everything in a cache was made with.

    Attributes:
        tensors: Place, version, precision and device of each tensor of the modules.
        learned: Values of those that are learned, one after the other.
    """

    tensors: list[tuple[Any, ...]]
    learned: torch.Tensor


class TextCache(nn.Module):
    """What was encoded of texts, by name, as long as everything that it was made with stays as it is.

    Values are made without gradients, outside autocast and outside inference mode, so that training may use them later.
    Exported graphs hold them as constants, without the text tower.

    The frozen CLIP's tensors are told from changed ones by where they are and how often they were changed in place.
    Learned ones, of which there are few, are compared by value: changes through ``.data`` leave no trace. Nothing is
    kept over a change of precision, which a second one need not undo.
    """

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[Hashable, Any] = {}
        self._origin: Origin | None = None
        self._compared = False  # since the model was last trained

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

        Raises:
            RuntimeError: If a model is exported that was not run before with the same names, and after training.
        """
        if is_exporting():
            return self._constants(names)
        self._forget_what_changed(modules)
        if unknown := [name for name in dict.fromkeys(names) if name not in self._values]:
            device = next(_tensors(modules[:1])).device
            with torch.inference_mode(mode=False), torch.no_grad(), without_autocast(device):
                self._values.update(zip(unknown, encode(unknown), strict=True))
        return [self._values[name] for name in names]

    def _constants(self, names: Sequence[Hashable]) -> list[Any]:
        """Return values for a graph, in which nothing can be compared or encoded."""
        unknown = [name for name in names if not self._compared or name not in self._values]
        if unknown:
            msg = (
                f"Texts about {', '.join(map(repr, unknown))} are to be constants of the exported graph, but are not "
                "encoded yet: run the model once, in evaluation mode and with the same class names, then export it."
            )
            raise RuntimeError(msg)
        return [self._values[name] for name in names]

    def _forget_what_changed(self, modules: Sequence[nn.Module]) -> None:
        origin = _origin(modules)
        before = self._origin
        if before is None or before.tensors != origin.tensors or not torch.equal(before.learned, origin.learned):
            self._values, self._origin = {}, origin
        self._compared = True

    def train(self, mode: bool = True) -> "TextCache":
        """Switch between training, which changes what is learned, and evaluation."""
        self._compared = self._compared and not mode
        return super().train(mode)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "TextCache":
        if fn(torch.empty(0)).dtype is not torch.float32:  # a cast, not a move
            self._values = {}
        return super()._apply(fn, recurse)


def is_exporting() -> bool:
    """Tell whether a graph is made for export; what torch compiles for itself goes on looking for changes."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()  # older versions know no difference


def _origin(modules: Sequence[nn.Module]) -> Origin:
    learned = [tensor.detach().flatten() for tensor in _tensors(modules) if tensor.requires_grad]
    return Origin([_trace(tensor) for tensor in _tensors(modules)], torch.cat(learned) if learned else torch.empty(0))


def _tensors(modules: Sequence[nn.Module]) -> Iterator[torch.Tensor]:
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()


def _trace(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Tell a tensor from others without looking at its values: any change in place counts up its version."""
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tensor.device
