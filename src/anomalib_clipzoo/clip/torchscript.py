# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Tensors out of a TorchScript archive, the form of OpenAI's CLIP weights, without TorchScript.

``torch.jit.load`` runs code that an archive brings. Here the archive's pickle is read as data: the few opcodes that
describe modules and tensors, nothing of which is imported or called, in sizes that the file itself bounds.
"""

import math
import pickletools
import sys
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import torch

CONSTANTS = "/constants.pkl"  # only TorchScript archives have it
STORAGES = {
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch IntStorage": torch.int32,
    "torch LongStorage": torch.int64,
}


def is_torchscript(path: Path) -> bool:
    """Tell TorchScript archives from ``torch.save`` files, which are zip archives as well."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(CONSTANTS) for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of an archive under their dotted names.

    Raises:
        ValueError: If the archive is damaged or holds anything but modules of plain tensors.
    """
    with zipfile.ZipFile(path) as archive:
        try:
            return _tensors(_Reader(archive).read())
        except Exception as error:  # damage shows itself in any of them
            msg = (
                f"as TorchScript it holds more than plain tensors, or is damaged ({error!r}); if you trust it, open it "
                "once with open_clip and save its state_dict as .safetensors"
            )
            raise ValueError(msg) from error


class _Reader:
    """Reads what an archive's ``data.pkl`` describes: modules as dictionaries, tensors, plain values."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        names = archive.namelist()
        self.root = next(name for name in names if name.endswith(CONSTANTS)).removesuffix(CONSTANTS)
        if f"{self.root}/byteorder" in names and self._entry("byteorder").decode() != sys.byteorder:
            _refuse("it was written on a machine of another byte order")
        self.storages: dict[str, torch.Tensor] = {}

    def read(self) -> Any:
        stack: list[Any] = []
        marks: list[int] = []
        memo: dict[Any, Any] = {}
        for opcode, argument, _ in pickletools.genops(self._entry("data.pkl")):
            match opcode.name:
                case "PROTO":
                    pass
                case "GLOBAL" | "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                    stack.append(argument)  # a global is but its name here
                case "NONE" | "NEWTRUE" | "NEWFALSE":
                    stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
                case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                    stack.append({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}[opcode.name]())
                case "MARK":
                    marks.append(len(stack))
                case "TUPLE" | "APPENDS" | "SETITEMS":
                    start = marks.pop()
                    items, stack[start:] = stack[start:], []
                    _collect(opcode.name, stack, items)
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    count = int(opcode.name[-1])
                    stack[-count:] = [tuple(stack[-count:])]
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "BINPERSID":
                    stack.append(self._storage(*stack.pop()))
                case "NEWOBJ":
                    stack[-2:] = [{}]  # a module, of whatever class
                case "BUILD" if isinstance(stack[-1], dict):
                    state = stack.pop()
                    stack[-1].update(state)
                case "REDUCE":
                    arguments = stack.pop()
                    stack.append(_make(stack.pop(), arguments))
                case "STOP":
                    break
                case _:
                    _refuse(f"it asks for {opcode.name}")
        return stack.pop()

    def _storage(self, kind: str, storage: str, key: str, location: str, count: int) -> torch.Tensor:
        del kind, location  # "storage"; the device that it was on
        if not isinstance(key, str) or not isinstance(storage, str):
            _refuse("a storage has no name or no type")
        if key not in self.storages:
            data = bytearray(self._entry(f"data/{key}"))
            dtype = STORAGES[storage]
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        values = self.storages[key]
        if values.dtype != STORAGES[storage] or len(values) != count:
            _refuse(f"storage {key} is larger or smaller than it should be")
        return values

    def _entry(self, name: str) -> bytes:
        info = self.archive.getinfo(f"{self.root}/{name}")
        if info.compress_type != zipfile.ZIP_STORED:  # TorchScript packs its code alone; small files could grow large
            _refuse(f"{name} is packed")
        return self.archive.read(info)


def _refuse(why: str) -> NoReturn:
    raise ValueError(why)


def _collect(name: str, stack: list[Any], items: list[Any]) -> None:
    """Make a tuple of items, or put them into the list or dictionary on top of the stack."""
    if name == "TUPLE":
        stack.append(tuple(items))
    elif name == "APPENDS":
        stack[-1].extend(items)
    elif all(isinstance(key, str) for key in items[::2]):
        stack[-1].update(zip(items[::2], items[1::2], strict=True))
    else:
        _refuse("a dictionary has other keys than names")


def _make(function: str, arguments: Any) -> Any:
    """Stand in for the functions that describe a tensor, an empty dictionary of hooks, or a list with its type."""
    if function == "torch._utils _rebuild_tensor_v2":
        values, offset, size, stride = arguments[:4]
        # By a stride of zero, a few values could fill the memory.
        if not all(isinstance(side, int) for side in size) or math.prod(size) > len(values):
            _refuse("a tensor is larger than its storage")
        return values.as_strided(size, stride, offset)
    if function == "collections OrderedDict" and not arguments:
        return {}
    if function.startswith("torch.jit._pickle "):
        return arguments[0]
    _refuse(f"it calls {function!r}")


def _tensors(module: Any) -> dict[str, torch.Tensor]:
    """Join the names of nested modules with dots, each module once; whatever is no tensor is left out."""
    found, seen = {}, set()
    waiting = [("", module)]
    while waiting:
        prefix, content = waiting.pop()
        if isinstance(content, torch.Tensor):
            found[prefix.removesuffix(".")] = content
        elif isinstance(content, dict) and id(content) not in seen:
            seen.add(id(content))
            waiting += [(f"{prefix}{key}.", value) for key, value in reversed(content.items())]
    return found
