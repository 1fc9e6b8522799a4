# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Patches replace a function, do nothing where there is none, and can be switched off one by one."""

import logging
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from anomalib_clipzoo.plugin import patches
from anomalib_clipzoo.plugin.hosts import SERVICES
from anomalib_clipzoo.plugin.patches.patch import Patch

DOCS = Path(__file__).parents[3] / "docs"


def add_one(function):
    return lambda *args: function(*args) + 1


@pytest.fixture
def host(monkeypatch) -> ModuleType:
    """A package of anomalib with a function, and a class with one of each kind."""

    class Thing:
        def own(self, value: int) -> int:
            """Own."""
            return value

        @staticmethod
        def static(value: int) -> int:
            return value

    module = ModuleType("anomalib.fake")
    module.Thing, module.function = Thing, lambda value: value
    monkeypatch.setitem(sys.modules, "anomalib.fake", module)
    return module


def test_every_kind_of_function_is_replaced(host):
    for place in ("Thing.own", "Thing.static", "function"):
        Patch("fake", f"anomalib.fake:{place}", add_one).apply()
    assert host.Thing().own(1) == host.Thing.static(1) == host.Thing().static(1) == host.function(1) == 2
    assert host.Thing.own.__doc__ == "Own."
    assert host.Thing.own.__wrapped__(None, 1) == 1


@pytest.mark.parametrize("place", ["fake:gone", "fake:Gone.gone", "fake:Thing.gone", "gone:function"])
def test_what_is_gone_needs_no_patch(place, host, caplog):
    caplog.set_level(logging.DEBUG)
    Patch("fake", f"anomalib.{place}", add_one).apply()
    assert "does nothing" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


@pytest.mark.parametrize(
    ("value", "left_out"), [("", set()), ("one", {"one"}), ("one, two", {"one", "two"}), ("all", {"one", "two"})]
)
def test_switch(value, left_out, host, monkeypatch):
    applied = []
    fakes = tuple(Patch(n, "anomalib.fake:function", lambda f, n=n: applied.append(n) or f) for n in ("one", "two"))
    monkeypatch.setattr(patches, "PATCHES", fakes)
    monkeypatch.setenv(patches.SWITCH, value)
    patches.switched_off.cache_clear()
    patches.mend(host)
    patches.switched_off.cache_clear()
    assert set(applied) == {"one", "two"} - left_out


def test_switch_says_what_it_does_not_know(monkeypatch, caplog):
    monkeypatch.setenv(patches.SWITCH, "seed,sed")
    patches.switched_off.cache_clear()
    assert patches.switched_off() == {"seed", "sed"}
    patches.switched_off.cache_clear()
    assert "names sed; there are" in caplog.text


def test_every_patch_belongs_to_a_package_that_is_served():
    for patch in patches.PATCHES:
        assert any(f"{patch.module}.".startswith(f"{host}.") for host in SERVICES), patch


def test_every_patch_is_described():
    names = {patch.name for patch in patches.PATCHES}
    assert names == set(re.findall(r"^## `(.+)`", (DOCS / "upstream.md").read_text(), re.MULTILINE))
    assert names <= set(re.findall(r"^\| `(.+?)` ", (DOCS / "plugin.md").read_text(), re.MULTILINE))
