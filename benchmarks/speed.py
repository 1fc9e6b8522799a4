# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Time and memory of every model beside the bare image tower that it stands on, as ratios in one run.

```
python benchmarks/speed.py --quick                                  # all models on a small CLIP, under two minutes
python benchmarks/speed.py --only VcpClip --parts inference         # a part of the table, at the paper's architecture
python benchmarks/speed.py --minutes 1                              # no more than about a minute for each part
python benchmarks/speed.py                                          # all of it: an hour and more on two cores
python benchmarks/speed.py --parts exports                          # exported files, which an extra's packages run
python benchmarks/speed.py --gpu                                    # on an accelerator, with its name
```

Models are built through their Lightning classes with the defaults that users get, but with random weights. What is
compared runs in turns, so that a change of the machine's speed meets all alike. Memory is the peak while one pass runs,
in a process of its own for each, the model included (Linux only). Each time is added to a file as soon as it is taken,
so that a run which is cut off loses nothing; `speed_page.py` makes the page's tables and plots of the file.
"""

import argparse
import gc
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import lru_cache, partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from anomalib.data import ImageBatch, ImageItem
from anomalib.data.utils import read_image
from lightning.pytorch import Callback, Trainer
from open_clip.model import CLIP
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import anomalib_clipzoo
from anomalib_clipzoo.anomaly.references import Reference
from anomalib_clipzoo.clip.config import read_config
from anomalib_clipzoo.deploy.extras import needs
from anomalib_clipzoo.deploy.runtimes import OnnxRuntime, OpenVinoRuntime, Runtime
from anomalib_clipzoo.models.components.feature_cache import FeatureCache, MemoryStore

MODELS = ("VcpClip", "AnomalyClip", "AdaClip", "AprilGan", "Crane", "MuSc", "WinClipPlus")
PARTS = ("inference", "training", "epochs", "evaluation", "memory")
EXPORTS = "exports"  # a part that is taken only when it is asked for
SWEEPS = ("size", "batch", "k", "classes")
QUICK = {"backbone": "ViT-B-16", "image_size": 224}
SIZES = (224, 336, 448, 518, 784)
BATCHES = (1, 2, 4, 8)
REFERENCES = (0, 1, 2, 4)
SHOTS = 4
CLASS_NAMES = ("bottle", "metal_nut", "hazelnut", "toothbrush", "screw", "pill", "grid", "tile")
SET_OF_IMAGES = 5  # fewest that MuSc compares with each other
SHARE_OF_NORMAL_PIXELS = 0.9
KIB_PER_GIB = 2**20
RESULTS = Path(__file__).parent / "results" / "speed.jsonl"
GPU_RESULTS = RESULTS.with_name("speed_gpu.jsonl")
TOWER = "open_clip's tower"

Run = Callable[[], object]
Times = dict[str, float]
Timing = tuple[int, str, Times]  # turn, row, its times


def build(name: str, device: torch.device, **arguments: Any) -> Any:
    """Build a model as users do, with random weights; pictures and tables are made where asked for."""
    given = {"visualizer": False, "predictions": False, **arguments}
    return getattr(anomalib_clipzoo, name)(pretrained=None, **given).to(device)


def images_for(module: Any, batch: int) -> Tensor:
    """Make normalised images of a model's size."""
    count = max(batch, SET_OF_IMAGES) if type(module).__name__ == "MuSc" else batch
    return torch.randn(count, 3, *module.model.backbone.vision.image_size, device=module.device)


def bare_tower(module: Any) -> nn.Module:
    """Return open_clip's own image tower as it is shipped, at a model's size."""
    return open_clips_tower(module.hparams.backbone, tuple(module.hparams.image_size), module.hparams.quick_gelu).to(
        module.device
    )


