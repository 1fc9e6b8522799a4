# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Time and memory of the evaluator beside anomalib's exact metrics, on the same maps.

```
python benchmarks/metrics.py
```

Maps with smooth noise and a brighter region in every second image are made batch by batch and handed to the evaluator,
as in a test: 200 of 518x518 pixels. Processor seconds are those of updates and results alone, without making the maps.
Memory is what the process takes at its peak beyond what it had when the first batch was ready (Linux only). Each
evaluator runs in a process of its own. anomalib's metrics: first all of them, as a test needs them, then one by one.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPRO, AUROC, AnomalibMetric, F1Max, F1Score, create_anomalib_metric
from torchmetrics.classification import BinaryAveragePrecision

from anomalib_clipzoo.metrics import PerCategoryEvaluator
from anomalib_clipzoo.metrics.observations import merged
from anomalib_clipzoo.metrics.rows import rows_of

SCORES, MAPS = ["pred_score", "gt_label"], ["anomaly_map", "gt_mask"]
BATCH = 8
KIB_PER_MIB = 2**10


class _AveragePrecision(BinaryAveragePrecision):
    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        super().update(preds.flatten(), target.flatten())


AP = create_anomalib_metric(_AveragePrecision)

EXACT: dict[str, Callable[[], list[AnomalibMetric]]] = {
    "AUROC": lambda: [AUROC(SCORES), AUROC(MAPS)],
    "AP": lambda: [AP(SCORES), AP(MAPS)],
    "F1Max": lambda: [F1Max(SCORES), F1Max(MAPS)],
    "AUPRO": lambda: [AUPRO(MAPS)],
    "F1Score": lambda: [F1Score(["pred_label", "gt_label"]), F1Score(["pred_mask", "gt_mask"])],
}


class Exact:
    """anomalib's metrics, each updated with every batch."""

    def __init__(self, names: Sequence[str]) -> None:
        self.metrics = [metric for name in names for metric in EXACT[name]()]

    def update(self, batch: ImageBatch) -> None:
        """Take in a batch."""
        for metric in self.metrics:
            metric.update(batch)

    def compute(self) -> list[float]:
        """Compute all metrics."""
        return [float(metric.compute()) for metric in self.metrics]


class Ours:
    """The evaluator, with all that it writes into its table."""

    def __init__(self, bootstrap: int) -> None:
        self.evaluator = PerCategoryEvaluator(bootstrap=bootstrap)

    def update(self, batch: ImageBatch) -> None:
        """Take in a batch."""
        self.evaluator.on_test_batch_end(SimpleNamespace(), SimpleNamespace(), None, batch, 0)

    def compute(self) -> list[float]:
        """Compute the table."""
        seen = merged([self.evaluator._observations], "-")
        rows = rows_of(seen, self.evaluator.bootstrap, self.evaluator.seed)
        return [figure.value for figure in rows[0].figures.values()]


SUBJECTS: dict[str, Callable[[], Exact | Ours]] = {
    "PerCategoryEvaluator": partial(Ours, 1000),
    "PerCategoryEvaluator(bootstrap=0)": partial(Ours, 0),
    "anomalib's exact metrics": partial(Exact, tuple(EXACT)),
    **{f"  {name} alone": partial(Exact, (name,)) for name in EXACT},
}


def make_batch(number: int, size: int) -> ImageBatch:
    """Maps of smooth noise, with a brighter region in every second image."""
    generator = torch.Generator().manual_seed(number)
    coarse = torch.rand(BATCH, 1, size // 16, size // 16, generator=generator)
    maps = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")[:, 0]
    masks = torch.zeros(BATCH, size, size, dtype=torch.bool)
    masks[::2, size // 4 : size // 3, size // 5 : size // 2] = True
    maps = (0.1 * maps + 0.02 * torch.rand(maps.shape, generator=generator) + 0.05 * masks).clamp(0, 1)
    return ImageBatch(
        image=torch.zeros(BATCH, 3, 1, 1),
        anomaly_map=maps,
        gt_mask=masks,
        pred_mask=maps > 0.12,
        pred_score=maps.flatten(1).amax(1),
        pred_label=maps.flatten(1).amax(1) > 0.12,
        gt_label=masks.flatten(1).any(1),
        image_path=[f"{number}_{row}.png" for row in range(BATCH)],
    )


def memory(key: str) -> int:
    """Memory of this process in KiB: now (``"VmRSS"``) or at its peak (``"VmHWM"``)."""
    return int(Path("/proc/self/status").read_text().partition(f"{key}:")[2].split()[0])


def measure(name: str, images: int, size: int) -> None:
    """Print seconds and MiB of one subject."""
    subject = SUBJECTS[name]()
    make_batch(0, size)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    before, seconds = memory("VmRSS"), 0.0
    for number in range(images // BATCH):
        batch = make_batch(number, size)
        start = time.process_time()
        subject.update(batch)
        seconds += time.process_time() - start
    start = time.process_time()
    subject.compute()
    seconds += time.process_time() - start
    print(seconds, (memory("VmHWM") - before) / KIB_PER_MIB)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--subject", choices=SUBJECTS, help="measure this alone and print its two numbers")
    arguments = parser.parse_args()
    if arguments.subject:
        measure(arguments.subject, arguments.images, arguments.size)
        return
    print(f"{arguments.images} maps of {arguments.size}x{arguments.size}: processor seconds, MiB at the peak")
    for name in SUBJECTS:
        command = [sys.executable, __file__, "--subject", name]
        command += ["--images", str(arguments.images), "--size", str(arguments.size)]
        seconds, mib = subprocess.check_output(command, text=True).split()[-2:]
        print(f"  {name:36} {float(seconds):8.1f} s {float(mib):9.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
