# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""From what the user gave, what learned weights were made with, and the paper's defaults to a model's arguments."""

import inspect
import math
import operator
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import torch
from jsonargparse import ArgumentError, ArgumentParser

from .weights import LearnedWeights

AUTO = "auto"
"""Stands for an argument that the user leaves open, where ``None`` has a meaning of its own."""

BOUNDS = {operator.gt: "above", operator.ge: "from", operator.le: "to", operator.lt: "below"}
IN_WORDS = {"NoneType": "None", "NotEmptyStr": "words", "str": "text", "bool": "true or false", "Path": "a path"}
COMPONENTS = frozenset({"predictions", "pre_processor", "post_processor", "evaluator", "visualizer"})


@dataclass(frozen=True)
class Arguments:
    """The arguments of a model before the paper's defaults are known, which depend on the CLIP.

    Attributes:
        given: What the user gave, checked; what was left open is not in it.
        learned: Learned weights and what they were made with, if there are any.
        components: anomalib's components and the table of predictions as the user gave them: a module, a callback, or
            whether to use the default.
    """

    given: Mapping[str, Any]
    learned: LearnedWeights | None
    components: Mapping[str, Any]

    def choose(self, name: str, default: Any) -> Any:
        """Return an argument: what the user gave, else what the weights were made with, else the default."""
        if name in self.given:
            return self.given[name]
        recorded = self.learned.arguments.get(name) if self.learned else None
        return default if recorded is None else recorded


def check_arguments(model: type, arguments: Mapping[str, Any], source: str = "") -> dict[str, Any]:
    """Check values against the types of a model's constructor, as the command line does.

    Args:
        model: The Lightning module's class.
        arguments: Values by argument. NumPy's numbers and arrays, paths and sets become plain data.
        source: Where they are from, for messages; empty if the user gave them.

    Returns:
        Plain data, in the constructor's types.

    Raises:
        ValueError: If the constructor has no such argument or a value does not fit; the message says what would.
    """
    return {name: _check(model, name, plain(name, value), source) for name, value in arguments.items()}


def _check(model: type, name: str, value: Any, source: str) -> Any:
    parser, types = _parser(model)
    if name not in types:
        msg = f"{source or model.__name__}: there is no argument {name!r}; this may be the file of a newer version."
        raise ValueError(msg)
    try:
        return plain(name, parser.parse_object({name: value}, defaults=False)[name])
    except (ArgumentError, TypeError, ValueError, KeyError) as error:
        at = f"{source}: " if source else ""
        msg = f"{at}{name}={value!r} is not what {model.__name__} takes: {types[name]}."
        raise ValueError(msg) from error


@cache
def _parser(model: type) -> tuple[ArgumentParser, dict[str, str]]:
    """Return a parser of a model's arguments, components left out, and their types in words."""
    parser = ArgumentParser(exit_on_error=False)
    names = parser.add_class_arguments(model, skip=set(COMPONENTS))
    parameters = inspect.signature(model).parameters
    return parser, {name: _in_words(parameters[name].annotation) for name in names}


def _in_words(annotation: Any) -> str:
    """Write a type for people: choices, bounds of numbers, no modules."""
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return " or ".join(map(repr, parts))
    if get_origin(annotation) is Sequence:
        return f"a list of {_in_words(parts[0])}"
    if get_origin(annotation) is tuple:
        return f"a list of {len(parts)}, each {_in_words(parts[0])}"
    if parts:
        return " or ".join(map(_in_words, parts))
    if restrictions := getattr(annotation, "_restrictions", None):
        bounds = [f"{BOUNDS[compare]} {bound}" for compare, bound in restrictions if bound != math.inf]
        return f"{'a whole number' if issubclass(annotation, int) else 'a number'} {' and '.join(bounds)}"
    return IN_WORDS.get(annotation.__name__, annotation.__name__)


@contextmanager
def errors_named(arguments: Arguments) -> Iterator[None]:
    """Say in errors which file of weights the arguments are from, where the user gave not all of them."""
    try:
        yield
    except ValueError as error:
        learned = arguments.learned
        if learned is None or not learned.record or str(learned.path) in str(error):
            raise
        msg = f"{error} Arguments that were not given are those of {learned.path}."
        raise ValueError(msg) from error


def defaults_of(model: type) -> dict[str, Any]:
    """Return the default values of a constructor's arguments, as far as it has any."""
    parameters = inspect.signature(model).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}


def plain(name: str, value: Any) -> Any:
    """Turn numbers and arrays of NumPy and torch, paths, sets and sequences into what JSON can hold.

    Raises:
        ValueError: If a value is nothing of the kind: what cannot be saved is refused before training.
    """
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Set):
        return [plain(name, item) for item in sorted(value)]
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [plain(name, item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):  # jsonargparse's words and numbers have types of their own
        if isinstance(value, kind):
            return kind(value)
    msg = f"{name}={value!r} cannot be saved with what is learned: give numbers, words, or lists of them."
    raise ValueError(msg)
