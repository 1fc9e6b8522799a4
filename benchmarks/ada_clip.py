# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Time and peak memory of AdaCLIP beside the bare image tower that it stands on, as ratios.

```
python benchmarks/ada_clip.py --batch 1 4
```

ViT-L-14-336 at 518 pixels, random weights, fp32, CPU. Time: processor seconds, which other programs on the machine
disturb least; all run alternately in one process and the fastest pass of each counts. Memory: the peak while a pass
or a training step runs, in a process of its own for each (Linux only). The reference code takes 13.2 GB for a training
step at batch 1.
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
from anomalib_clipzoo.models.ada_clip.loss import AdaClipLoss
from anomalib_clipzoo.models.ada_clip.torch_model import AdaClipModel

NAME = "ViT-L-14-336"
SIZE = 518
CLASS_NAMES = ("bottle", "metal_nut", "hazelnut", "toothbrush")
KIB_PER_GIB = 2**20

Run = Callable[[], object]


def bare_tower(images: torch.Tensor) -> Run:
    """Build open_clip's own image tower."""
    config = get_model_config(NAME)
    config["vision_cfg"]["image_size"] = SIZE
    visual = CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"]).eval().visual
    return torch.no_grad()(lambda: visual(images))


def model() -> AdaClipModel:
    """Build AdaCLIP as the paper has it."""
    return AdaClipModel(Backbone(NAME, None, image_size=SIZE, antialias=False))


def inference(own: AdaClipModel, images: torch.Tensor) -> Run:
    """Return a whole pass, from normalised images to maps and scores."""
    names = class_names(images)
    return torch.no_grad()(lambda: own.eval()(images, names))


def static(own: AdaClipModel) -> AdaClipModel:
    """Return the model with static prompts alone, on the same CLIP."""
    return AdaClipModel(own.backbone, prompting_type="S")


def training(own: AdaClipModel, images: torch.Tensor) -> Run:
    """Return a training step up to the gradients."""
    masks, loss, names = torch.rand(len(images), SIZE, SIZE) > 0.9, AdaClipLoss(), class_names(images)
    labels = torch.ones(len(images))
    return lambda: loss(own.train().probabilities(images, names), masks, labels).backward()


def class_names(images: torch.Tensor) -> list[str]:
    """Name each image, several classes to a batch."""
    return [CLASS_NAMES[index % len(CLASS_NAMES)] for index in range(len(images))]


def parts(own: AdaClipModel, images: torch.Tensor) -> dict[str, Run]:
    """Return the parts of a pass that take time."""
    with torch.no_grad():
        plain, (_, tokens) = own.image_features(images)
        patches = own.project_patches(tokens)
    logits, names = patches.mean(dim=-1), class_names(images)
    runs = {
        "towers": lambda: own.image_features(images),
        "text": lambda: own.text_features(names, plain, len(images)),
        "fusion": lambda: own.fusion(patches, logits),
    }
    return {name: torch.no_grad()(run) for name, run in runs.items()}


def fastest(runs: dict[str, Run], repeats: int) -> dict[str, float]:
    """Time runs in turns, and return the fastest of each in processor seconds."""
    for run in runs.values():
        run()
    rounds = [{name: seconds(run) for name, run in runs.items()} for _ in range(repeats)]
    return {name: min(times[name] for times in rounds) for name in runs}


def seconds(run: Run) -> float:
    """Time one run."""
    start = time.process_time()
    run()
    return time.process_time() - start


def peak_memory(run: Run) -> float:
    """Measure the most memory resident during a run, in GiB, the model included."""
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    run()
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / KIB_PER_GIB


def compare_time(images: torch.Tensor, repeats: int) -> None:
    """Print how long everything takes, in multiples of the bare tower."""
    own = model()
    runs = {
        "AdaCLIP": inference(own, images),
        "static prompts alone": inference(static(own), images),
        **parts(own, images),
    }
    times = fastest({"tower": bare_tower(images), **runs}, repeats)
    print(f"batch {len(images)}: the bare tower takes {times['tower']:.2f} s")
    for name in runs:
        print(f"  {name:>20}: {times[name]:6.2f} s, {times[name] / times['tower']:.2f} times", flush=True)


MEASURED = {
    "tower": bare_tower,
    "inference": lambda x: inference(model(), x),
    "training": lambda x: training(model(), x),
}


def print_memory(batch: int) -> None:
    """Print peak memories, each measured in a process of its own."""
    for kind in MEASURED:
        command = [sys.executable, __file__, "--batch", str(batch), "--memory", kind]
        peak = float(subprocess.check_output(command, text=True).split()[-1])
        print(f"  {kind:>20}: {peak:6.2f} GiB", flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", choices=sorted(MEASURED), help="run one of them once and print the peak in GiB")
    arguments = parser.parse_args()
    for batch in arguments.batch:
        images = torch.randn(batch, 3, SIZE, SIZE)
        if arguments.memory:
            print(peak_memory(MEASURED[arguments.memory](images)))
        else:
            compare_time(images, arguments.repeats)
            print_memory(batch)


if __name__ == "__main__":
    main()