@lru_cache(maxsize=1)
def open_clips_tower(name: str, image_size: tuple[int, int], quick_gelu: bool) -> nn.Module:
    """Build open_clip's own image tower with random weights; the text tower is let go."""
    config = read_config(name)
    config["vision_cfg"]["image_size"] = image_size
    clip = CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=quick_gelu)
    return clip.visual.eval()


def anomalibs_win_clip(device: torch.device) -> nn.Module:
    """Build anomalib's own WinClip with random weights."""
    import open_clip
    from anomalib.models.image.winclip import torch_model

    create = open_clip.create_model_and_transforms
    with patch.object(torch_model.open_clip, "create_model_and_transforms", lambda name, **_: create(name)):
        return torch_model.WinClipModel(class_name="object").to(device).eval()


def names_for(module: Any, images: Tensor, classes: int = 1) -> dict[str, Any]:
    """Name what images show, where a model asks for it."""
    names = [CLASS_NAMES[number % classes] for number in range(len(images))]
    return {"class_names": names} if "class_names" in module.context([None]) else {}


# ---- what is compared ----


def without_gradients(run: Run) -> Run:
    """Run something as it is run for predictions."""
    return torch.no_grad()(run)


def tower_pass(module: Any, images: Tensor) -> Run:
    """A pass of the bare tower that a model stands on."""
    return without_gradients(partial(bare_tower(module), images))


def whole_pass(module: Any, images: Tensor, classes: int = 1) -> Run:
    """A pass of a model from normalised images to scores and maps."""
    return without_gradients(partial(module.eval().model, images, **names_for(module, images, classes)))


def with_references(module: Any, count: int = SHOTS) -> Any:
    """Return a model on the same CLIP that compares images with random features; making them costs nothing here."""
    module = deepcopy(module, {id(module.model.backbone): module.model.backbone})
    memory = module.model.references
    features = {
        kind: torch.randn(count, *getattr(memory, kind).shape[1:], device=module.device) for kind in memory.kinds
    }
    memory.remember([Reference(None, str(number)) for number in range(count)], features)
    return module


def inference_rows(module: Any, batch: int, arguments: dict[str, Any]) -> dict[str, Run]:
    """Passes of the tower, of a model, and of its other forms."""
    name, device, images = type(module).__name__, module.device, images_for(module, batch)
    rows: dict[str, Run] = {
        TOWER: tower_pass(module, images),
        "the same tower, our forward pass": without_gradients(partial(module.model.backbone.vision, images)),
        name: whole_pass(module, images),
    }
    if name == "AdaClip":
        rows["AdaClip, static prompts"] = whole_pass(build(name, device, prompting_type="S", **arguments), images)
    if name == "WinClipPlus":
        rows["WinClipPlus, bfloat16"] = whole_pass(build(name, device, precision="bfloat16", **arguments), images)
        if not arguments and open_clip_is_old():
            rows["anomalib's WinClip"] = without_gradients(partial(anomalibs_win_clip(device), images))
    else:
        rows[f"{name}, bfloat16"] = whole_pass(deepcopy(module).bfloat16(), images)
    if hasattr(module.model, "references"):
        rows[f"{name}, {SHOTS} references"] = whole_pass(with_references(module), images)
    return rows


def open_clip_is_old() -> bool:
    """Say whether open_clip is older than 2.25: anomalib's WinClip runs with no newer one."""
    return tuple(map(int, version("open_clip_torch").split(".")[:2])) < (2, 25)


def training_step(module: Any, images: Tensor, cache: FeatureCache | None = None) -> Run:
    """A training step: forward, backward, optimizer; with all features computed, or with all of them kept."""
    module.train().log = lambda *_, **__: None
    optimizer = module.configure_optimizers()
    masks = torch.rand(len(images), *images.shape[-2:], device=images.device) > SHARE_OF_NORMAL_PIXELS
    labels = torch.ones(len(images), dtype=torch.bool, device=images.device)
    batch = ImageBatch(image=images, gt_mask=masks, gt_label=labels)

    def step() -> None:
        module.feature_cache = cache
        optimizer.zero_grad()
        module.training_step(batch).backward()
        optimizer.step()

    return step


