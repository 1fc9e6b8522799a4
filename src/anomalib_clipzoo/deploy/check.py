# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Whether an exported file scores images as the model in PyTorch does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from .metadata import describe_thresholds, files_of, read_metadata
from .thresholds import effective, is_bent

if TYPE_CHECKING:
    from .runtimes import Runtime

GOOD = ("good", "normal", "ok")  # folders of normal images
TOLERANCE = 1e-4
OF_MAPS = 10  # how much more the pixels of maps may differ than scores
CLOSE = 1e-6  # thresholds that differ by less are the same


def check_export(
    file: Path,
    against: Path | None = None,
    data: Path | None = None,
    tolerance: float = TOLERANCE,
    images: int = 50,
) -> int:
    """Compare an exported file with the model that it was made from, on the same images.

    Prints the largest differences of scores and maps, changed labels, AUROC where labels are known (from folders called
    good, normal or ok), time per image and size of the files. The exit status is 1 beyond the tolerance.

    Args:
        file: The exported .onnx, .xml (OpenVINO) or .pt (which needs TRUST_REMOTE_CODE=1).
        against: Checkpoint or learned weights that it was exported from. Needed unless the model learns nothing and has
            no reference images.
        data: A folder of images.
        tolerance: Largest difference of a score that is fine; pixels of maps may differ ten times as much.
        images: At most this many images, spread evenly over the folder.

    Raises:
        ValueError: If a file cannot be read, or they are not of the same model.
        FileNotFoundError: If there is no such file or folder.
    """
    if data is None:
        msg = "Say which images to compare on: --data FOLDER."
        raise ValueError(msg)
    metadata = read_metadata(file)
    paths = _choose(data, images)
    exported, original = _load_exported(file), _load_original(metadata, against)
    _check_thresholds(metadata, original)
    comparison = compare(exported, original, paths)
    for line in comparison.table(file, metadata, tolerance):
        print(line)  # noqa: T201
    return 0 if comparison.within(tolerance) else 1


@dataclass
class Side:
    """What one of two models said of the images, and how long it took.

    Attributes:
        scores: Score of each image.
        labels: Whether each is anomalous; empty where nothing decides.
        seconds: Time for each image.
    """

    scores: list[float] = field(default_factory=list)
    labels: list[bool] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass
class Comparison:
    """An exported file and the model in PyTorch, on the same images.

    Attributes:
        paths: The images.
        exported: What the file said.
        original: What the model said.
        map_difference: Largest difference of a pixel of a map.
        pixels_changed: Share of pixels whose mask differs.
    """

    paths: list[Path]
    exported: Side = field(default_factory=Side)
    original: Side = field(default_factory=Side)
    map_difference: float = 0.0
    pixels_changed: float = 0.0

    @property
    def score_difference(self) -> float:
        """Largest difference of an image's score."""
        return float(np.abs(np.subtract(self.exported.scores, self.original.scores)).max())

    @property
    def labels_changed(self) -> int:
        """Number of images with another label."""
        return sum(a != b for a, b in zip(self.exported.labels, self.original.labels, strict=True))

    def within(self, tolerance: float) -> bool:
        """Tell whether scores and maps are the same up to a tolerance; what is not a number is not."""
        return self.score_difference <= tolerance and self.map_difference <= OF_MAPS * tolerance

    def auroc(self, side: Side) -> float | None:
        """Return the image AUROC, 0..1, by the names of folders; ``None`` if these tell nothing."""
        from sklearn.metrics import roc_auc_score

        truth = [path.parent.name.lower() not in GOOD for path in self.paths]
        return None if len(set(truth)) < 2 else float(roc_auc_score(truth, side.scores))

    def table(self, file: Path, metadata: dict[str, Any], tolerance: float) -> list[str]:
        """Write the comparison for people, a line each."""
        sides = (self.exported, self.original)
        aurocs = [self.auroc(side) for side in sides]
        rows = [
            ("", f"{file.name}", "PyTorch"),
            ("image AUROC", *("unknown" if auroc is None else f"{auroc:.4f}" for auroc in aurocs)),
            ("milliseconds an image", *(f"{1000 * median(side.seconds):.1f}" for side in sides)),
            ("megabytes", f"{size_of(file) / 1e6:.1f}", ""),
        ]
        verdict = "within" if self.within(tolerance) else "BEYOND"
        return [
            f"{metadata['model']} ({metadata['precision']}) on {len(self.paths)} images",
            *(f"{name:<24}{ours:>20}{theirs:>12}".rstrip() for name, ours, theirs in rows),
            f"largest difference of a score       {self.score_difference:.2e}  (tolerance {tolerance:.0e})",
            f"largest difference of a map's pixel {self.map_difference:.2e}  (tolerance {OF_MAPS * tolerance:.0e})",
            f"labels changed                      {self.labels_changed} of {len(self.exported.labels)}",
            f"pixels of masks changed             {self.pixels_changed:.4%}",
            f"{verdict} the tolerance",
        ]


