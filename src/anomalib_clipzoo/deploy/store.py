# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Where images come from and where rows go to: folders of this machine or of an object store."""

from __future__ import annotations

import io
import json
import logging
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from torchvision.datasets.folder import IMG_EXTENSIONS

from anomalib_clipzoo.deploy.answers import to_answer
from anomalib_clipzoo.deploy.decoding import decode_image, to_pixels
from anomalib_clipzoo.deploy.scorer import Scorer

logger = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        *(("image_path", pa.string()), ("score", pa.float64()), ("label", pa.string()), ("threshold", pa.float64())),
        *((name, pa.int64()) for name in ("width", "height", "peak_x", "peak_y", "region_count")),
        *(("regions", pa.string()), ("problem", pa.string())),
    ]
)
"""Columns of the table, under the names of those of ``predictions.csv``."""
RECORD = "_score.json"
"""Programs that read a folder of Parquet files leave out what begins like this."""


@dataclass(frozen=True)
class ReadyImage:
    """An image that can be scored, or the reason why it cannot.

    Attributes:
        name: The image's path.
        pixels: 8-bit levels ``(3, h, w)`` at the model's size.
        size: Width and height of the image.
        problem: Why it could not be read; empty if it could.
    """

    name: str
    pixels: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    problem: str = ""


class ImageStore:
    """The images of a folder, listed once.

    Args:
        url: A folder, a pattern or an image, on this machine or where fsspec finds it.
        most_pixels: Larger images are not decoded.

    Raises:
        FileNotFoundError: If there is none.
    """

    def __init__(self, url: str, most_pixels: int) -> None:
        self.url, self.most_pixels = url, most_pixels
        self.files, place = _open(url)
        found = self.files.glob(place) if any(sign in url for sign in "*?[") else self.files.find(place)
        self.names = sorted(self.to_name(path) for path in found if path.lower().endswith(IMG_EXTENSIONS))
        if not self.names:
            msg = f"There are no images at {url!r}: nothing there has a name that ends in .png, .jpg, .tif or the like."
            raise FileNotFoundError(msg)

    @property
    def is_remote(self) -> bool:
        """Whether the images are elsewhere than on this machine."""
        return not isinstance(self.files, LocalFileSystem)

    def to_name(self, place: str) -> str:
        """Name the image at a place of the file system: by its path on this machine, by its address elsewhere."""
        return self.files.unstrip_protocol(place) if self.is_remote else place

    def to_place(self, name: str) -> str:
        """Tell where in the file system an image is."""
        return self.files._strip_protocol(name)

    def without_names(self) -> ImageStore:
        """Return a copy that knows of no images, for other processes."""
        other = copy(self)
        other.names = []
        return other

    def read(self, name: str, size: tuple[int, int] | None) -> ReadyImage:
        """Read an image and bring it to a model's size."""
        try:
            content = self.files.cat_file(name)
        except FileNotFoundError:
            return ReadyImage(name, problem="there is no such file")
        except OSError as error:
            return ReadyImage(name, problem=f"the file cannot be read ({error})")
        return make_ready(name, content, size, self.most_pixels)


def make_ready(name: str, content: bytes, size: tuple[int, int] | None, most_pixels: int) -> ReadyImage:
    """Decode an image and bring it to a model's size."""
    try:
        image = decode_image(content, most_pixels)
    except ValueError as error:
        return ReadyImage(name, problem=str(error))
    return ReadyImage(name, to_pixels(image, size), image.size)


def score_images(scorer: Scorer, images: Sequence[ReadyImage]) -> list[dict[str, Any]]:
    """Score images to rows of the table, in their order. All engines come to this."""
    good = [image for image in images if image.pixels is not None]
    findings = iter(scorer.find_pixels([image.pixels for image in good], [image.size for image in good]))  # type: ignore[misc]
    rows = []
    for image in images:
        row: dict[str, Any] = {"image_path": image.name, "problem": image.problem}
        if not image.problem:
            row |= to_answer(next(findings))
            row["regions"] = json.dumps(row["regions"])
        rows.append({name: row.get(name) for name in SCHEMA.names})
    return rows


