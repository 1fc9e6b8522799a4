# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""ToyAD: a small inspection dataset that a program draws, for machines and tests without downloads."""

import hashlib
import logging
import shutil
import tempfile
import zlib
from functools import cache
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
from anomalib.data.datamodules.base.image import AnomalibDataModule
from anomalib.data.datasets.image.mvtecad import MVTecADDataset
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from filelock import FileLock
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Transform

from anomalib_clipzoo.data.drawing import DEFECTS, OBJECTS, TEXTURES, draw
from anomalib_clipzoo.data.seeding import training_loader

logger = logging.getLogger(__name__)

CATEGORIES = tuple(sorted((*TEXTURES, *OBJECTS)))
"""Every category that can be drawn."""

UNSEEN_CATEGORIES = ("gear", "leather", "pill", "screw", "tile", "wood")
"""Categories of which the toy CLIP saw no image: targets for zero-shot detection."""

SEEN_CATEGORIES = tuple(name for name in CATEGORIES if name not in UNSEEN_CATEGORIES)
"""Categories that the toy CLIP was trained on: auxiliary data to learn from."""

TRAIN_IMAGES = 16
"""Normal training images of a category."""

TEST_GOOD_IMAGES = 16
"""Normal test images of a category."""

TEST_DEFECT_IMAGES = 4
"""Test images of a category for each kind of defect."""

RECORD_FILE = "drawn_by.txt"
"""File in a category's folder that tells which state of the program drew it, and every file's size."""

LOCK_FILE = ".drawing.lock"
"""File in the root that the process that draws holds locked."""

LOCK_PATIENCE = 600.0
"""Seconds that others wait for it; a category takes less than one."""


def program_version() -> str:
    """Digest of the drawing program and the number of images, so that a changed program draws anew."""
    digest = hashlib.sha256(str((TRAIN_IMAGES, TEST_GOOD_IMAGES, TEST_DEFECT_IMAGES)).encode())
    sources = files("anomalib_clipzoo.data.drawing").iterdir()
    for source in sorted((path for path in sources if path.name.endswith(".py")), key=lambda path: path.name):
        digest.update(source.read_bytes())
    return f"anomalib_clipzoo ToyAD {digest.hexdigest()}"


def draw_category(folder: Path, category: str) -> None:
    """Draw all images of a category into `folder` in MVTec AD's layout; the same images every time."""
    draw_split(folder, category, "train", None, TRAIN_IMAGES)
    draw_split(folder, category, "test", None, TEST_GOOD_IMAGES)
    for defect in DEFECTS:
        draw_split(folder, category, "test", defect, TEST_DEFECT_IMAGES)
    sizes = [f"{path.stat().st_size} {path.relative_to(folder).as_posix()}" for path in sorted(folder.rglob("*.png"))]
    (folder / RECORD_FILE).write_text("\n".join([program_version(), *sizes]))


def draw_split(folder: Path, category: str, split: str, defect: str | None, count: int) -> None:
    """Draw `count` images of one split and one kind of defect, with their masks."""
    label = defect or "good"
    images, masks = folder / split / label, folder / "ground_truth" / label
    images.mkdir(parents=True)
    if defect:
        masks.mkdir(parents=True)
    key = zlib.crc32(f"{category}/{split}/{label}".encode())
    for index in range(count):
        image, mask = draw(category, defect, np.random.default_rng([key, index]))
        write_image(images / f"{index:03}.png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if defect:
            write_image(masks / f"{index:03}_mask.png", mask.astype(np.uint8) * 255)


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write a PNG file; unlike with OpenCV's own writing, a full disk is an error."""
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())


def is_current(folder: Path) -> bool:
    """Tell whether `folder` holds a category drawn by this very program, with every file as it was written.

    Raises:
        FileExistsError: If `folder` holds something that no ToyAD drew; it is never touched.
    """
    try:
        version, *sizes = (folder / RECORD_FILE).read_text(errors="replace").splitlines() or [""]
    except FileNotFoundError:
        if not folder.exists():
            return False
        msg = f"{folder} exists but was not drawn by ToyAD. Choose another root for ToyAD, or remove that folder."
        raise FileExistsError(msg) from None
    if version != program_version() or not sizes:
        return False
    try:
        return all((folder / name).stat().st_size == int(size) for size, name in (line.split(" ") for line in sizes))
    except (FileNotFoundError, ValueError):
        return False