def size_of(file: Path) -> int:
    """Return the size in bytes of an exported file and of the weights beside it."""
    return sum(part.stat().st_size for part in files_of(file))


def _choose(folder: Path, count: int) -> list[Path]:
    """Choose images of a folder, spread evenly."""
    from anomalib_clipzoo.results.folder_images import image_files

    paths = image_files(folder)
    count = max(1, min(count, len(paths)))
    return [paths[index * len(paths) // count] for index in range(count)]


def _load_exported(file: Path) -> Runtime:
    from .scorer import load_scorer

    return load_scorer(file, device="cpu").runtime


def _load_original(metadata: dict[str, Any], against: Path | None) -> Any:
    """Load the model in PyTorch with the arguments that the file was exported with."""
    from .scorer import load_scorer

    if against is None and metadata["memory"]:
        msg = (
            f"The file holds {metadata['memory']['images']} images to compare with: give the weights or the checkpoint "
            "that has them, --against FILE."
        )
        raise ValueError(msg)
    arguments = {**metadata["arguments"], "category": metadata["category"]}
    return load_scorer(against, model=metadata["model"], device="cpu", **arguments).runtime


def _check_thresholds(metadata: dict[str, Any], original: Any) -> None:
    """Say if the thresholds differ, which moves all scores: no other difference would be seen."""
    thresholds = metadata["thresholds"], describe_thresholds(original.model.post_processor)
    if not all(is_bent(each) for each in thresholds):
        return
    ours, theirs = (effective(each) for each in thresholds)
    if any(abs(ours[kind] - theirs[kind]) > CLOSE for kind in ours):
        msg = (
            f"The file's thresholds are {ours}, the model's {theirs}, so all scores differ. Set the file's to the "
            "model's (clipzoo set-threshold --raw true) to compare them."
        )
        raise ValueError(msg)


def compare(exported: Runtime, original: Runtime, paths: Sequence[Path]) -> Comparison:
    """Run an exported file and the model in PyTorch on images, one at a time."""
    comparison = Comparison(list(paths))
    pixels = changed = 0
    for path in paths:
        image = _read(path, exported.image_size)
        ours, theirs = _run(exported, image, comparison.exported), _run(original, image, comparison.original)
        difference = np.abs(ours["anomaly_map"].astype(np.float32) - theirs["anomaly_map"].astype(np.float32))
        comparison.map_difference = float(np.maximum(comparison.map_difference, difference.max()))  # nan stays
        if "pred_mask" in ours and "pred_mask" in theirs:
            changed += int((ours["pred_mask"].astype(bool) != theirs["pred_mask"].astype(bool)).sum())
            pixels += ours["pred_mask"].size
    comparison.pixels_changed = changed / max(1, pixels)
    return comparison


def _read(path: Path, size: tuple[int, int] | None) -> np.ndarray:
    """Read an image ``(1, 3, H, W)``, 0..1, as anomalib does; a file of a fixed input size gets it in that size."""
    from anomalib_clipzoo.clip.preprocess import resize_images
    from anomalib_clipzoo.results.images import read_pixels

    image = read_pixels(path)[None]
    return (resize_images(image, size) if size else image).numpy()


def _run(runtime: Runtime, image: np.ndarray, side: Side) -> dict[str, np.ndarray]:
    start = time.perf_counter()
    outputs = runtime(image)
    side.seconds.append(time.perf_counter() - start)
    side.scores.append(float(outputs["pred_score"].reshape(())))
    if "pred_label" in outputs:
        side.labels.append(bool(outputs["pred_label"].reshape(())))
    return outputs
