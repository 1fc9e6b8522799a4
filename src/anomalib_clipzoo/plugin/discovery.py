# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Registers the models and datamodules that packages name in the entry-point groups of anomalib's name."""

from __future__ import annotations

import logging
import sys
from functools import partial
from importlib.metadata import entry_points
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING

from .hosts import being_imported

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint
    from types import ModuleType

logger = logging.getLogger(__name__)

BASE_CLASSES = {"anomalib.models": "AnomalibModule", "anomalib.data": "AnomalibDataModule"}
"""The packages that take plug-ins (the entry-point groups bear their names), and what their plug-ins derive from."""


def discover(host: ModuleType) -> None:
    """Register the plug-ins of one of anomalib's packages, in the same order whatever the order of installation."""
    for entry_point in sorted(entry_points(group=host.__name__), key=attrgetter("name", "value")):
        _register(entry_point, host)


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
    return any(True for package in packages for _ in being_imported(package))


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
