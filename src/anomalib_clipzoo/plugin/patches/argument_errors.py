# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What jsonargparse finds wrong with an argument, in one line instead of ten to twenty."""

from __future__ import annotations

import os
import re
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    from jsonargparse import ArgumentParser

STATUS = 2  # with which argparse ends
KEY = re.compile(r'Parser key "([^"]+)":?')
CLASS = re.compile(r"Problem with given class_path '(?:[\w.]+\.)?(\w+)':")
VALUE = re.compile(r"^\s*Given value: (.*)$", re.MULTILINE)
# Lines about jsonargparse's way to the cause, or about alternatives that were not meant.
BESIDE_THE_POINT = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value|Expected a path but|Expected a <class 'NoneType'>"
)


def _of_type(match: re.Match[str]) -> str:
    return f"it must be of the type {match[1]}" + (f", not {match[2]}" if match[2] else "")


IN_WORDS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^Not of type \w+: does not conform to restriction (.*)", r"it must be a number v with \1"),
    (r"^Not of type \w+: ", ""),
    (r"^Expected a <class 'collections.abc.Sequence'>", "it must be a list"),
    (r"^Expected a dot import path string: \w*", "there is no such class, or it is another kind of thing"),
    (r"^Expected an? <class '(?:[\w.]+\.)?(\w+)'>(?:\. Got value: (.*))?", _of_type),
    (r"^Expected an? typing\.Literal\[(.*?)\]", r"it must be one of \1"),
    (r"^Option '(.*)' is not accepted", r"there is no argument '\1'"),
)


def end_with_the_cause(init_parser: Callable[..., ArgumentParser]) -> Callable[..., ArgumentParser]:
    """Have parsers end the command with one line, the cause, where they printed all types that they tried."""

    def init(**kwargs: Any) -> ArgumentParser:
        parser = init_parser(**kwargs)
        parser.error = partial(_end, parser, parser.error)  # type: ignore[method-assign]
        return parser

    return init


def _end(parser: ArgumentParser, fail: Callable[..., NoReturn], message: str, ex: Exception | None = None) -> NoReturn:
    if not parser.exit_on_error or os.environ.get("ANOMALIB_CLIPZOO_TRACEBACK") == "1":
        fail(message, ex)
    sys.stderr.write(f"Error: {cause_of(message)}\n")
    parser.exit(STATUS)


def cause_of(message: str) -> str:
    """Find the cause in what jsonargparse says of an argument.

    Args:
        message: Its message: nested, with a ``Parser key`` for each level, and all types that did not fit.

    Returns:
        One line: the argument, the value that it was given, and why it cannot have it.
    """
    names = KEY.findall(message)
    inner = KEY.split(message)[-1]
    given = VALUE.search(inner) if "Subtypes:" in inner and not CLASS.search(inner) else None
    classes = CLASS.findall(inner)
    inner = CLASS.split(inner)[-1]
    lines = [line.strip().removeprefix("- ") for line in inner.splitlines()]
    causes = dict.fromkeys(_in_words(line) for line in lines if line and not BESIDE_THE_POINT.match(line))
    argument = ".".join(names) + (f"={given[1]}" if given else "") + "".join(f" {name}" for name in classes)
    separator = ", or " if given else " "  # types that were tried, or one sentence over several lines
    return ": ".join(filter(None, [argument, separator.join(causes) or " ".join(message.split())]))


def _in_words(line: str) -> str:
    for pattern, words in IN_WORDS:
        line = re.sub(pattern, words, line)
    return line
