# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Time and peak memory of a pass with reference images beside one without.

```
python benchmarks/few_shot_cost.py VcpClip AnomalyClip AdaClip
```

The papers' architecture with random weights, one image of 518 pixels and four references, on the CPU in fp32. Both
passes run in turns; processor seconds, the fastest of each counts. Memory is the peak of the process, the model
included (Linux only).
"""

import argparse
from functools import partial
from typing import Any

import torch
from speed import Run, ada_clip, anomaly_clip, peak_memory, seconds, vcp_clip

from anomalib_clipzoo.anomaly.references import Reference

MODELS = {"VcpClip": vcp_clip, "AnomalyClip": anomaly_clip, "AdaClip": ada_clip}
SHOTS = 4


def fill(model: Any) -> None:
    """Make random features the references; how they came about costs nothing here."""
    memory, vision = model.references, model.backbone.vision
    shape = (SHOTS, vision.grid[0] * vision.grid[1], vision.width)
    memory.remember(
        [Reference(None, str(number)) for number in range(SHOTS)], {kind: torch.randn(shape) for kind in memory.kinds}
    )


def cost(run: Run) -> tuple[float, float]:
    """Measure one pass: processor seconds, and the peak of memory in GiB."""
    peaks: list[float] = []
    time = seconds(lambda: peaks.append(peak_memory(run)))
    return time, peaks[0]


def measure(model: Any, repeats: int) -> None:
    """Print both passes, and the ratio of the second to the first."""
    run = torch.no_grad()(partial(model, torch.randn(1, 3, 518, 518)))
    zero, few = [], []
    for _ in range(repeats):
        model.references.forget([None])
        zero.append(cost(run))
        fill(model)
        few.append(cost(run))
    best = [tuple(map(min, *rounds)) for rounds in (zero, few)]
    for name, (time, memory) in zip(("without", "with"), best, strict=True):
        print(f"  {name:>8} references {time:7.2f} s {memory:6.2f} GiB")
    ratios = [after / before for before, after in zip(*best, strict=True)]
    size = model.references.megabytes
    print(f"  {'ratio':>19} {ratios[0]:7.3f}   {ratios[1]:6.3f}      {size:.1f} MB of references", flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", choices=MODELS, nargs="+")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    for name in arguments.models:
        print(name)
        measure(MODELS[name]().eval(), arguments.repeats)


if __name__ == "__main__":
    main()
