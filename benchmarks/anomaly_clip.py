# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Time and peak memory of AnomalyCLIP beside the bare image tower that it stands on, as ratios.

```
python benchmarks/anomaly_clip.py --batch 1 4
```

ViT-L-14-336 at 518 pixels, random weights, fp32, CPU. Time: processor seconds, which other programs on the machine
disturb least; both run alternately in one process and the fastest pass of each counts. Memory: the peak while a pass
runs, in a process of its own for each; the tower goes without a text tower's weights (Linux only).
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from open_clip.factory import get_model_config
from open_clip.model import CLIP

from anomalib_clipzoo.clip import Backbone
from anomalib_clipzoo.models.anomaly_clip import AnomalyClipModel

NAME = "ViT-L-14-336"
SIZE = 518
KIB_PER_GIB = 2**20


def bare_tower() -> Callable[[torch.Tensor], object]:
    """Build open_clip's own image tower; the text tower is let go."""
    config = get_model_config(NAME)
    config["vision_cfg"]["image_size"] = SIZE
    return CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=True).eval().visual


def model() -> Callable[[torch.Tensor], object]:
    """Build AnomalyCLIP as its published weights are used: the last layer alone."""
    backbone = Backbone(NAME, None, quick_gelu=True, image_size=SIZE, interpolation="bilinear", antialias=False)
    return AnomalyClipModel(backbone).eval()


BUILD = {"tower": bare_tower, "model": model}


def seconds(run: Callable[[torch.Tensor], object], images: torch.Tensor) -> float:
    """Time one pass."""
    start = time.process_time()
    run(images)
    return time.process_time() - start


def peak_memory(run: Callable[[torch.Tensor], object], images: torch.Tensor) -> float:
    """Measure the most memory resident during one pass, in GiB; building the model does not count."""
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    run(images)
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / KIB_PER_GIB


def compare_time(images: torch.Tensor, repeats: int) -> None:
    """Print the fastest pass of each, taking turns."""
    tower, own = bare_tower(), model()
    tower(images), own(images)
    passes = [(seconds(tower, images), seconds(own, images)) for _ in range(repeats)]
    fastest = [min(column) for column in zip(*passes, strict=True)]
    print(
        f"batch {len(images)}: {fastest[0]:.2f} s the tower, {fastest[1]:.2f} s AnomalyCLIP, {_ratio(fastest)} times",
        flush=True,
    )


def compare_memory(batch: int) -> None:
    """Print the peak memory of each, in a process of its own."""
    command = [sys.executable, __file__, "--batch", str(batch), "--memory"]
    peaks = [float(subprocess.check_output([*command, kind], text=True).split()[-1]) for kind in BUILD]
    print(f"batch {batch}: {peaks[0]:.2f} GiB the tower, {peaks[1]:.2f} GiB AnomalyCLIP, {_ratio(peaks)} times")


def _ratio(pair: list[float]) -> str:
    return f"{pair[1] / pair[0]:.2f}"


@torch.no_grad()
def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", choices=sorted(BUILD), help="run one pass of one of them and print the peak in GiB")
    arguments = parser.parse_args()
    for batch in arguments.batch:
        images = torch.randn(batch, 3, SIZE, SIZE)
        if arguments.memory:
            print(peak_memory(BUILD[arguments.memory](), images))
        else:
            compare_time(images, arguments.repeats)
            compare_memory(batch)


if __name__ == "__main__":
    main()