def training_rows(module: Any, batch: int) -> dict[str, Run]:
    """Training steps beside a pass of the tower."""
    name, images = type(module).__name__, images_for(module, batch)
    cache = FeatureCache(MemoryStore(float("inf")), torch.float32, module.features_made_with())
    return {
        TOWER: tower_pass(module, images),
        f"{name}, training step": training_step(module, images),
        f"{name}, training step with kept features": training_step(module, images, cache),
    }


class Pictures(Dataset):
    """Files of random pictures with masks, read as anomalib reads them."""

    def __init__(self, folder: Path, count: int, side: int = 900) -> None:
        self.files = [folder / f"{number}.png" for number in range(count)]
        for number, file in enumerate(self.files):
            noise = np.random.default_rng(number).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((side, side)).save(file)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> ImageItem:
        """Read a picture."""
        image = read_image(self.files[index], as_tensor=True)
        mask = torch.zeros(image.shape[-2:], dtype=torch.bool)
        mask[100:200, 100:300] = True
        return ImageItem(image=image, gt_mask=mask, gt_label=torch.tensor(1), image_path=str(self.files[index]))


class EpochTimes(Callback):
    """Take the time of each epoch."""

    def __init__(self) -> None:
        self.start = (0.0, 0.0)
        self.times: list[tuple[float, float]] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start the clocks."""
        self.start = (time.perf_counter(), time.process_time())

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Read the clocks after an epoch's last batch, before anything is saved."""
        if trainer.is_last_batch:
            now = (time.perf_counter(), time.process_time())
            self.times.append((now[0] - self.start[0], now[1] - self.start[1]))


def epochs(name: str, batch: int, device: torch.device, arguments: dict[str, Any], turns: int) -> Iterator[Timing]:
    """Fit with a cache from files of images on: the first epoch, which computes features, and those after it."""
    with tempfile.TemporaryDirectory() as folder:
        times = EpochTimes()
        module = build(name, device, feature_cache=str(Path(folder) / "features"), **arguments)
        loader = DataLoader(Pictures(Path(folder), batch), batch_size=batch, collate_fn=ImageBatch.collate)
        trainer = Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            max_epochs=1 + turns,
            callbacks=[times],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(module, loader)
    first, *later = ({"seconds": wall, "cpu": cpu} for wall, cpu in times.times)
    for turn, epoch in enumerate(later):
        yield turn, "first epoch", first
        yield turn, "later epoch", epoch


def evaluation(name: str, batch: int, device: torch.device, arguments: dict[str, Any]) -> Iterator[Timing]:
    """Test on files of images: what the model takes, and what reading, metrics and pictures take beside it."""
    clocks = (time.perf_counter, time.process_time)
    spent, begun = [0.0, 0.0], [0.0, 0.0]
    module = build(name, device, visualizer=True, predictions=True, **arguments)

    def start(*_: Any) -> None:
        begun[:] = [clock() for clock in clocks]

    def stop(*_: Any) -> None:
        spent[:] = [so_far + clock() - at for so_far, clock, at in zip(spent, clocks, begun, strict=True)]

    module.model.register_forward_pre_hook(start)
    module.model.register_forward_hook(stop)
    with tempfile.TemporaryDirectory() as folder:
        loader = DataLoader(Pictures(Path(folder), 2 * batch), batch_size=batch, collate_fn=ImageBatch.collate)
        trainer = Trainer(accelerator="auto", devices=1, logger=False, default_root_dir=folder)
        before = [clock() for clock in clocks]
        trainer.test(module, loader, verbose=False)
        rest = [clock() - at - within for clock, at, within in zip(clocks, before, spent, strict=True)]
    for row, times in {"the model": spent, "all else of a test": rest}.items():
        yield 0, row, dict(zip(("seconds", "cpu"), times, strict=True))


