# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Time and peak memory of WinClipPlus beside the bare image tower that it stands on, as ratios.

```
python benchmarks/win_clip_plus.py --batch 1 4
```

ViT-B-16-plus-240, random weights, CPU; the tower in fp32, WinClipPlus zero-shot in fp32 and bf16. An image has 2,670
window tokens against 226 of its own: 11.8 towers for the windows and one for the image are what to compare with.
Time: processor seconds, which other programs on the machine disturb least; all run in turns in one process and the
fastest pass of each counts. Memory: the peak while a pass runs, in a process of its own for each; the tower goes
without a text tower's weights (Linux only).
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from open_clip.factory import get_model_config
from open_clip.model import CLIP

from anomalib_clipzoo.clip import Backbone
from anomalib_clipzoo.models.win_clip_plus import WinClipPlusModel

NAME = "ViT-B-16-plus-240"
SIZE = 240
KIB_PER_GIB = 2**20

Run = Callable[[torch.Tensor], object]


def bare_tower() -> Run:
    """Build open_clip's own image tower; the text tower is let go."""
    config = get_model_config(NAME)
    return CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"]).eval().visual


def model(precision: str) -> Run:
    """Build WinClipPlus with its text encoded, which happens once a class."""
    built = WinClipPlusModel(Backbone(NAME, None), precision=precision).eval()
    built.text_features(["object"])
    return built


BUILD: dict[str, Callable[[], Run]] = {
    "tower": bare_tower,
    "float32": partial(model, "float32"),
    "bfloat16": partial(model, "bfloat16"),
}


def seconds(run: Run, images: torch.Tensor) -> float:
    """Time one pass."""
    start = time.process_time()
    run(images)
    return time.process_time() - start


def peak_memory(run: Run, images: torch.Tensor) -> float:
    """Measure the most memory resident during one pass, in GiB; building the model does not count."""
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    run(images)
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / KIB_PER_GIB


def compare_time(batches: list[int], repeats: int) -> None:
    """Print the fastest pass of each, taking turns."""
    runs = {kind: build() for kind, build in BUILD.items()}
    for batch in batches:
        images = torch.randn(batch, 3, SIZE, SIZE)
        passes = [[seconds(run, images) for run in runs.values()] for _ in range(repeats + 1)][1:]  # one to warm up
        report(batch, "s", [min(column) for column in zip(*passes, strict=True)])


def compare_memory(batches: list[int]) -> None:
    """Print the peak memory of each, in a process of its own."""
    for batch in batches:
        command = [sys.executable, __file__, "--batch", str(batch), "--memory"]
        report(
            batch, "GiB", [float(subprocess.check_output([*command, kind], text=True).split()[-1]) for kind in BUILD]
        )


def report(batch: int, unit: str, values: list[float]) -> None:
    """Print one line: what each took, and how many towers that is."""
    figures = [
        f"{kind} {value:.2f} {unit} = {value / values[0]:.2f}" for kind, value in zip(BUILD, values, strict=True)
    ]
    print(f"batch {batch}: {', '.join(figures)}", flush=True)


@torch.inference_mode()
def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", choices=sorted(BUILD), help="run one pass of one of them and print the peak in GiB")
    arguments = parser.parse_args()
    if arguments.memory:
        print(peak_memory(BUILD[arguments.memory](), torch.randn(arguments.batch[0], 3, SIZE, SIZE)))
        return
    compare_time(arguments.batch, arguments.repeats)
    compare_memory(arguments.batch)


if __name__ == "__main__":
    main()