@dataclass(frozen=True)
class Summary:
    """What is in a table."""

    images: int
    labels: Counter
    unreadable: int

    def __str__(self) -> str:
        labels = [f"{count} {label}" for label, count in sorted(self.labels.items())]
        return f"{self.images} images: {', '.join([*labels, f'{self.unreadable} could not be read'])}."


class Table:
    """A table in parts, each of which is there whole or not at all.

    Args:
        url: The folder.
        rows_per_part: Rows of one part.
    """

    def __init__(self, url: str, rows_per_part: int) -> None:
        self.url, self.rows_per_part = url, rows_per_part
        self.files, self.folder = _open(url)
        self._rows: list[dict[str, Any]] = []

    def begin(self, record: dict[str, Any]) -> None:
        """Begin the table, or make sure that the one that is there was begun with the same model.

        Raises:
            ValueError: If it was not, or the folder holds something else.
        """
        self.files.makedirs(self.folder, exist_ok=True)
        place = f"{self.folder}/{RECORD}"
        if self.files.exists(place):
            known = json.loads(self.files.cat_file(place))
            if changed := sorted(key for key in record if known.get(key) != record[key]):
                msg = f"The table in {self.url} was begun with another {', '.join(changed)}: give another folder."
                raise ValueError(msg)
        elif self.files.ls(self.folder, detail=False):
            msg = f"The folder {self.url} holds something else than a table that this command began: give another."
            raise ValueError(msg)
        else:
            self._write(place, json.dumps(record, indent=2).encode())

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows; they are written as soon as there are enough of them for a part."""
        self._rows += rows
        if len(self._rows) >= self.rows_per_part:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are left as a part."""
        if self._rows:
            content = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(self._rows, SCHEMA), content)
            self._write(f"{self.folder}/part-{uuid.uuid4().hex}.parquet", content.getvalue())
            self._rows = []

    def _write(self, place: str, content: bytes) -> None:
        """Write a file at once: by a rename on this machine; object stores show files when they are complete."""
        if not isinstance(self.files, LocalFileSystem):
            self.files.pipe_file(place, content)
            return
        scratch = f"{self.folder}/.{uuid.uuid4().hex}.tmp"
        self.files.pipe_file(scratch, content)
        self.files.mv(scratch, place)

    def parts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read columns of all parts, one part after the other; what a killed process left half written is removed."""
        for place in sorted(self.files.glob(f"{self.folder}/*.parquet")):
            part = self._read_part(place, columns)
            if part is not None:
                yield part

    def _read_part(self, place: str, columns: Sequence[str]) -> pa.Table | None:
        try:
            with self.files.open(place, "rb") as file:
                return pq.read_table(file, columns=list(columns))
        except pa.ArrowInvalid:
            logger.warning("%s was not written to its end: its images are scored again.", place)
            self.files.rm_file(place)
            return None

    def missing(self, names: Sequence[str]) -> list[str]:
        """Tell which images have no row yet."""
        done = {name for part in self.parts(["image_path"]) for name in part["image_path"].to_pylist()}
        return [name for name in names if name not in done]

    def summary(self, names: Sequence[str]) -> Summary:
        """Sum up the table, and make sure that it is complete.

        Raises:
            ValueError: If an image has no row, or two.
        """
        rows, labels, unreadable = Counter[str](), Counter[str](), 0
        for part in self.parts(["image_path", "label", "problem"]):
            rows.update(part["image_path"].to_pylist())
            problems = part["problem"].to_pylist()
            labels.update(label for label, problem in zip(part["label"].to_pylist(), problems, strict=True) if label)
            unreadable += sum(map(bool, problems))
        wrong = [name for name in names if rows[name] != 1]
        if wrong:
            msg = f"{len(wrong)} images have no row or several in {self.url}, such as {wrong[0]}: do two runs write?"
            raise ValueError(msg)
        return Summary(len(rows), labels, unreadable)


def _open(url: str) -> tuple[Any, str]:
    """Find the file system of an address, and the place in it."""
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:  # it says what to install
        msg = f"{url}: {error}"
        raise ValueError(msg) from error
