# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Exported files of every model on the toy: how far from the model in PyTorch, how large, how fast.

```
python benchmarks/exports.py --weights FOLDER   # with VcpClip.safetensors and so on; models without are left out
python benchmarks/exports.py --weights FOLDER --categories screw leather --sizes 96x96   # what smaller weights cost
```

Each model is exported once for images of any size, to ONNX and from there to OpenVINO with weights in FP32, FP16 and
INT8. Every file is compared with PyTorch on the same images from disk, at the model's own size, at sizes that are
smaller, larger and not square; AUROC on whole test sets at the model's own size, mean over categories. What keeps
images of a category is tested on the first alone. Time: median of single images.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from anomalib.deploy import CompressionType
from PIL import Image

import anomalib_clipzoo
from anomalib_clipzoo.data.toy import ToyAD
from anomalib_clipzoo.deploy.check import Comparison, Side, compare, size_of
from anomalib_clipzoo.deploy.runtimes import OnnxRuntime, OpenVinoRuntime, Outputs, Runtime, TorchRuntime

CLASS_NAME = "object"  # one export serves several categories
ZERO_SHOT = {
    "VcpClip": {},
    "AnomalyClip": {},
    "AdaClip": {"class_name": CLASS_NAME},
    "AprilGan": {"class_name": CLASS_NAME},
    "Crane": {},
    "WinClipPlus": {"class_name": CLASS_NAME},
}
CASES = {
    **ZERO_SHOT,
    **{f"{name}, 2 references": {**arguments, "k_shot": 2} for name, arguments in ZERO_SHOT.items()},
    "MuSc, pool of 10": {"pool_size": 10},
}
SIZES = ((96, 96), (64, 64), (200, 200), (80, 144))  # height and width of images in pixels; the toy's own first
PRECISIONS = {"fp32": None, "fp16": CompressionType.FP16, "int8": CompressionType.INT8}


@dataclass
class Row:
    """What was seen of one file on images of one size."""

    case: str
    file: str
    size: str
    images: int
    score_difference: float
    map_difference: float
    labels_changed: int
    pixels_changed: float
    auroc: float | None
    auroc_change: float | None
    milliseconds: float
    torch_milliseconds: float
    megabytes: float


def main() -> None:
    """Measure all cases and print a line of JSON for each file and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder with NAME.safetensors")
    parser.add_argument("--root", type=Path, default=Path("datasets/ToyAD"))
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--categories", nargs="+", default=["screw"])
    parser.add_argument("--sizes", nargs="+", default=["x".join(map(str, size)) for size in SIZES])
    options = parser.parse_args()
    for category in options.categories:
        ToyAD(root=options.root, category=category).prepare_data()
    folders = [options.root / category for category in options.categories]
    sizes = [tuple(map(int, size.split("x"))) for size in options.sizes]
    for case in options.cases:
        for row in measure(case, folders, options.weights, options.images, sizes):
            print(json.dumps(asdict(row)), flush=True)


class Remembering:
    """A runtime that runs each image once, and says what it said of it when it comes again."""

    image_size = None

    def __init__(self, runtime: Runtime) -> None:
        self.runtime, self.known, self.seconds = runtime, {}, []

    def __call__(self, images: np.ndarray) -> Outputs:
        """Run the model, or remember."""
        key = (images.shape, hash(images.tobytes()))
        if key not in self.known:
            start = time.perf_counter()
            self.known[key] = self.runtime(images)
            self.seconds.append(time.perf_counter() - start)
        return self.known[key]


def measure(case: str, folders: list[Path], weights: Path, count: int, sizes: list[tuple[int, int]]) -> Iterator[Row]:
    """Export a model in all formats and compare each with it."""
    name = case.partition(",")[0]
    model = build(name, CASES[case], folders[0], weights)
    if model is None:
        print(f"{case}: there are no weights in {weights}", flush=True)
        return
    keeps = "k_shot" in CASES[case] or "pool_size" in CASES[case]
    paths = [path for each in folders[: 1 if keeps else None] for path in sorted((each / "test").rglob("*.png"))]
    original = Remembering(TorchRuntime(model))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = export(model, folder)
        runtimes = {path: (OnnxRuntime if path.suffix == ".onnx" else OpenVinoRuntime)(path) for path in files}
        for path, runtime in runtimes.items():
            for size in sizes:
                chosen = paths if size == SIZES[0] else paths[:: max(1, len(paths) // count)]
                images = [resized(image, size, folder) for image in chosen]
                found = compare(runtime, original, images)
                yield row_of(case, path, size, found, original.seconds)


def build(name: str, arguments: dict, data: Path, weights: Path) -> Any:
    """Build a model with its learned weights; return ``None`` if it needs some and there are none."""
    kind, file = getattr(anomalib_clipzoo, name), weights / f"{name}.safetensors"
    if kind.LEARNS and not file.is_file():
        return None
    if "k_shot" in arguments:
        arguments = {**arguments, "few_shot_source": data / "train"}
    if "pool_size" in arguments:
        arguments = {**arguments, "pool_source": data / "train"}
    given = {"weights": file} if kind.LEARNS else {}
    return kind(backbone="toy", **given, **arguments, visualizer=False, evaluator=False).eval()


def export(model: Any, folder: Path) -> list[Path]:
    """Export to ONNX for images of any size, and the same graph to OpenVINO in each precision."""
    start = time.perf_counter()
    onnx = model.to_onnx(folder / "onnx")
    print(f"# ONNX after {time.perf_counter() - start:.0f} s", flush=True)
    files = [onnx]
    for precision, compression in PRECISIONS.items():
        with patch.object(type(model), "REFUSED_PRECISIONS", {}), patch.object(model, "to_onnx", lambda *_, **__: onnx):
            files.append(model.to_openvino(folder / precision, f"openvino_{precision}", compression_type=compression))
    return files


def resized(image: Path, size: tuple[int, int], folder: Path) -> Path:
    """Return the path of the image in another size, in a folder of the same name."""
    path = folder / Path(f"{size[0]}x{size[1]}", *image.parts[-4:])
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.open(image).convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC).save(path)
    return path


def mean_auroc(found: Comparison, side: Side) -> float:
    """Return the AUROC within each category, averaged over categories."""
    categories = np.array([path.parts[-4] for path in found.paths])
    aurocs = []
    for category in np.unique(categories):
        (chosen,) = np.nonzero(categories == category)
        part = Comparison([found.paths[index] for index in chosen])
        aurocs.append(part.auroc(Side(scores=[side.scores[index] for index in chosen])))
    return float(np.mean(aurocs))


def row_of(case: str, path: Path, size: tuple[int, int], found: Comparison, torch_seconds: list[float]) -> Row:
    """Bring a comparison to a line of the table."""
    own = size == SIZES[0]
    ours, theirs = (mean_auroc(found, side) if own else None for side in (found.exported, found.original))
    return Row(
        case=case,
        file="onnx" if path.suffix == ".onnx" else path.stem,
        size=f"{size[0]}x{size[1]}",
        images=len(found.paths),
        score_difference=found.score_difference,
        map_difference=found.map_difference,
        labels_changed=found.labels_changed,
        pixels_changed=found.pixels_changed,
        auroc=ours,
        auroc_change=None if ours is None or theirs is None else ours - theirs,
        milliseconds=1000 * median(found.exported.seconds),
        torch_milliseconds=1000 * median(torch_seconds),
        megabytes=size_of(path) / 1e6,
    )


if __name__ == "__main__":
    main()
