# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""One way to score images with a model, whatever kind of file holds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

import anomalib_clipzoo
from anomalib_clipzoo.clip.preprocess import resize_images
from anomalib_clipzoo.deploy.decoding import to_pixels
from anomalib_clipzoo.deploy.metadata import read_metadata
from anomalib_clipzoo.deploy.runtimes import (
    OnnxRuntime,
    OpenVinoRuntime,
    Runtime,
    TorchRuntime,
    check_trust,
    read_torch_export,
)
from anomalib_clipzoo.models.components.weights import model_of
from anomalib_clipzoo.results.regions import Region, find_peak, find_regions
from anomalib_clipzoo.results.rows import LABELS, Thresholds

LEARNED = (".ckpt", ".safetensors")
TORCH = ".pt"
EXPORTED: dict[str, Callable[..., Runtime]] = {".onnx": OnnxRuntime, ".xml": OpenVinoRuntime}
PROBE_SIZE = (64, 64)
"""Of the first picture that a model is run on where it takes any size; in pixels."""


@dataclass(frozen=True)
class Scores:
    """What a model says of a batch of images.

    Attributes:
        score: ``(B,)``, 0..1, on the post-processed scale.
        label: ``(B,)``, whether the image is anomalous; ``None`` where nothing decides.
        map: Anomaly map ``(B, h, w)``, 0..1, of the model's own size; ``None`` for models without.
        mask: ``(B, h, w)``, which pixels are anomalous; ``None`` where nothing decides.
    """

    score: np.ndarray
    label: np.ndarray | None
    map: np.ndarray | None
    mask: np.ndarray | None

    def at_size(self, height: int, width: int) -> Scores:
        """Bring map (bilinear) and mask (nearest) to the images' own size."""
        return replace(
            self,
            map=None if self.map is None else _resize(self.map, height, width, cv2.INTER_LINEAR),
            mask=None if self.mask is None else _resize(self.mask, height, width, cv2.INTER_NEAREST),
        )


@dataclass(frozen=True)
class Finding:
    """What a model says of one image.

    Attributes:
        score: 0..1, on the post-processed scale.
        label: "normal", "anomalous", or ``None`` where nothing decides.
        threshold: Scores above it are anomalous.
        map: Anomaly map ``(h, w)``, of the model's own size.
        mask: ``(h, w)``, which pixels are anomalous.
        size: Width and height of the image in pixels.
    """

    score: float
    label: str | None
    threshold: float | None
    map: np.ndarray | None
    mask: np.ndarray | None
    size: tuple[int, int]

    @property
    def regions(self) -> list[Region]:
        """The mask's connected parts in pixels of the image, the largest first."""
        return [] if self.mask is None else find_regions(self.mask, self.size)

    @property
    def peak(self) -> tuple[int, int] | None:
        """Column and row of the image's most anomalous pixel."""
        return None if self.map is None else find_peak(self.map, self.size)


