# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What is looked at before a long run starts: that files can be read, that masks fit, that test images stay unseen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anomalib.data.utils import LabelName
from pandas import DataFrame
from PIL import Image, UnidentifiedImageError

# Errors name this many files and say how many there are in all.
SHOWN = 5
# anomalib converts to 8-bit RGB without rescaling, which turns these modes almost entirely white.
CLIPPED_MODES = ("I", "F")
# JPEG markers (ITU-T T.81, table B.1): start of scan and end of image.
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"


def mask_paths(value: Any) -> list[str]:
    """Paths in a cell of the column ``mask_path``, which holds one path, several, or nothing."""
    if isinstance(value, (list, tuple)):
        return [str(path) for path in value]
    return [str(value)] if isinstance(value, (str, Path)) and str(value) else []


def check_files(samples: DataFrame) -> None:
    """Refuse images that cannot be read and masks that do not have their image's size.

    Pixels are not decoded: headers are read, and PNG checksums verified, at about one second per thousand files of
    one megapixel.

    Args:
        samples: Table with the columns ``image_path`` and ``mask_path``, as in ``AnomalibDataset.samples``.

    Raises:
        ValueError: If a file is empty, truncated or no image, if an image has 16 bits in one channel, or if a mask
            has another size than its image. The message names the files.
    """
    pairs = zip(samples["image_path"], samples["mask_path"], strict=True)
    problems = [problem for image_path, cell in pairs if (problem := _problem(image_path, mask_paths(cell)))]
    if problems:
        msg = f"{len(problems)} of {len(samples)} images cannot be used:\n{_shortened(problems)}"
        raise ValueError(msg)


def _problem(image_path: str, masks: list[str]) -> str | None:
    """Say what is wrong with an image or its masks, if anything is."""
    try:
        (width, height), mode = _header(image_path)
        if mode.startswith(CLIPPED_MODES):
            return (
                f"{image_path}: more than 8 bits in one channel (mode '{mode}') would be clipped; convert it to 8 bits."
            )
        for mask in masks:
            size, _ = _header(mask)
            if size != (width, height):
                return f"{mask}: the mask has {size[0]}x{size[1]} pixels, its image {image_path} {width}x{height}."
    except ValueError as error:
        return str(error)
    return None


def _header(path: str) -> tuple[tuple[int, int], str]:
    """Size ``(width, height)`` and mode of an image file that is all there."""
    try:
        with Image.open(path) as image:
            image.verify()
            if image.format == "JPEG" and _is_cut_off(path):
                msg = "the end is missing"
                raise OSError(msg)
            return image.size, image.mode
    except UnidentifiedImageError as error:
        reason = "the file is empty" if Path(path).stat().st_size == 0 else "this is no image that can be read"
        msg = f"{path}: {reason}."
        raise ValueError(msg) from error
    except (OSError, SyntaxError) as error:  # Pillow reports broken PNG chunks as syntax errors
        msg = f"{path}: the file is damaged ({error})."
        raise ValueError(msg) from error


def _is_cut_off(path: str) -> bool:
    """Whether a JPEG file ends within its last scan, which Pillow's own check does not look at."""
    content = Path(path).read_bytes()
    return content.rfind(END_OF_IMAGE) < content.rfind(START_OF_SCAN)


def check_annotations(samples: DataFrame, name: str) -> None:
    """Refuse data that a model cannot learn anomalies from.

    Args:
        samples: Table with the columns ``label_index``, ``image_path`` and ``mask_path``.
        name: How errors call the dataset.

    Raises:
        ValueError: If there are no anomalous images, or some without a mask.
    """
    anomalous = samples[samples["label_index"] == LabelName.ABNORMAL]
    if anomalous.empty:
        msg = f"The auxiliary dataset {name} has no anomalous test images: there is nothing to learn from."
        raise ValueError(msg)
    check_masks_given(samples, f"the auxiliary dataset {name}")


def check_masks_given(samples: DataFrame, name: str) -> None:
    """Refuse anomalous images without masks.

    Args:
        samples: Table with the columns ``label_index``, ``image_path`` and, if masks are files, ``mask_path``.
        name: How errors call the dataset.

    Raises:
        ValueError: If there are some. The message names them.
    """
    if "mask_path" not in samples:
        return
    anomalous = samples[samples["label_index"] == LabelName.ABNORMAL]
    bare = [row.image_path for row in anomalous.itertuples() if not mask_paths(row.mask_path)]
    if bare:
        msg = f"{len(bare)} of {len(anomalous)} anomalous images of {name} have no mask, which learning needs. "
        msg += f"Give them masks, or leave them out of the training images:\n{_shortened(bare)}"
        raise ValueError(msg)


def check_disjoint(auxiliary: Iterable[str], target: Iterable[str]) -> None:
    """Refuse to learn from images that the model is tested on.

    Two files are the same image if their resolved paths agree or their contents do; contents are compared only where
    the sizes agree.

    Args:
        auxiliary: Paths of the images to learn from.
        target: Paths of the target dataset's images.

    Raises:
        ValueError: If an image is in both. The message names some of them.
    """
    by_size: dict[int, list[Path]] = {}
    for path in {Path(name).resolve() for name in target}:
        by_size.setdefault(path.stat().st_size, []).append(path)
    digests: dict[Path, str] = {}
    pairs = [
        f"{path}" if path == other else f"{path} = {other}"
        for path in sorted({Path(name).resolve() for name in auxiliary})
        for other in by_size.get(path.stat().st_size, ())
        if path == other or _digest(path, digests) == _digest(other, digests)
    ]
    if pairs:
        msg = f"{len(pairs)} auxiliary images are images of the target too, so the test would not be zero-shot; choose "
        msg += f"other categories or pass allow_overlap=True:\n{_shortened(pairs)}"
        raise ValueError(msg)


def _digest(path: Path, known: dict[Path, str]) -> str:
    """SHA-256 of a file's content, read once."""
    if path not in known:
        known[path] = hashlib.sha256(path.read_bytes()).hexdigest()
    return known[path]


def _shortened(lines: list[str]) -> str:
    """List the first lines, and say how many more there are."""
    shown = [f"  {line}" for line in lines[:SHOWN]]
    return "\n".join([*shown, f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else shown)
