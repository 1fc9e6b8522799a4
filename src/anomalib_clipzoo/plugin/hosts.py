# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Waits for the packages of anomalib to be imported, and serves each of them once."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

logger = logging.getLogger(__name__)


def _discover(host: ModuleType) -> None:
    from .discovery import discover

    discover(host)


def _mend(host: ModuleType) -> None:
    from .patches import mend

    mend(host)


SERVICES: dict[str, tuple[Callable[[ModuleType], None], ...]] = {
    "anomalib.models": (_discover,),
    "anomalib.data": (_discover, _mend),
    "anomalib.engine": (_mend,),
    "anomalib.visualization": (_mend,),
    "anomalib.pipelines": (_mend,),
    "anomalib.cli": (_mend,),
}
"""What each package of anomalib gets once it is imported."""

_served: set[ModuleType] = set()


def register() -> None:
    """Serve anomalib's packages: at once those that are imported already, the others as soon as they are.

    This may be called any number of times, takes well under a millisecond before anomalib is imported, and never
    raises an exception.
    """
    try:
        if "anomalib" in sys.modules:
            _watch(sys.modules["anomalib"])
            _serve()
        elif _Lookout not in sys.meta_path:
            sys.meta_path.insert(0, _Lookout)
    except Exception:
        logger.warning("The plug-ins of anomalib could not be registered.", exc_info=True)


class _Lookout:
    """A finder that finds nothing: it sees the first import from inside anomalib, and has the package watched."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:  # noqa: ARG004
        if name.startswith("anomalib.") and "anomalib" in sys.modules:
            _watch(sys.modules["anomalib"])


class _WatchedPackage(ModuleType):
    """The package anomalib as long as a part of it waits to be served.

    Python sets a submodule as an attribute of its package once the submodule's import has ended; from then on plug-ins
    can import from it. Wrapping the loader of ``anomalib.models`` instead would come too late wherever
    ``anomalib.models`` itself is what imports torch first.
    """

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if isinstance(value, ModuleType):
            register()


def _watch(package: ModuleType) -> None:
    if type(package) is ModuleType:
        package.__class__ = _WatchedPackage


def _unwatch(package: ModuleType) -> None:
    if type(package) is _WatchedPackage:
        package.__class__ = ModuleType  # type: ignore[assignment]


def _serve() -> None:
    """Serve what is imported; later if any part of anomalib, which plug-ins may need, is still at it."""
    if any(name.count(".") == 1 for name in being_imported("anomalib")):
        return
    with suppress(ValueError):
        sys.meta_path.remove(_Lookout)
    hosts = [sys.modules[name] for name in SERVICES if name in sys.modules]
    unserved = [host for host in hosts if host not in _served]
    _served.update(unserved)  # before the work, as plug-ins may import more of anomalib, which leads here again
    for host in unserved:
        for service in SERVICES[host.__name__]:
            service(host)
    if len(hosts) == len(SERVICES):
        _unwatch(sys.modules["anomalib"])


def being_imported(package: str) -> Iterator[str]:
    """Name the modules of a package whose import has begun and has not ended."""
    for name, module in list(sys.modules.items()):
        if f"{name}.".startswith(f"{package}.") and getattr(getattr(module, "__spec__", None), "_initializing", False):
            yield name
