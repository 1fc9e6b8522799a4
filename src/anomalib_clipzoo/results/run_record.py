# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What a run was: the file ``run.json`` beside its results."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from anomalib_clipzoo.writing import write_whole

RUN_FILE = "run.json"
FEW_CATEGORIES = 5
PACKAGES = ("anomalib-clipzoo", "anomalib", "open_clip_torch", "lightning", "torch")


@dataclass
class RunRecord:
    """What has to be known of a run to compare it with others.

    Attributes:
        stage: ``"test"`` or ``"predict"``.
        model: Name of the model's class.
        arguments: The model's arguments.
        data: What it ran on: datamodule, name, category, and what it learned from.
        seed: Seed of the run, ``None`` where none was set.
        epochs: Number of epochs trained, 0 for none.
        weights: SHA-256 of each file of weights that was loaded, by its path. What the run trained itself is none.
        thresholds: Thresholds of scores and pixels, and what they were fitted on.
        references: Which images the model keeps features of: number of images, their categories, megabytes; empty for
            none.
        heatmap_tile: Where the heatmap is on the run's pictures: distance of its left edge from the picture's right
            edge, of its upper edge from the picture's, width and height, in pixels; ``None`` without pictures.
        packages: Versions of the packages that matter.
        started: When, in UTC.
        finished: When; ``None`` as long as it has not, and for ever if it was killed.
        images: How many images have a prediction.
        unreadable: How many images could not be read.
    """

    stage: str
    model: str
    arguments: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    epochs: int = 0
    weights: dict[str, str] = field(default_factory=dict)
    thresholds: dict[str, Any] = field(default_factory=dict)
    references: dict[str, Any] = field(default_factory=dict)
    heatmap_tile: tuple[int, int, int, int] | None = None
    packages: dict[str, str] = field(default_factory=dict)
    started: str = ""
    finished: str | None = None
    images: int = 0
    unreadable: int = 0

    def write(self, folder: Path) -> None:
        """Write ``run.json`` into a folder, whole or not at all; see :func:`.write_whole`."""
        write_whole(folder / RUN_FILE, json.dumps(asdict(self), indent=2, default=str) + "\n")

    @classmethod
    def read(cls, folder: Path) -> RunRecord | None:
        """Read ``run.json`` of a folder; ``None`` if it has none.

        Raises:
            ValueError: If the file holds something else.
        """
        path = folder / RUN_FILE
        if not path.exists():
            return None
        try:
            return cls(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            msg = f"{path} was not written by anomalib-clipzoo: {error}"
            raise ValueError(msg) from error


def now() -> str:
    """Tell the time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def installed_packages() -> dict[str, str]:
    """Tell the versions of the packages that results depend on."""
    return {name: found for name in PACKAGES if (found := _version(name))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def seed_in_force() -> int | None:
    """Tell the seed that Lightning's ``seed_everything`` was last given in this process or its parent."""
    seed = os.environ.get("PL_GLOBAL_SEED")
    return int(seed) if seed else None


def describe_origin(origin: Any) -> str:
    """Put into words what a post-processor says that its thresholds were fitted on."""
    if not isinstance(origin, Mapping):
        return str(origin)
    kinds = [f"{origin[f'{kind}_images']} {kind}" for kind in ("normal", "anomalous") if origin[f"{kind}_images"]]
    categories = origin["categories"]
    names = ", ".join(categories) if len(categories) <= FEW_CATEGORIES else f"{len(categories)} categories"
    rate = "" if origin["false_alarm_rate"] is None else f" of {origin['false_alarm_rate']}"
    on = f" on {' and '.join(kinds)} images" if kinds else ""
    what = f"{origin['method']}{rate}{on}"
    return f"{what}{f' of {names}' if names else ''}, {origin['date'].partition('T')[0]}"


def describe_references(references: Mapping[str, Any]) -> str:
    """Put into words which images a model keeps features of."""
    if not references:
        return ""
    categories = references["categories"]
    names = ", ".join(categories) if len(categories) <= FEW_CATEGORIES else f"{len(categories)} categories"
    return f"{references['images']} images{f' of {names}' if names else ''}, {references['megabytes']:.3g} MB"


def describe_data(datamodule: Any) -> dict[str, Any]:
    """Say what a datamodule reads, in plain data; datamodules within are described too."""
    from lightning.pytorch import LightningDataModule  # reading a record needs none of it

    if datamodule is None:
        return {}
    described: dict[str, Any] = {"datamodule": type(datamodule).__name__}
    for name in ("name", "category", "categories", "validation_split"):
        value = getattr(datamodule, name, None)
        if value not in (None, ""):
            described[name] = value
    for name in ("auxiliary", "target", "data"):
        parts = getattr(datamodule, name, None)
        if isinstance(parts, LightningDataModule):
            described[name] = describe_data(parts)
        elif isinstance(parts, list) and all(isinstance(part, LightningDataModule) for part in parts):
            described[name] = [describe_data(part) for part in parts]
    return described
