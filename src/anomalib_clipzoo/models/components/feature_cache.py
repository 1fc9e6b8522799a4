# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What the frozen CLIP says about training images is computed once and kept, in memory or in a folder."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from filelock import FileLock
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

import anomalib_clipzoo

logger = logging.getLogger(__name__)

Features = dict[str, torch.Tensor]
CacheDtype = Literal["float32", "bfloat16", "float16"]

IN_MEMORY = "memory"
CACHE_SIZE = 8.0  # gigabytes
GIGABYTE = 10**9
UNFINISHED = ".unfinished"
NOTHING_KEPT = 0.5  # share of images found below which something is wrong, once all have been seen


class Store(Protocol):
    """Where the features of single images are kept, by key."""

    def read(self, key: str) -> Features | None:
        """Return what is kept under a key, if anything is."""

    def write(self, key: str, features: Features) -> bool:
        """Keep something, unless there is no room for it; say whether it is kept."""


class MemoryStore:
    """Keep features in this process's memory.

    Args:
        limit: Most bytes to keep.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.used = 0
        self._entries: dict[str, Features] = {}

    def __str__(self) -> str:
        return "memory"

    def read(self, key: str) -> Features | None:
        """Return what is kept under a key, if anything is."""
        return self._entries.get(key)

    def write(self, key: str, features: Features) -> bool:
        """Keep something, unless there is no room for it; say whether it is kept."""
        size = sum(value.nbytes for value in features.values())
        if self.used + size > self.limit:
            return False
        self._entries[key] = features
        self.used += size
        return True


class FolderStore:
    """Keep features in a folder, a file for each image, which is mapped into memory when it is read.

    Several processes may share the folder. A file gets its name when it is complete; who writes holds a lock, so that
    the limit holds for all together, and whatever unfinished file a writer finds was left by one that was killed.

    Args:
        folder: The folder; it is made where it does not exist.
        limit: Most bytes that it may hold, whoever wrote them.
    """

    def __init__(self, folder: Path, limit: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.limit = limit
        self._lock = FileLock(folder / ".lock")

    def __str__(self) -> str:
        return str(self.folder)

    def read(self, key: str) -> Features | None:
        """Return what is kept under a key, if anything is; a damaged file is removed."""
        path = self._path(key)
        try:
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dictionary
        except FileNotFoundError:
            return None
        except SafetensorError:
            path.unlink(missing_ok=True)
            return None

    def write(self, key: str, features: Features) -> bool:
        """Keep something, unless there is no room for it; say whether it is kept."""
        path = self._path(key)
        size = sum(value.nbytes for value in features.values())
        with self._lock:
            if self._used() + size > self.limit:
                return False
            path.parent.mkdir(exist_ok=True)
            unfinished = path.with_suffix(UNFINISHED)
            try:
                save_file(features, unfinished)
                _to_disk(unfinished)
            except OSError as error:
                unfinished.unlink(missing_ok=True)
                logger.warning("Features cannot be kept in %s: %s", self.folder, error)
                return False
            unfinished.replace(path)
            return True

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _used(self) -> int:
        """Add up all files; what a killed process left unfinished is removed."""
        used = 0
        for file in self.folder.rglob("*"):
            with suppress(FileNotFoundError):  # somebody empties the folder
                if file.suffix == UNFINISHED:
                    file.unlink()
                elif not file.is_dir():
                    used += file.stat().st_size
        return used


def _to_disk(path: Path) -> None:
    """Have a file written before it gets its name, so that not even a power cut leaves a named file half written."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