class Scorer:
    """A model that is ready to score images, see :func:`load_scorer`. Several threads may use one.

    Args:
        runtime: What runs the model.
        model: The model's name.
        version: Version of the package that it was made with.
        class_name: What it takes images to show, for models that are told.
        image_size: Height and width that images are brought to; ``None`` where the model's size is not known.
        thresholds: What its own labels and masks were decided by.
        facts: What else the file says of itself.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        model: str,
        version: str | None = None,
        class_name: str | None = None,
        image_size: tuple[int, int] | None = None,
        thresholds: Thresholds | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.runtime = runtime
        self.model, self.version, self.class_name = model, version, class_name
        self.image_size = runtime.image_size or image_size
        self.thresholds = thresholds or Thresholds()
        self._changed = Thresholds()
        self.facts = facts or {}

    @property
    def threshold(self) -> float | None:
        """Scores above it are anomalous; it may be changed at any time, which takes the file's place."""
        return self.thresholds.image if self._changed.image is None else self._changed.image

    @threshold.setter
    def threshold(self, value: float) -> None:
        self._changed = replace(self._changed, image=_checked(value))

    @property
    def pixel_threshold(self) -> float | None:
        """Pixels of the map above it are anomalous; it may be changed at any time, which takes the file's place."""
        return self.thresholds.pixel if self._changed.pixel is None else self._changed.pixel

    @pixel_threshold.setter
    def pixel_threshold(self, value: float) -> None:
        self._changed = replace(self._changed, pixel=_checked(value))

    def __call__(self, images: np.ndarray | torch.Tensor) -> Scores:
        """Score a batch.

        Args:
            images: RGB images ``(B, 3, H, W)``, 0..1.

        Raises:
            ValueError: If it is something else.
        """
        images = np.ascontiguousarray(images, dtype=np.float32)
        if images.ndim != 4 or images.shape[1] != 3 or not images.size:
            msg = f"Images are to be RGB of shape (B, 3, H, W), but this is {images.shape}."
            raise ValueError(msg)
        if not (images.min() >= 0 and images.max() <= 1):
            msg = f"Values of images are to be in 0..1, but these are {images.min():.3g}..{images.max():.3g}."
            raise ValueError(msg)
        size = self.image_size
        if size is not None and images.shape[-2:] != size:
            images = resize_images(torch.from_numpy(images), size).numpy()
        return self._scores(self.runtime(images), len(images))

    def _scores(self, outputs: dict[str, np.ndarray], count: int) -> Scores:
        score, maps = outputs["pred_score"].reshape(count).astype(np.float32), _planes(outputs.get("anomaly_map"))
        label, mask = outputs.get("pred_label"), _planes(outputs.get("pred_mask"))
        limits = self._changed  # read once: another thread may change it
        if limits.image is not None:
            label = score > limits.image
        if limits.pixel is not None and maps is not None:
            mask = maps > limits.pixel
        return Scores(score, None if label is None else label.reshape(count) > 0, maps, mask)

    def find(self, images: Sequence[Image.Image]) -> list[Finding]:
        """Score pictures, which may be of different sizes.

        Each is brought to the model's size by the model's own resizing, so that one answer does not depend on which
        other pictures came with it.

        Args:
            images: RGB pictures.
        """
        return self.find_pixels(
            [to_pixels(image, self.image_size) for image in images], [image.size for image in images]
        )

    def find_pixels(self, pixels: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]) -> list[Finding]:
        """Score pictures that :func:`~anomalib_clipzoo.deploy.decoding.to_pixels` made ready.

        Args:
            pixels: 8-bit levels ``(3, h, w)`` of each.
            sizes: Width and height of each before that.
        """
        findings: dict[int, Finding] = {}
        for places in _of_one_shape(pixels):
            scores, limit = self(np.stack([pixels[place] for place in places]) / np.float32(255)), self.threshold
            for row, place in enumerate(places):
                findings[place] = Finding(
                    score=float(scores.score[row]),
                    label=None if scores.label is None else LABELS[int(scores.label[row])],
                    threshold=limit,
                    map=None if scores.map is None else scores.map[row],
                    mask=None if scores.mask is None else scores.mask[row],
                    size=sizes[place],
                )
        return [findings[place] for place in range(len(pixels))]


