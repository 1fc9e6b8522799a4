# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Blocks of the towers as compiled functions (``torch.compile``).

All blocks of a tower are the same code, which is compiled once and not once for each block. What is compiled are
functions: blocks know no more than that they are to be run so, and state dicts, copies and exports are what they were.
"""

from collections.abc import Callable, Iterable
from functools import cache, wraps
from typing import Any

import torch

GRAPHS = 64  # of a function, in all towers and ways of running them; torch's own limit is 8


def compilable(run: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Let a function of a block and tensors run compiled for blocks that :func:`compile_blocks` was told of."""

    @wraps(run)
    def choose(block: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not getattr(block, "compiled", False) or torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return run(block, *args, **kwargs)
        with torch._dynamo.config.patch(recompile_limit=GRAPHS):
            return _compiled(run)(block, *args, **kwargs)

    return choose


@cache
def _compiled(run: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return torch.compile(run, fullgraph=True, dynamic=True)


def compile_blocks(blocks: Iterable[Any]) -> None:
    """Have blocks run by compiled functions from now on."""
    for block in blocks:
        block.compiled = True


def check_compiler() -> None:
    """Make sure that this machine can compile.

    Raises:
        ValueError: If it has no C++ compiler.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        msg = (
            "compile=True needs a C++ compiler, and there is none on this machine: install g++ (Linux: your "
            "distribution's package g++; macOS: xcode-select --install; Windows: Visual Studio's build tools), name "
            "another one in the environment variable CXX, or leave compile out."
        )
        raise ValueError(msg) from error
