# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Patches of anomalib's command."""

from __future__ import annotations

import logging
import os
import sys
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomalib.cli import AnomalibCLI
    from jsonargparse import ArgumentParser

logger = logging.getLogger(__name__)

Constructed = TypeVar("Constructed")

TRACEBACK = "ANOMALIB_CLIPZOO_TRACEBACK"
"""Environment variable; with ``1`` a command that fails shows the whole traceback, as anomalib does."""

UNREADABLE = 3
"""Exit status of a prediction in which some images could not be read, when all others are done."""

PACKAGE = __name__.partition(".")[0]
WHAT_USERS_CAN_MEND = (ValueError, OSError, ImportError)


def seed_before_construction(prepare: Callable[[AnomalibCLI], None]) -> Callable[[AnomalibCLI], None]:
    """Use ``--seed_everything``, which promises to act before model and data are made, and which is read and forgotten.

    No two runs learned from the same batches, whatever the seed. Without a seed the command stays as it was.
    """

    def seed_and_prepare(self: AnomalibCLI) -> None:
        seed = (self.config.get(self.subcommand) or {}).get("seed_everything")
        if isinstance(seed, int) and not isinstance(seed, bool):  # True, the default, asks for no seed in particular
            from lightning.pytorch import seed_everything

            seed_everything(seed, workers=True)
        prepare(self)

    return seed_and_prepare


class _ConstructorError(BaseException):
    """Carries an exception past jsonargparse, which turns those that it knows into a page about types."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def _construct(class_type: type[Constructed], *args: Any, **kwargs: Any) -> Constructed:
    try:
        return class_type(*args, **kwargs)
    except Exception as error:
        raise _ConstructorError(error) from None


def let_constructor_errors_through(init_parser: Callable[..., ArgumentParser]) -> Callable[..., ArgumentParser]:
    """Have parsers make objects so that what their constructors raise gets out as it is."""

    def init(**kwargs: Any) -> ArgumentParser:
        parser = init_parser(**kwargs)
        parser.add_instantiator(_construct, object)
        return parser

    return init


def raise_constructor_errors(instantiate: Callable[[AnomalibCLI], None]) -> Callable[[AnomalibCLI], None]:
    """Raise what a constructor raised, where "does not validate against any of the Union subtypes" came instead."""

    def instantiate_classes(self: AnomalibCLI) -> None:
        try:
            return instantiate(self)
        except _ConstructorError as failure:
            error = failure.error
        raise error  # out here, so that it has no other context than its own

    return instantiate_classes


def end_with_one_line(main: Callable[[], None]) -> Callable[[], None]:
    """End the command with one line where the user can mend the cause, instead of two hundred about the code."""

    def main_with_one_line() -> None:
        try:
            main()
        except Exception as error:
            if os.environ.get(TRACEBACK) == "1" or not _is_for_users(error):
                raise
            logger.debug("The traceback:", exc_info=True)
            sys.exit(f"Error: {error}")

    return main_with_one_line


def _is_for_users(error: Exception) -> bool:
    """Tell whether this package raised an error, or the constructor of any class that the command makes."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    ours = frames[-1].f_globals.get("__name__", "").partition(".")[0] == PACKAGE
    constructed = any(frame.f_code is _construct.__code__ for frame in frames)
    return isinstance(error, WHAT_USERS_CAN_MEND) and (ours or constructed)


def log_once(configure: Callable[..., None]) -> Callable[..., None]:
    """Write each line of the log once; a second handler wrote it again, folded at the edge of the terminal."""

    def configure_logger(*args: Any, **kwargs: Any) -> None:
        from rich.logging import RichHandler

        configure(*args, **kwargs)
        for name in (None, "lightning.pytorch"):
            configured = logging.getLogger(name)
            plain = [handler for handler in configured.handlers if not isinstance(handler, RichHandler)]
            configured.handlers = plain or configured.handlers

    return configure_logger


def keep_no_predictions(prepare: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Keep no predictions in memory, where the command kept all maps of all images and used none of them."""

    def prepare_subcommand_kwargs(self: AnomalibCLI, subcommand: str) -> dict[str, Any]:
        arguments = prepare(self, subcommand)
        if subcommand == "predict" and arguments.get("return_predictions") is None:
            arguments["return_predictions"] = False
        return arguments

    return prepare_subcommand_kwargs


def tell_unreadable(run: Callable[[AnomalibCLI], None]) -> Callable[[AnomalibCLI], None]:
    """End with :data:`UNREADABLE` where :func:`.engine.read_what_can_be_read` went on behind an image."""

    def run_subcommand(self: AnomalibCLI) -> None:
        run(self)
        trainer = getattr(getattr(self, "engine", None), "_trainer", None)
        if any(getattr(callback, "unreadable", 0) for callback in getattr(trainer, "callbacks", ())):
            sys.exit(UNREADABLE)

    return run_subcommand
