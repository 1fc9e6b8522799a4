# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Published numbers beside those of the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anomalib_clipzoo.results.published import METHODS, TARGETS, Published, published
from anomalib_clipzoo.results.report.comparison import Configuration, Spread
from anomalib_clipzoo.tables import MEAN


@dataclass(frozen=True)
class Beside:
    """A published number, and the figure of a configuration of that method on that target.

    Attributes:
        published: The published number.
        configuration: Name of the configuration.
        figure: Its figure, ``None`` where it has none.
    """

    published: Published
    configuration: str
    figure: Spread | None


def published_beside(configurations: Sequence[Configuration]) -> list[Beside]:
    """Find the published means of each configuration's method on its target, with as many references."""
    return [
        Beside(number, one.name, one.figure(MEAN, number.figure))
        for one in configurations
        for number in published()
        if not number.category
        and number.method == METHODS.get(one.runs[0].record.model)
        and number.shots == int(one.runs[0].record.arguments.get("k_shot") or 0)
        and number.target in targets_of(one.runs[0].record.data)
    ]


def targets_of(data: dict) -> set[str]:
    """Tell what papers call the data that a run was tested on, by all names that it has.

    Args:
        data: Description of the data in the run's record.
    """
    tested = data.get("target", data)
    parts = [tested, tested["data"]] if isinstance(tested.get("data"), dict) else [tested]
    names = {str(part.get(key)) for part in parts for key in ("datamodule", "name")}
    return names | {TARGETS[name] for name in names if name in TARGETS}
