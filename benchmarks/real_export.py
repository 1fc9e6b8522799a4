# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Exports of the papers' architecture (CLIP ViT-L/14-336 at 518 pixels), with random weights: memory and agreement.

```
python benchmarks/real_export.py VcpClip
```

Each format is written and run in a process of its own, whose peak memory is printed (Linux only).
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import anomalib_clipzoo
from anomalib_clipzoo.deploy.check import size_of
from anomalib_clipzoo.deploy.runtimes import OnnxRuntime, OpenVinoRuntime, Runtime

SIZE = (518, 518)
GIB = 2**20  # of the kibibytes in which the kernel counts
RUNTIMES: dict[str, type[Runtime]] = {".onnx": OnnxRuntime, ".xml": OpenVinoRuntime}


def build(name: str) -> Any:
    """Build a model that counts as one that has learned."""
    torch.manual_seed(0)
    model = getattr(anomalib_clipzoo, name)(pretrained=None, visualizer=False, evaluator=False).eval()
    model.has_learned = True
    return model


def images() -> torch.Tensor:
    """Return an image of another size than the model's, in 8-bit levels as files hold them."""
    coarse = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return (torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic").clamp(0, 1) * 255).round() / 255


def export_onnx(name: str, folder: Path) -> dict[str, Any]:
    """Export to ONNX and keep what the model says."""
    model = build(name)
    start = time.perf_counter()
    with torch.no_grad():
        expected = model(images())
    seconds = time.perf_counter() - start
    np.savez(folder / "expected.npz", score=expected.pred_score, map=expected.anomaly_map)
    path = model.to_onnx(folder, input_size=SIZE)
    return {"file": str(path), "pytorch_seconds": seconds, "map_range": float(np.ptp(expected.anomaly_map.numpy()))}


def convert(name: str, folder: Path) -> dict[str, Any]:
    """Convert the ONNX file to OpenVINO, as anomalib does."""
    del name
    import openvino

    path = folder / "model.xml"
    openvino.save_model(openvino.convert_model(folder / "weights/onnx/model.onnx"), path, compress_to_fp16=False)
    return {"file": str(path)}


def run(name: str, folder: Path) -> dict[str, Any]:
    """Run a file, whose name is given, and compare it with the model."""
    path = folder / name
    runtime, image = RUNTIMES[path.suffix](path), images().numpy()
    start = time.perf_counter()
    outputs = runtime(image)
    seconds = time.perf_counter() - start
    expected = np.load(folder / "expected.npz")
    return {
        "seconds": seconds,
        "score_difference": float(np.abs(outputs["pred_score"] - expected["score"]).max()),
        "map_difference": float(np.abs(outputs["anomaly_map"] - expected["map"]).max()),
        "megabytes": size_of(path) / 1e6,
    }


def in_a_process(step: Any, name: str, folder: Path) -> None:
    """Take one step in a process of its own and print what it gave, with time and peak memory."""
    process = multiprocessing.get_context("spawn").Process(target=_report, args=(step, name, folder))
    process.start()
    process.join()
    if process.exitcode:
        msg = f"{step.__name__} of {name} ended with {process.exitcode}."
        raise SystemExit(msg)


def _report(step: Any, name: str, folder: Path) -> None:
    start = time.perf_counter()
    found = step(name, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB
    print(
        json.dumps({"step": step.__name__, "of": name, **found, "whole": time.perf_counter() - start, "GiB": peak}),
        flush=True,
    )


def main() -> None:
    """Export, convert and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="VcpClip")
    name = parser.parse_args().model
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        in_a_process(export_onnx, name, folder)
        in_a_process(run, "weights/onnx/model.onnx", folder)
        in_a_process(convert, name, folder)
        in_a_process(run, "model.xml", folder)


if __name__ == "__main__":
    main()