def exported(module: Any, folder: Path) -> dict[str, Runtime]:
    """Export a model as users do, to files that hold single precision, and open them."""
    module.eval().has_learned = True
    size, threads = tuple(module.hparams.image_size), torch.get_num_threads()
    module(torch.rand(1, 3, *size))  # texts are constants of the files
    return {
        "ONNX Runtime": OnnxRuntime(module.to_onnx(folder, input_size=size), threads=threads),
        "OpenVINO": OpenVinoRuntime(module.to_openvino(folder, input_size=size), threads=threads),
    }


def export_rows(module: Any, runtimes: dict[str, Runtime], batch: int) -> dict[str, Run]:
    """Passes of the tower, and of a model and its exported files from images of its size to thresholded maps."""
    name, images = type(module).__name__, images_for(module, batch)
    levels = images.sigmoid()  # 0..1, as these take them
    files = {f"{name}, {runtime}": partial(run, levels.numpy()) for runtime, run in runtimes.items()}
    return {TOWER: tower_pass(module, images), f"{name}, PyTorch": partial(module, levels), **files}


# ---- measuring ----


def in_turns(rows: dict[str, Run], device: torch.device, turns: int, minutes: float) -> Iterator[Timing]:
    """Run all rows once to warm up, then in turns; one turn at least, further ones if they will end in time."""
    begun = time.perf_counter()
    for run in rows.values():
        run()
    for turn in range(turns):
        before = time.perf_counter()
        for row, run in rows.items():
            yield turn, row, _timed(run, device)
        now = time.perf_counter()
        if now - begun + (now - before) > 60 * minutes:
            break


