# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""How a function of anomalib is replaced."""

from __future__ import annotations

import inspect
import logging
import sys
from dataclasses import dataclass
from functools import reduce, wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patch:
    """One function of anomalib, and what takes its place.

    Args:
        name: By which it is switched off; patches of one name are one for the user.
        place: Where the function is, as ``module:attribute`` or ``module:Class.attribute``.
        mended: Takes the function as anomalib has it, and returns the one for its place. The new one carries the old
            one as ``__wrapped__``, and its signature.
    """

    name: str
    place: str
    mended: Callable[[Callable[..., Any]], Callable[..., Any]]

    @property
    def module(self) -> str:
        """The module that the function is in."""
        return self.place.partition(":")[0]

    def apply(self) -> None:
        """Replace the function; where anomalib has it no more, there is nothing to mend."""
        *path, name = self.place.partition(":")[2].split(".")
        owner: Any = reduce(lambda place, part: getattr(place, part, None), path, sys.modules.get(self.module))
        present = inspect.getattr_static(owner, name, None)
        if present is None:
            logger.debug("anomalib has no %s: the patch %r does nothing.", self.place, self.name)
            return
        original = present.__func__ if isinstance(present, staticmethod) else present
        replacement = wraps(original)(self.mended(original))
        setattr(owner, name, staticmethod(replacement) if isinstance(present, staticmethod) else replacement)
