# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Time and peak memory of a model beside the bare image tower that it stands on, as ratios.

```
python benchmarks/speed.py AnomalyClip --batch 1 4
```

The papers' architectures with random weights, on the CPU, in fp32 unless a line says otherwise, from normalised images
to maps and scores. Time: processor seconds, which other programs on the machine disturb least; all run in turns in one
process and the fastest pass of each counts. Memory: the peak while one pass runs, in a process of its own for each, the
model included; the tower goes without a text tower's weights (Linux only).
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import open_clip
import torch
from anomalib.models.image.winclip import torch_model as anomalib_win_clip
from open_clip.factory import get_model_config
from open_clip.model import CLIP
from torch import Tensor, nn

from anomalib_clipzoo.anomaly.references import Reference
from anomalib_clipzoo.clip import Backbone
from anomalib_clipzoo.models.ada_clip.loss import AdaClipLoss
from anomalib_clipzoo.models.ada_clip.torch_model import AdaClipModel
from anomalib_clipzoo.models.anomaly_clip import AnomalyClipModel
from anomalib_clipzoo.models.april_gan import AprilGanModel
from anomalib_clipzoo.models.crane import CraneModel
from anomalib_clipzoo.models.vcp_clip import VcpClipModel
from anomalib_clipzoo.models.win_clip_plus import WinClipPlusModel

CLASS_NAMES = ("bottle", "metal_nut", "hazelnut", "toothbrush")
KIB_PER_GIB = 2**20

Run = Callable[[], object]
Builder = Callable[[Tensor], Run]


class Subject(NamedTuple):
    """What is measured.

    Attributes:
        backbone: open_clip's name of the CLIP that the paper uses.
        image_size: The paper's, in pixels.
        quick_gelu: Whether it runs with QuickGELU.
        passes: What is run, by name.
        memory_only: What takes so long that only its memory is measured.
    """

    backbone: str
    image_size: int
    quick_gelu: bool
    passes: dict[str, Builder]
    memory_only: dict[str, Builder] = {}


def class_names(images: Tensor) -> list[str]:
    """Name each image, several classes to a batch."""
    return [CLASS_NAMES[index % len(CLASS_NAMES)] for index in range(len(images))]


def bare_tower(subject: Subject, images: Tensor) -> Run:
    """Build open_clip's own image tower; the text tower is let go."""
    config = get_model_config(subject.backbone)
    config["vision_cfg"]["image_size"] = subject.image_size
    visual = (
        CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=subject.quick_gelu).eval().visual
    )
    return torch.no_grad()(partial(visual, images))


def inference(build: Callable[[], nn.Module], images: Tensor) -> Run:
    """Return a whole pass of a model; one before it encodes the texts that do not change."""
    model = build().eval()
    return torch.no_grad()(partial(model, images))


def vcp_clip() -> VcpClipModel:
    """Build VCP-CLIP."""
    return VcpClipModel(Backbone("ViT-L-14-336", None, quick_gelu=True, image_size=518))


def anomaly_clip() -> AnomalyClipModel:
    """Build AnomalyCLIP as its published weights are used: the last layer alone."""
    return AnomalyClipModel(Backbone("ViT-L-14-336", None, quick_gelu=True, image_size=518))


def crane() -> CraneModel:
    """Build Crane as its published weights are used: the last layer alone, prompts that see no image."""
    return CraneModel(Backbone("ViT-L-14-336", None, quick_gelu=True, image_size=518))


# ---- APRIL-GAN: class names and references ----


@cache
def april_gan(k_shot: int = 0) -> AprilGanModel:
    """Build APRIL-GAN, with so many references; the same CLIP with and without."""
    if not k_shot:
        return AprilGanModel(Backbone("ViT-L-14-336", None, image_size=518)).eval()
    model = AprilGanModel(april_gan().backbone).eval()
    model.remember(torch.randn(k_shot, 3, 518, 518), [Reference(None, str(number)) for number in range(k_shot)])
    return model


def april_gan_inference(k_shot: int, images: Tensor) -> Run:
    """Return a whole pass; one before it encodes the sentences about each class."""
    return torch.no_grad()(partial(april_gan(k_shot), images, class_names(images)))


# ---- AdaCLIP: class names, and where the time goes ----


@cache
def ada_clip(prompting_type: str = "SD") -> AdaClipModel:
    """Build AdaCLIP as the paper has it; all kinds of prompts on the same CLIP."""
    backbone = Backbone("ViT-L-14-336", None, image_size=518, antialias=False)
    if prompting_type == "SD":
        return AdaClipModel(backbone)
    return AdaClipModel(ada_clip().backbone, prompting_type=prompting_type)


def ada_clip_inference(prompting_type: str, images: Tensor) -> Run:
    """Return a whole pass."""
    model = ada_clip(prompting_type).eval()
    return torch.no_grad()(partial(model, images, class_names(images)))


def ada_clip_towers(images: Tensor) -> Run:
    """Return both passes through the image tower alone."""
    return torch.no_grad()(partial(ada_clip().image_features, images))


