# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""How anomalib finds the models and datamodules that other packages bring.

Packages name their classes in the entry-point groups ``anomalib.models`` and ``anomalib.data``; this module loads what
is named there and hands it to anomalib. ``import torch`` calls :func:`autoload` through the group ``torch.backends``,
where an exception would break torch for the whole environment: so this module needs the standard library alone, and
what anomalib or a plug-in does wrong is logged, not raised. The whole story is in ``docs/plugin.md``.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from functools import partial
from importlib.metadata import entry_points
from itertools import accumulate
from operator import attrgetter
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.metadata import EntryPoint

logger = logging.getLogger(__name__)

SWITCH = "ANOMALIB_CLIPZOO_AUTOLOAD"
"""Environment variable; ``0`` keeps :func:`autoload` from doing anything."""

BASE_CLASSES = {"anomalib.models": "AnomalibModule", "anomalib.data": "AnomalibDataModule"}
"""The packages that take plug-ins (the entry-point groups bear their names), and what their plug-ins derive from."""

COMMAND = "anomalib.cli"
"""The package of anomalib's command, which :mod:`anomalib_clipzoo.seed` has use the seeds that it is given."""

_served: set[ModuleType] = set()


def autoload() -> None:
    """Do what :func:`register` does unless :data:`SWITCH` says no; this is what ``import torch`` calls."""
    if os.environ.get(SWITCH) != "0":
        register()


def register() -> None:
    """Register the plug-ins: at once where anomalib is imported already, otherwise as soon as it is.

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
    """The package anomalib as long as plug-ins wait for a part of it.

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
    """Register the plug-ins of what is imported; later if any part of anomalib, which they may need, is still at it."""
    if any(name.count(".") == 1 for name in _being_imported("anomalib")):
        return
    with suppress(ValueError):
        sys.meta_path.remove(_Lookout)
    hosts = [sys.modules[name] for name in (*BASE_CLASSES, COMMAND) if name in sys.modules]
    unserved = [host for host in hosts if host not in _served]
    _served.update(unserved)  # before the work, as plug-ins may import more of anomalib, which leads here again
    for host in unserved:
        if host.__name__ == COMMAND:
            from .seed import keep_promise

            keep_promise(host.AnomalibCLI)
            continue
        for entry_point in sorted(entry_points(group=host.__name__), key=attrgetter("name", "value")):
            _register(entry_point, host)
    if len(hosts) == len(BASE_CLASSES) + 1:
        _unwatch(sys.modules["anomalib"])


def _being_imported(package: str) -> Iterator[str]:
    """Name the modules of a package whose import has begun and has not ended."""
    for name, module in list(sys.modules.items()):
        if f"{name}.".startswith(f"{package}.") and getattr(getattr(module, "__spec__", None), "_initializing", False):
            yield name


def _register(entry_point: EntryPoint, host: ModuleType) -> None:
    """Make one plug-in an attribute of its host, or log why not."""
    try:
        if _is_there(entry_point, host):
            return
        _check_name(entry_point, host)
        _publish(_load(entry_point, host), entry_point, host)
    except (Exception, SystemExit) as error:  # a module that exits takes nobody along
        if isinstance(error, (ImportError, AttributeError)) and _is_early(entry_point):
            _postpone(entry_point, host)
        else:
            reason = f"{type(error).__name__}: {error}"
            logger.warning("Skipped %s (%s): %s", entry_point.name, entry_point.value, reason)
            logger.debug("The traceback of %s:", entry_point.name, exc_info=True)


def _place(entry_point: EntryPoint) -> tuple[str, str]:
    """Tell module and attribute; unlike the entry point's own ``module`` and ``attr``, also of a malformed one."""
    module, _, attribute = entry_point.value.partition("[")[0].partition(":")
    return module.strip(), attribute.strip()


def _is_there(entry_point: EntryPoint, host: ModuleType) -> bool:
    """Tell whether the host has this very class, because another entry point or anomalib itself brought it."""
    module, attribute = _place(entry_point)
    known = vars(host).get(entry_point.name)
    return known is not None and known is getattr(sys.modules.get(module), attribute, None)


def _check_name(entry_point: EntryPoint, host: ModuleType) -> None:
    """Refuse a name that is taken: with two classes of one name anomalib's command fails for everybody.

    This comes before the plug-in is imported, as anomalib looks at all subclasses there are; hence a plug-in has to be
    registered under the name of its class. ``get_model`` ignores case, and so does this.
    """
    if entry_point.name != _place(entry_point)[1]:
        msg = "the entry point must bear the name of its class"
        raise ValueError(msg)
    if entry_point.name.casefold() in map(str.casefold, vars(host)):
        msg = f"{host.__name__} has that name already"
        raise ValueError(msg)


def _load(entry_point: EntryPoint, host: ModuleType) -> type:
    plugin_class = entry_point.load()
    base_class = getattr(host, BASE_CLASSES[host.__name__])
    if not (isinstance(plugin_class, type) and issubclass(plugin_class, base_class)):
        msg = f"not a subclass of {base_class.__name__}"
        raise TypeError(msg)
    return plugin_class


def _publish(plugin_class: type, entry_point: EntryPoint, host: ModuleType) -> None:
    setattr(host, entry_point.name, plugin_class)
    if host.__name__ == "anomalib.models":
        setattr(host.image, entry_point.name, plugin_class)
        _allow(host, _place(entry_point)[0], plugin_class.__module__)


def _allow(models: ModuleType, *modules: str) -> None:
    """Let ``get_model`` accept class paths in these modules and in the packages around them."""
    for module in modules:
        models.ALLOWED_MODULES.update(accumulate(module.split("."), "{}.{}".format))


def _is_early(entry_point: EntryPoint) -> bool:
    """Tell whether the plug-in may have failed only because its own import, or anomalib's, has not ended yet."""
    packages = _place(entry_point)[0].partition(".")[0], "anomalib"
    return any(True for package in packages for _ in _being_imported(package))


def _postpone(entry_point: EntryPoint, host: ModuleType) -> None:
    """Have the host register the plug-in when its name is first asked for.

    This is for processes whose first import is the plug-in's own module: it imports anomalib, and anomalib's import
    ends before the plug-in's class exists.
    """
    find_others = vars(host).get("__getattr__", partial(object.__getattribute__, host))

    def find(name: str) -> object:
        if name != entry_point.name:
            return find_others(name)
        _register(entry_point, host)
        return object.__getattribute__(host, name)

    vars(host)["__getattr__"] = find
    if host.__name__ == "anomalib.models":
        _allow(host, _place(entry_point)[0])