def _of_one_shape(arrays: Sequence[np.ndarray]) -> list[list[int]]:
    """Group the places of arrays by their shape."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, array in enumerate(arrays):
        groups.setdefault(array.shape, []).append(place)
    return list(groups.values())


def load_scorer(
    path: str | Path | None = None,
    *,
    device: str = "auto",
    threads: int | None = None,
    model: str | None = None,
    category: str | None = None,
    **arguments: Any,
) -> Scorer:
    """Load a model from any file that one of them can be in, and run it once.

    Args:
        path: A checkpoint (``.ckpt``), learned weights (``.safetensors``), an exported model (``.pt``, ``.onnx`` or
            ``.xml``), or with ``model`` the weights of a paper's repository. ``None`` for a model that needs none.
        device: "cpu", "cuda", another that the runtime knows, or "auto" for the GPU if PyTorch runs the model and has
            one.
        threads: Threads that one batch is scored with.
        model: Name of the model's class, where the file does not tell.
        category: Whose references images are compared with, where a file holds those of several categories.
        **arguments: The model's arguments, where they are to differ from those that the file was made with.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, is not one of these, would run code, or lacks what scoring needs.
    """
    path = None if path is None else Path(path).expanduser()
    if path is None or model is not None:
        scorer = _load_learned(path, model, category, arguments, device, threads)
    elif path.suffix in LEARNED:
        scorer = _load_learned(path, identify(path), category, arguments, device, threads)
    else:
        identify(path)
        _refuse_arguments(path, {**arguments, **({"category": category} if category else {})})
        scorer = _load_exported(path, device, threads)
    height, width = scorer.image_size or PROBE_SIZE
    scorer(np.zeros((1, 3, height, width)))  # encodes texts, and shows before work starts what is wrong with a file
    return scorer


def identify(path: Path) -> str:
    """Tell the name of the model that a file holds, which loads nothing yet.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, holds none, or would run code without permission.
    """
    if not path.is_file():
        msg = f"There is no file {str(path)!r}."
        raise FileNotFoundError(msg)
    if path.suffix in LEARNED:
        return model_of(path)
    if path.suffix not in {TORCH, *EXPORTED}:
        msg = f"{path} is none of the files that a model can be in: {', '.join((*LEARNED, TORCH, *EXPORTED))}."
        raise ValueError(msg)
    if path.suffix == TORCH:
        check_trust(path)
    return read_metadata(path)["model"]


def _load_learned(
    path: Path | None,
    model: str | None,
    category: str | None,
    arguments: dict[str, Any],
    device: str,
    threads: int | None,
) -> Scorer:
    if model is None:
        msg = "Give a file, or the name of a model that needs none."
        raise ValueError(msg)
    module = model_class(model)(weights=path, evaluator=False, visualizer=False, **arguments)
    if module.LEARNS and path is None:
        msg = f"{model} has to learn first: give its checkpoint or its learned weights."
        raise ValueError(msg)
    module.category = category or module.category
    module.prepare_export()
    return _of_module(module, device, threads, version=module.arguments.learned.record.get("version") if path else None)


def _load_exported(path: Path, device: str, threads: int | None) -> Scorer:
    if path.suffix == TORCH:
        return _of_module(read_torch_export(path), device, threads)
    facts = read_metadata(path)
    try:
        runtime = EXPORTED[path.suffix](path, "cpu" if device == "auto" else device, threads)
    except (ValueError, OSError):
        raise
    except Exception as error:  # the runtimes' own have no common kind
        msg = f"{path} cannot be loaded as an exported model ({str(error).strip().splitlines()[-1]})."
        raise ValueError(msg) from error
    limits = facts["thresholds"] or {}
    return Scorer(
        runtime,
        model=facts["model"],
        version=facts["version"],
        class_name=", ".join(facts["class_names"] or []) or None,
        image_size=tuple(facts["image_size"]),
        thresholds=Thresholds(
            *(limits.get("normalized"),) * 2, limits.get("image"), limits.get("pixel"), limits.get("origin")
        ),
        facts=facts,
    )


def _of_module(module: Any, device: str, threads: int | None, version: str | None = None) -> Scorer:
    """Make a scorer of a Lightning module."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    hparams = getattr(module, "hparams", {})
    return Scorer(
        TorchRuntime(module, device, threads),
        model=type(module).__name__,
        version=version or anomalib_clipzoo.__version__,
        class_name=hparams.get("class_name") or getattr(module, "category", None),
        image_size=getattr(module.pre_processor, "image_size", None),
        thresholds=Thresholds.of(module.post_processor),
        facts={"arguments": dict(hparams)},
    )


def model_class(name: str) -> type[Any]:
    """Find a model of this package by its name.

    Raises:
        ValueError: If there is none.
    """
    found = {entry.name: entry for entry in entry_points(group="anomalib.models")}
    ours = {name: entry for name, entry in found.items() if entry.value.startswith(f"{anomalib_clipzoo.__name__}.")}
    if name not in ours:
        msg = f"There is no model {name!r}; there are {', '.join(sorted(ours))}."
        raise ValueError(msg)
    return ours[name].load()


def _refuse_arguments(path: Path, arguments: dict[str, Any]) -> None:
    if arguments:
        msg = f"{path} is exported: {', '.join(arguments)} cannot be changed in it; give a checkpoint, or export anew."
        raise ValueError(msg)


def _checked(threshold: float) -> float:
    if not 0 <= threshold <= 1:
        msg = f"A threshold is a number in 0..1, not {threshold}."
        raise ValueError(msg)
    return float(threshold)


def _planes(values: np.ndarray | None) -> np.ndarray | None:
    """Maps or masks as ``(B, h, w)``; some models have a channel of one before the last two axes."""
    return None if values is None else values.reshape(len(values), *values.shape[-2:])


def _resize(planes: np.ndarray, height: int, width: int, interpolation: int) -> np.ndarray:
    kind = np.uint8 if planes.dtype == bool else np.float32
    resized = [cv2.resize(plane.astype(kind), (width, height), interpolation=interpolation) for plane in planes]
    return np.stack(resized).astype(planes.dtype)