def ensure_category(root: Path, category: str) -> None:
    """Draw a category unless it is there.

    It is drawn in a temporary folder beside its place and moved there by one rename: a category is there whole or
    not at all. One process draws at a time, so that what is left of temporary folders is that of killed ones.

    Raises:
        FileExistsError: If the category's folder holds something that no ToyAD drew.
        OSError: If it cannot be written.
    """
    target = root / category
    if is_current(target):
        return
    announce(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / LOCK_FILE, timeout=LOCK_PATIENCE):
            for left in root.glob(".*-drawing-*"):
                shutil.rmtree(left, ignore_errors=True)
            if not is_current(target):
                draw_beside(target)
    except FileExistsError:
        raise
    except OSError as error:
        msg = f"ToyAD cannot be drawn into {root}: {error}. It takes a megabyte a category; free some, or choose "
        msg += "another root."
        raise OSError(msg) from error


def draw_beside(target: Path) -> None:
    """Draw a category in a temporary folder, and move it to its place."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-drawing-") as scratch:
        fresh = Path(scratch) / "fresh"
        draw_category(fresh, target.name)
        if target.exists():
            target.rename(Path(scratch) / "outdated")
        fresh.rename(target)


@cache
def announce(root: Path) -> None:
    """Say once where categories are drawn."""
    logger.info("Drawing toy categories into %s as they are first used.", root)


class ToyAD(AnomalibDataModule):
    """A drawn dataset of textures and objects with seven kinds of defects and exact masks.

    A category's images are drawn on first use (well under a second) and kept under `root` in MVTec AD's layout:
    ``train/good``, ``test/good``, ``test/<defect>``, ``ground_truth/<defect>``. They have 96x96 pixels and are the same
    on every run. A program of another version draws them anew.

    Args:
        root: Folder of the dataset.
        category: One of ``CATEGORIES``.
        train_batch_size: Training batch size.
        eval_batch_size: Validation, test and prediction batch size.
        num_workers: Worker processes of the data loaders.
        train_augmentations: Augmentations of the training images.
        val_augmentations: Augmentations of the validation images.
        test_augmentations: Augmentations of the test images.
        augmentations: Augmentations of the stages that have none of their own.
        test_split_mode: How the test set is made, as in anomalib.
        test_split_ratio: Part of the training images used for testing, where the mode asks for it.
        val_split_mode: How the validation set is made, as in anomalib.
        val_split_ratio: Part of the data used for validation, where the mode asks for it.
        seed: Seed of the random splits.

    Raises:
        ValueError: If there is no such category.

    Example:
        >>> datamodule = ToyAD(category="gear")
        >>> datamodule.prepare_data()
        >>> datamodule.setup()
    """

    CATEGORIES = CATEGORIES

    def __init__(
        self,
        root: Path | str = "./datasets/ToyAD",
        category: str = "bottle",
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
    ) -> None:
        if category not in CATEGORIES:
            msg = f"ToyAD has no category {category!r}. Choose one of: {', '.join(CATEGORIES)}."
            raise ValueError(msg)
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        self.root = Path(root)
        self.category = category

    def prepare_data(self) -> None:
        """Draw the category unless it is there.

        Raises:
            FileExistsError: If the category's folder holds something that no ToyAD drew.
            OSError: If it cannot be written.
        """
        ensure_category(self.root, self.category)

    def _setup(self, _stage: str | None = None) -> None:
        self.prepare_data()  # a caller may skip it, and another machine of a cluster has its own disk
        self.train_data = MVTecADDataset(root=self.root, category=self.category, split=Split.TRAIN)
        self.test_data = MVTecADDataset(root=self.root, category=self.category, split=Split.TEST)

    def train_dataloader(self) -> DataLoader:
        """Batches of the training split in random order, the same for the same seed and epoch."""
        return training_loader(self)
