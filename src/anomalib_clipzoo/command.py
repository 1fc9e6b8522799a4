# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The companion command ``clipzoo``: what anomalib's own command does not do.

A subcommand is a function: its signature and its docstring are its options and their help. A parameter without a
default is written without a name; if it is a list, any number of values may follow. What a function raises as
``ValueError`` or ``OSError`` is a message for the user.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import get_type_hints

from docstring_parser import parse
from jsonargparse import ArgumentParser

SUBCOMMANDS = {
    "app": "anomalib_clipzoo.deploy.app:app",
    "check-export": "anomalib_clipzoo.deploy.check:check_export",
    "set-threshold": "anomalib_clipzoo.deploy.thresholds:set_threshold",
    "report": "anomalib_clipzoo.results.report:report",
    "score": "anomalib_clipzoo.deploy.score:score",
    "serve": "anomalib_clipzoo.deploy.serve:serve",
}
"""Subcommands and their functions. The module of each is imported to read its signature: let it be light."""

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What was typed after ``clipzoo``; by default, what was.

    Returns:
        The exit status: what the subcommand returned if that is a number, else 0; 1 for a user's error.
    """
    parser = ArgumentParser(prog="clipzoo", description="Companion of the anomalib command for anomalib-clipzoo.")
    subcommands = parser.add_subcommands(required=True, dest="subcommand")
    functions = {name: _load(place) for name, place in SUBCOMMANDS.items()}
    for name, function in functions.items():
        subcommands.add_subcommand(
            name, _parser_of(function), help=parse(inspect.getdoc(function) or "").short_description
        )
    options = parser.instantiate_classes(parser.parse_args(arguments))
    function = functions[options.subcommand]
    try:
        status = function(**options[options.subcommand].as_dict())
    except (ValueError, OSError) as error:
        logger.debug("The traceback:", exc_info=True)
        print(f"clipzoo {options.subcommand}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return status if isinstance(status, int) else 0


def _load(place: str) -> Callable:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _parser_of(function: Callable) -> ArgumentParser:
    """Make a function's signature a parser."""
    document = parse(inspect.getdoc(function) or "")
    parser = ArgumentParser(description=document.description)
    helps = {parameter.arg_name: parameter.description for parameter in document.params}
    required = [name for name, one in inspect.signature(function).parameters.items() if one.default is one.empty]
    for name in required:
        annotation = get_type_hints(function)[name]
        many = getattr(annotation, "__origin__", None) is list
        kind = annotation.__args__[0] if many else annotation
        parser.add_argument(name, type=kind, help=helps.get(name), nargs="+" if many else None)
    parser.add_function_arguments(function, skip=set(required))
    return parser


if __name__ == "__main__":
    sys.exit(main())