def _timed(run: Run, device: torch.device) -> Times:
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    _wait(device)
    return {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(run: Run) -> float:
    """Measure the most memory resident during one pass, in GiB."""
    run()
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    run()
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / KIB_PER_GIB


def print_peak(name: str, batch: int, row: str, given: dict[str, Any]) -> None:
    """Print the peak of one row alone."""
    module = build(name, torch.device("cpu"), **given)
    images = images_for(module, batch)
    if row == TOWER:
        run = tower_pass(module, images)
        del module
        gc.collect()
    else:
        run = memory_rows(module)[row](images)
    print(peak_memory(run))


def memory_rows(module: Any) -> dict[str, Callable[[Tensor], Run]]:
    """What a model's memory is measured for, beside the bare tower's."""
    name = type(module).__name__
    rows: dict[str, Callable[[Tensor], Run]] = {name: partial(whole_pass, module)}
    if hasattr(module.model, "references"):
        rows[f"{name}, {SHOTS} references"] = lambda images: whole_pass(with_references(module), images)
    if module.LEARNS:
        rows[f"{name}, training step"] = partial(training_step, module)
    return rows


def memory_of(name: str, batch: int, row: str, given: dict[str, Any]) -> float:
    """Measure one row's peak in a process of its own."""
    command = [sys.executable, __file__, "--only", name, "--batch", str(batch), "--peak-of", row]
    for argument, value in given.items():
        command += [f"--{argument.replace('_', '-')}", str(value)]
    return float(subprocess.check_output(command, text=True).split()[-1])


def processor(device: torch.device) -> dict[str, Any]:
    """Name what a figure was measured on."""
    if device.type == "cuda":
        return {"processor": torch.cuda.get_device_name(device), "bf16": "yes", "threads": None}
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = dict(line.split(":", 1) for line in cpu.splitlines() if ":" in line)
    values = {key.strip(): value.strip() for key, value in lines.items()}
    flags = values.get("flags", "").split()
    named = f"{values.get('model name', platform.processor())} (family {values.get('cpu family')}, model "
    named += f"{values.get('model')})"
    units = sorted({"avx512_bf16", "amx_bf16"} & set(flags))
    return {"processor": named, "bf16": ", ".join(units) or "none", "threads": torch.get_num_threads()}


def settings(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Say under which circumstances something is measured."""
    return {
        **processor(device),
        "torch": torch.__version__,
        "open_clip": version("open_clip_torch"),
        "run": time.time(),
        "defaults": not given_to_models(arguments),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def given_to_models(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what models are built with instead of their defaults."""
    given = {"backbone": arguments.backbone, "image_size": arguments.image_size}
    return {name: value for name, value in given.items() if value is not None}


def write(path: Path, line: dict[str, Any]) -> None:
    """Add a line to the file of results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def record(path: Path, around: dict[str, Any], where: dict[str, Any], timings: Iterator[Timing]) -> None:
    """Write and print times as they are taken, with each one's ratio to the first row of its turn."""
    clock = "seconds" if around["threads"] is None else "cpu"
    print(", ".join(f"{key} {value}" for key, value in where.items()), flush=True)
    reference: dict[int, float] = {}
    for turn, row, times in timings:
        write(path, {**where, "row": row, "turn": turn, **times, **around})
        ratio = times[clock] / reference.setdefault(turn, times[clock])
        print(f"  {row:>45} {times['seconds']:8.3f} s {times['cpu']:8.3f} cpu s {ratio:7.3f}", flush=True)


def parts_of(
    name: str, arguments: argparse.Namespace, device: torch.device
) -> Iterator[tuple[dict[str, Any], Iterator[Timing]]]:
    """Measure the parts of a model's table that are asked for."""
    given, learns = given_to_models(arguments), getattr(anomalib_clipzoo, name).LEARNS
    measure = partial(in_turns, device=device, turns=arguments.turns, minutes=arguments.minutes)
    for batch in arguments.batch:
        where = {"model": name, "batch": batch}
        if {"inference", "training"} & set(arguments.parts):
            module = build(name, device, **given)
            if "inference" in arguments.parts:
                yield {**where, "part": "inference"}, measure(inference_rows(module, batch, given))
            if "training" in arguments.parts and learns:
                yield {**where, "part": "training"}, measure(training_rows(module, batch))
            del module
        if "epochs" in arguments.parts and learns:
            yield {**where, "part": "epochs"}, epochs(name, batch, device, given, arguments.turns)
        if "evaluation" in arguments.parts:
            yield {**where, "part": "evaluation"}, evaluation(name, batch, device, given)
    if EXPORTS in arguments.parts and name != "MuSc":  # whose files compare images with a pool's
        with tempfile.TemporaryDirectory() as folder:
            module = build(name, device, **given)
            runtimes = exported(module, Path(folder))
            for batch in arguments.batch:
                yield {"model": name, "batch": batch, "part": EXPORTS}, measure(export_rows(module, runtimes, batch))


def sweep(
    what: str, name: str, arguments: argparse.Namespace, device: torch.device
) -> Iterator[tuple[dict[str, Any], Iterator[Timing]]]:
    """Measure cost against image size, batch, number of references or number of classes in a batch."""
    given = given_to_models(arguments)
    plain = module = build(name, device, **given).eval()
    if what == "k" and not hasattr(module.model, "references"):
        return
    values = {"size": SIZES, "batch": BATCHES, "k": REFERENCES, "classes": BATCHES}[what]
    for value in values:
        if what == "size":
            patch_size = module.model.backbone.vision.patch_size
            module = build(name, device, **{**given, "image_size": round(value / patch_size) * patch_size}).eval()
        if what == "k" and value:
            module = with_references(plain, value)
        images = images_for(module, value if what == "batch" else max(values) if what == "classes" else 1)
        rows = {TOWER: tower_pass(module, images), name: whole_pass(module, images, value if what == "classes" else 1)}
        yield {"model": name, "part": "sweep", what: value}, in_turns(rows, device, arguments.turns, arguments.minutes)


def print_memory(names: Sequence[str], arguments: argparse.Namespace, around: dict[str, Any]) -> None:
    """Measure peak memory of the tower, of passes and of a training step, each in a process of its own."""
    given = given_to_models(arguments)
    for name in names:
        rows = [TOWER, *memory_rows(build(name, torch.device("cpu"), backbone="toy"))]
        for batch in arguments.batch:
            for row in rows:
                gib = memory_of(name, batch, row, given)
                print(f"{name}, batch {batch}, peak memory of {row}: {gib:.2f} GiB", flush=True)
                line = {"model": name, "batch": batch, "part": "memory", "row": row, "gib": gib, **around}
                write(arguments.results, line)


def check_gpu(device: torch.device) -> None:
    """Compare all models' maps on an accelerator with the processor's, in fp32 without TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for name in MODELS:
        module = build(name, torch.device("cpu")).eval()
        images = images_for(module, SET_OF_IMAGES)
        with torch.inference_mode():
            expected = module.model(images).anomaly_map
            got = module.to(device).model(images.to(device)).anomaly_map.cpu()
        print(f"{name}: maps differ by at most {(got - expected).abs().max():.2e} from the processor's", flush=True)


def arguments_of(line: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL", help="these models alone")
    parser.add_argument(
        "--parts",
        nargs="*",
        choices=(*PARTS, EXPORTS),
        default=PARTS,
        help="these parts alone; exports, on a processor, is no part of what runs when none is named",
    )
    parser.add_argument("--sweep", nargs="*", choices=SWEEPS, default=[], help="cost against image size and the like")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="images in a batch")
    parser.add_argument("--turns", type=int, default=5, help="how often each is run")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="for a part: then no further turn begins; one is always run"
    )
    parser.add_argument("--backbone", help="another CLIP for all models")
    parser.add_argument("--image-size", type=int, help="another size for all models, in pixels")
    parser.add_argument("--quick", action="store_true", help="a small CLIP and one turn, for a look")
    parser.add_argument("--gpu", action="store_true", help="on an accelerator: correctness, then throughput")
    parser.add_argument("--results", type=Path, help="file that results are added to")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args(line)
    if arguments.quick:
        arguments.batch, arguments.turns = [1], 1
        arguments.backbone, arguments.image_size = QUICK["backbone"], QUICK["image_size"]
        arguments.parts = [part for part in arguments.parts if part in {"inference", "training", EXPORTS}]
    arguments.results = arguments.results or (GPU_RESULTS if arguments.gpu else RESULTS)
    if arguments.gpu and arguments.batch == [1, 4]:
        arguments.batch = [1, 8, 32]
    return arguments


def check_exports(*, on_processor: bool) -> None:
    """Make sure, before anything is measured, that exported files can be run."""
    if not on_processor:
        msg = "Exported files are measured on a processor: leave out --gpu."
        raise SystemExit(msg)
    for extra, package in {"onnx": "onnxruntime", "openvino": "openvino"}.items():
        with needs(extra):
            import_module(package)


def main() -> None:
    """Run the benchmark."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    arguments = arguments_of()
    if EXPORTS in arguments.parts:
        check_exports(on_processor=not arguments.gpu)
    device = torch.device("cuda" if arguments.gpu else "cpu")
    if arguments.peak_of:
        print_peak(arguments.only[0], arguments.batch[0], arguments.peak_of, given_to_models(arguments))
        return
    around = settings(arguments, device)
    print(", ".join(f"{key} {value}" for key, value in around.items()), flush=True)
    if arguments.gpu:
        check_gpu(device)
    for name in arguments.only:
        for where, timings in parts_of(name, arguments, device):
            record(arguments.results, around, where, timings)
        for what in arguments.sweep:
            for where, timings in sweep(what, name, arguments, device):
                record(arguments.results, around, where, timings)
    if "memory" in arguments.parts and not arguments.gpu:
        print_memory(arguments.only, arguments, around)


if __name__ == "__main__":
    main()
