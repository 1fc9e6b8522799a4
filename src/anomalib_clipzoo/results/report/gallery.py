# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The gallery: which images it shows, and their thumbnails."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from PIL import Image

from anomalib_clipzoo.results.images import read_image
from anomalib_clipzoo.results.report.runs import Run

Item = TypeVar("Item")

SIZES = ((144, 80), (128, 75), (112, 70), (96, 65), (80, 55), (64, 45))
"""Height in pixels and JPEG quality of thumbnails, from the best to the smallest."""

SAMPLE = 40
"""How many thumbnails are made to estimate the size of all."""


@dataclass
class Card:
    """An image in the gallery.

    Attributes:
        path: The image.
        category: Its category.
        score: Its score.
        truth: ``"normal"``, ``"anomalous"`` or empty.
        image: Number of its thumbnail, ``None`` without one.
        heatmap: Number of its heatmap's thumbnail, ``None`` without one.
    """

    path: str
    category: str
    score: float
    truth: str
    image: int | None = None
    heatmap: int | None = None


@dataclass(frozen=True)
class Source:
    """Where a thumbnail comes from: a file, and the part of it (left, upper, right, lower), ``None`` for all."""

    path: Path
    box: tuple[int, int, int, int] | None = None


@dataclass
class Sources:
    """Sources of thumbnails, each once: an image that several runs saw has one."""

    all: list[Source] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)

    def add(self, key: str, source: Source) -> int:
        """Add a source unless there is one of that key; return its number."""
        if key not in self.numbers:
            self.numbers[key] = len(self.all)
            self.all.append(source)
        return self.numbers[key]


@dataclass
class Gallery:
    """Cards of every run, and where their thumbnails come from.

    Attributes:
        cards: The cards of each run.
        sources: Sources of the thumbnails.
    """

    cards: list[list[Card]]
    sources: list[Source]

    @classmethod
    def of(cls, runs: Sequence[Run], pictures: int) -> Gallery:
        """Choose the images to show.

        Args:
            runs: The runs.
            pictures: How many images to show in all.
        """
        sources = Sources()
        counts = _shares([len(run.readable) for run in runs], pictures)
        cards = [
            [_card(run, row, sources) for row in _worst_first(run.readable, count)]
            for run, count in zip(runs, counts, strict=True)
        ]
        return cls(cards, sources.all)

    def thumbnails(self, budget: float) -> tuple[list[str], int]:
        """Make thumbnails of the best size that fits.

        Args:
            budget: Size of all in bytes, which they stay below as far as the smallest size allows.

        Returns:
            JPEG images as data URLs, and their height in pixels.
        """
        sample = self.sources[:: max(1, len(self.sources) // SAMPLE)]
        for size, quality in SIZES:
            is_smallest = (size, quality) == SIZES[-1]
            expected = sum(len(_thumbnail(one, size, quality)) for one in sample) / max(1, len(sample))
            if expected * len(self.sources) > budget and not is_smallest:
                continue
            made = [_thumbnail(one, size, quality) for one in self.sources]
            if sum(map(len, made)) <= budget or is_smallest:
                break
        return made, size


def _shares(available: Sequence[int], total: int) -> list[int]:
    """Share out a number among runs that have so many images each; what one does not need is left for others."""
    shares = [0] * len(available)
    ascending = sorted(range(len(available)), key=available.__getitem__)
    for position, place in enumerate(ascending):
        shares[place] = min(available[place], (total - sum(shares)) // (len(available) - position))
    return shares


def _worst_first(table: pd.DataFrame, count: int) -> list[Any]:
    """Choose images, equally from every category: good ones of the highest scores, bad ones of the lowest.

    Whatever the threshold, these are the worst false alarms and the worst misses.
    """
    if table.empty:
        return []
    categories = []
    for _, group in table.groupby("category", sort=True):
        ordered = group.sort_values("score", kind="stable")
        bad = list(ordered[ordered.gt_label == "anomalous"].itertuples())
        others = list(ordered[ordered.gt_label != "anomalous"][::-1].itertuples())
        categories.append(_in_turn([others, bad]))
    return list(islice(_in_turn(categories), count))


def _in_turn(parts: Sequence[Iterable[Item]]) -> Iterable[Item]:
    """Take one of each, then the next of each."""
    missing: Any = object()
    return (item for item in chain.from_iterable(zip_longest(*parts, fillvalue=missing)) if item is not missing)


def _card(run: Run, row: Any, sources: Sources) -> Card:
    """Make a card, and note where its pictures come from.

    The run's own picture is small and shows the image too; the image itself may be large, or on another machine.
    """
    card = Card(row.image_path, row.category, row.score, row.gt_label)
    picture = run.folder / row.heatmap
    if row.heatmap and run.record.heatmap_tile and picture.is_file():
        left, upper, width, height = run.record.heatmap_tile
        with Image.open(picture) as opened:  # this reads the header alone
            start = opened.width - left
        card.heatmap = sources.add(str(picture), Source(picture, (start, upper, start + width, upper + height)))
        card.image = sources.add(row.image_path, Source(picture, (0, upper, width, upper + height)))
    elif Path(row.image_path).is_file():
        card.image = sources.add(row.image_path, Source(Path(row.image_path)))
    return card


def _thumbnail(source: Source, size: int, quality: int) -> str:
    """Make a thumbnail: a JPEG image of a height in a data URL."""
    image = read_image(source.path)
    image = image.crop(source.box) if source.box else image
    image.thumbnail((2 * size, size))  # of the same height, so that rows are even
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