def ada_clip_text(images: Tensor) -> Run:
    """Return the encoding of all sentences of all images alone."""
    plain = torch.randn(len(images), ada_clip().backbone.embed_dim)
    return torch.no_grad()(partial(ada_clip().text_features, class_names(images), plain))


def ada_clip_fusion(images: Tensor) -> Run:
    """Return hybrid semantic fusion alone."""
    model = ada_clip()
    rows, columns = model.backbone.vision.grid
    shape = (len(model.layers), len(images), rows * columns)
    return torch.no_grad()(
        partial(model.fusion, torch.randn(*shape, model.backbone.embed_dim), torch.randn(shape)),
    )


def ada_clip_training(images: Tensor) -> Run:
    """Return a training step up to the gradients."""
    model, loss = ada_clip().train(), AdaClipLoss()
    masks = torch.rand(len(images), *images.shape[-2:]) > 0.9
    return lambda: loss(model.probabilities(images, class_names(images)), masks, torch.ones(len(images))).backward()


# ---- WinCLIP ----


def win_clip_plus(precision: str) -> WinClipPlusModel:
    """Build WinClipPlus, zero-shot."""
    return WinClipPlusModel(Backbone("ViT-B-16-plus-240", None), precision=precision)


def anomalib_s_win_clip() -> nn.Module:
    """Build anomalib's own WinClip with random weights."""
    build = open_clip.create_model_and_transforms
    with patch.object(anomalib_win_clip.open_clip, "create_model_and_transforms", lambda name, **_: build(name)):
        return anomalib_win_clip.WinClipModel(class_name="object")


SUBJECTS = {
    "VcpClip": Subject("ViT-L-14-336", 518, True, {"VcpClip": partial(inference, vcp_clip)}),
    "AnomalyClip": Subject("ViT-L-14-336", 518, True, {"AnomalyClip": partial(inference, anomaly_clip)}),
    "AdaClip": Subject(
        "ViT-L-14-336",
        518,
        False,
        {
            "AdaClip": partial(ada_clip_inference, "SD"),
            "static prompts alone": partial(ada_clip_inference, "S"),
            "both tower passes": ada_clip_towers,
            "text": ada_clip_text,
            "fusion": ada_clip_fusion,
        },
        {"training step": ada_clip_training},
    ),
    "AprilGan": Subject(
        "ViT-L-14-336",
        518,
        False,
        {"AprilGan": partial(april_gan_inference, 0), "four references": partial(april_gan_inference, 4)},
    ),
    "Crane": Subject("ViT-L-14-336", 518, True, {"Crane": partial(inference, crane)}),
    "WinClipPlus": Subject(
        "ViT-B-16-plus-240",
        240,
        False,
        {
            "WinClipPlus": partial(inference, partial(win_clip_plus, "float32")),
            "in bfloat16": partial(inference, partial(win_clip_plus, "bfloat16")),
            "anomalib's WinClip": partial(inference, anomalib_s_win_clip),
        },
    ),
}


def seconds(run: Run) -> float:
    """Time one pass."""
    start = time.process_time()
    run()
    return time.process_time() - start


def peak_memory(run: Run) -> float:
    """Measure the most memory resident during one pass, in GiB."""
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    run()
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / KIB_PER_GIB


def compare_time(subject: Subject, images: Tensor, leave_out: list[str], repeats: int) -> None:
    """Print the fastest pass of each, in seconds and in towers."""
    builders = {"tower": partial(bare_tower, subject), **subject.passes}
    runs = {name: build(images) for name, build in builders.items() if name not in leave_out}
    for run in runs.values():
        run()
    rounds = [{name: seconds(run) for name, run in runs.items()} for _ in range(repeats)]
    report({name: min(times[name] for times in rounds) for name in runs}, "s")


def compare_memory(model: str, batch: int, leave_out: list[str]) -> None:
    """Print the peak memory of each, in a process of its own."""
    subject = SUBJECTS[model]
    command = [sys.executable, __file__, model, "--batch", str(batch), "--memory"]
    names = ["tower", *subject.passes, *subject.memory_only]
    report(
        {
            name: float(subprocess.check_output([*command, name], text=True).split()[-1])
            for name in names
            if name not in leave_out
        },
        "GiB",
    )


def report(values: dict[str, float], unit: str) -> None:
    """Print a line for each: what it took, and how many towers that is."""
    for name, value in values.items():
        print(f"  {name:>20} {value:8.2f} {unit:3} {value / values['tower']:6.2f}", flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=SUBJECTS)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--leave-out", nargs="+", default=[], help="what not to run, by its name in the output")
    parser.add_argument("--memory", help="run one pass of this alone and print its peak in GiB")
    arguments = parser.parse_args()
    subject = SUBJECTS[arguments.model]
    for batch in arguments.batch:
        images = torch.randn(batch, 3, subject.image_size, subject.image_size)
        if arguments.memory:
            builders = {"tower": partial(bare_tower, subject), **subject.passes, **subject.memory_only}
            print(peak_memory(builders[arguments.memory](images)))
            continue
        print(f"{arguments.model}, batch {batch}: in the last column, image towers")
        compare_time(subject, images, arguments.leave_out, arguments.repeats)
        compare_memory(arguments.model, batch, arguments.leave_out)


if __name__ == "__main__":
    main()