class FeatureCache:
    """Look features of images up, and compute those that are not there.

    What stands for an image is a hash of the pixels that the tower sees, after pre-processing and at its size: the same
    file under another name is found again, a changed one is not. Beside it count the tower's weights, the precision
    that it runs in, what the model reads of it, and this package's version.

    Args:
        store: Where features are kept.
        dtype: Precision in which they are kept, unless their own is as narrow.
        made_with: What features depend on beside pixels and precision, as plain data.
    """

    def __init__(self, store: Store, dtype: torch.dtype, made_with: Any) -> None:
        self.store = store
        self.dtype = dtype
        self.made_with = made_with
        self.found = self.asked = self.refused = 0

    def lookup(self, images: torch.Tensor, compute: Callable[[torch.Tensor], Features]) -> Features:
        """Return the features of images.

        Features that were just computed pass through the cache's precision as well, so that all epochs see the same.

        Args:
            images: What the tower sees, ``(B, 3, H, W)``.
            compute: Makes features ``(B, ...)`` of images, without gradients, by name.
        """
        keys = [f"{self._origin(images)}/{image_hash(image)}" for image in images]
        rows = [self.store.read(key) for key in keys]
        missing = [row for row, kept in enumerate(rows) if kept is None]
        self.asked += len(rows)
        self.found += len(rows) - len(missing)
        if missing:
            computed = compute(images if len(missing) == len(rows) else images[missing])
            for number, row in enumerate(missing):
                rows[row] = self._pack({name: value[number] for name, value in computed.items()})
                self.refused += not self.store.write(keys[row], rows[row])  # type: ignore[arg-type]
        return _unpack(rows, images.device)  # type: ignore[arg-type]

    def _origin(self, images: torch.Tensor) -> str:
        """Name what all features of a run have in common."""
        kind = images.device.type
        around = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else ""
        told = json.dumps([anomalib_clipzoo.__version__, self.made_with, around, str(self.dtype)])
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def _pack(self, features: Features) -> Features:
        """Bring an image's features to main memory in the cache's precision; their names say which they had."""
        packed = {}
        for name, value in features.items():
            dtype = self.dtype if self.dtype.itemsize < value.dtype.itemsize else value.dtype
            packed[f"{name}:{str(value.dtype).removeprefix('torch.')}"] = value.to("cpu", dtype, copy=True).contiguous()
        return packed


def _unpack(rows: list[Features], device: torch.device) -> Features:
    """Make a batch of images' features, in their own precision."""
    unpacked = {}
    for packed in rows[0]:
        name, dtype = packed.split(":")
        unpacked[name] = torch.stack([row[packed] for row in rows]).to(device, getattr(torch, dtype))
    return unpacked


def image_hash(image: torch.Tensor) -> str:
    """Return a hash of an image's pixels, shape and precision."""
    digest = hashlib.sha256(f"{image.dtype} {tuple(image.shape)}".encode())
    digest.update(_bytes(image))
    return digest.hexdigest()


def weights_hash(module: nn.Module) -> str:
    """Return a hash of all weights and buffers of a module."""
    digest = hashlib.sha256()
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> memoryview:
    plain = tensor.detach().as_subclass(torch.Tensor).cpu().contiguous()
    return plain.flatten().view(torch.uint8).numpy().data


class KeepFeatures(Callback):
    """Give a model a cache of features while it is fitted, and tell how many images were found in it.

    Args:
        where: A folder, or "memory".
        size: Most gigabytes (10^9 bytes) to keep.
        dtype: Precision in which features are kept.
    """

    def __init__(self, where: str, size: float, dtype: CacheDtype) -> None:
        self.where = where
        self.limit = size * GIGABYTE
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.epochs = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the cache."""
        del trainer
        self.epochs = 0
        store = MemoryStore(self.limit) if self.where == IN_MEMORY else FolderStore(Path(self.where), self.limit)
        pl_module.feature_cache = FeatureCache(store, self.dtype, pl_module.features_made_with())  # type: ignore[assignment,operator]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how many of the epoch's images were found."""
        del trainer
        self.epochs += 1
        cache: Any = pl_module.feature_cache
        rate = cache.found / max(1, cache.asked)
        pl_module.log("feature_cache_hit_rate", rate)
        logger.info("Feature cache in %s: %d of %d images were there.", cache.store, cache.found, cache.asked)
        if cache.refused:
            logger.warning(
                "The feature cache in %s is full: the features of %d images were not kept and are computed again in "
                "each epoch. Give it more room with cache_size, or half of the bytes with cache_dtype; a folder may "
                "hold what other runs left, and can be emptied at any time.",
                cache.store,
                cache.refused,
            )
        elif self.epochs > pl_module.hparams["cache_variants"] and rate < NOTHING_KEPT:
            logger.warning(
                "The feature cache found %.0f %% of the images: they differ from epoch to epoch. Turn off what changes "
                "them at random, such as the datamodule's own train_augmentations.",
                100 * rate,
            )
        cache.found = cache.asked = cache.refused = 0

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the cache go."""
        del trainer, stage
        pl_module.feature_cache = None  # type: ignore[assignment]
