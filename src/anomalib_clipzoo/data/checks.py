# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What is looked at before a long run starts: that files can be read, that masks fit, that test images stay unseen."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from anomalib.data.utils import LabelName
from pandas import DataFrame

from anomalib_clipzoo.data.image_files import image_size, mask_size
from anomalib_clipzoo.digests import digest

logger = logging.getLogger(__name__)

# Errors name this many files and say how many there are in all.
SHOWN = 5


def mask_paths(value: Any) -> list[str]:
    """Paths in a cell of the column ``mask_path``, which holds one path, several, or nothing."""
    if isinstance(value, (list, tuple)):
        return [str(path) for path in value]
    return [str(value)] if isinstance(value, (str, Path)) and str(value) else []


def check_files(samples: DataFrame) -> None:
    """Refuse images and masks that cannot be read, or would be read as something else than they show.

    PNG and JPEG files of one megapixel take about a millisecond each, their masks two or three; other formats are
    decoded.

    Args:
        samples: Table with the columns ``image_path``, ``mask_path`` and ``label_index``, as in
            ``AnomalibDataset.samples``.

    Raises:
        ValueError: If a file is empty, damaged or no image, is to be turned, or has 16 bits in one channel, or if a
            mask has another size than its image or loses its marks. The message names the files and what to do.
    """
    with ThreadPoolExecutor() as pool:
        looks = list(pool.map(_look, samples["image_path"], samples["mask_path"].map(mask_paths)))
    problems = [problem for problem, _ in looks if problem]
    if problems:
        msg = f"{len(problems)} of {len(samples)} images cannot be used:\n{shortened(problems)}"
        raise ValueError(msg)
    anomalous = samples["label_index"] == LabelName.ABNORMAL
    unmarked = samples["image_path"][anomalous & ~np.array([marked for _, marked in looks], dtype=bool)].tolist()
    if unmarked:
        logger.warning(
            "The masks of %d of %d anomalous images mark no pixel, or all of them:\n%s",
            len(unmarked),
            anomalous.sum(),
            shortened(unmarked),
        )


def _look(image_path: str, masks: list[str]) -> tuple[str | None, bool]:
    """Say what is wrong with an image or its masks, if anything is, and whether its masks mark a part of it."""
    try:
        size = image_size(image_path)
        marked = [_marks_some(mask, image_path, size) for mask in masks]
    except ValueError as error:
        return str(error), True
    return None, any(marked) or not marked


def _marks_some(mask: str, image_path: str, size: tuple[int, int]) -> bool:
    """Tell whether a mask, which must have its image's size, marks some pixels but not all."""
    found, marked = mask_size(mask)
    if found != size:
        msg = (
            f"{mask}: the mask has {found[0]}x{found[1]} pixels, its image {image_path} {size[0]}x{size[1]}; scale one "
        )
        msg += "of them, or give the image its own mask."
        raise ValueError(msg)
    return marked


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
        msg += f"Give them masks, or leave them out of the training images:\n{shortened(bare)}"
        raise ValueError(msg)


def check_disjoint(auxiliary: Iterable[str], target: Iterable[str]) -> None:
    """Refuse to learn from images that the model is tested on.

    Args:
        auxiliary: Paths of the images to learn from.
        target: Paths of the target dataset's images.

    Raises:
        ValueError: If an image is in both. The message names some of them.
    """
    if pairs := shared_images(auxiliary, target):
        msg = f"{len(pairs)} auxiliary images are images of the target too, so the test would not be zero-shot; choose "
        msg += f"other categories or pass allow_overlap=True:\n{shortened(pairs)}"
        raise ValueError(msg)


def shared_images(some: Iterable[str], others: Iterable[str]) -> list[str]:
    """Name the images that are in both of two sets of files.

    Two files are the same image if their resolved paths agree or their contents do; contents are compared only where
    the sizes agree.
    """
    by_size: dict[int, list[Path]] = {}
    for path in {Path(name).resolve() for name in others}:
        by_size.setdefault(path.stat().st_size, []).append(path)
    digests: dict[Path, str] = {}
    return [
        f"{path}" if path == other else f"{path} = {other}"
        for path in sorted({Path(name).resolve() for name in some})
        for other in by_size.get(path.stat().st_size, ())
        if path == other or _digest(path, digests) == _digest(other, digests)
    ]


def _digest(path: Path, known: dict[Path, str]) -> str:
    """SHA-256 of a file's content, read once."""
    if path not in known:
        known[path] = digest(path)
    return known[path]


def shortened(lines: list[str]) -> str:
    """List the first lines, and say how many more there are."""
    shown = [f"  {line}" for line in lines[:SHOWN]]
    return "\n".join([*shown, f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else shown)
