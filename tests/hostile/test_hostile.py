# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Damaged, nonsensical and malicious input: each case ends in a right result or one clear error, and no code runs.

``docs/hostile.md`` gives the numbers of cases. Images have a module of their own.
"""

import inspect
import json
import os
import pickle
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

import anomalib_clipzoo
from anomalib_clipzoo.clip.backbone import _build_clip
from anomalib_clipzoo.clip.config import PREPROCESSING, TEXT, TOP, VISION
from anomalib_clipzoo.models.components.arguments import COMPONENTS
from anomalib_clipzoo.models.components.weights import RECORD
from tests.hostile.children import REFUSED, WRONG, Case, outcomes
from tests.tiny import TINY_CLIP, write_tiny_clip
from tests.unit.models.test_arguments import LEARNING, MODELS, build, checkpoint_of

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "hostile.md"
NUMBERS = [-1, 0, 1.5, 10**12, float("nan"), float("inf"), -float("inf"), True]
WORDS = ["", "nonsense", "{}{}", "[1, 2"]
LISTS = [[], [[]], [-1], [None], ["nonsense"], ["{}", 3], {"a": 1}]
OF_PYTHON = [b"bytes", np.array([1.0, np.nan]), np.float32("inf")]
IN_JSON = [*NUMBERS, *WORDS, *LISTS]
NONSENSE = [*IN_JSON, *OF_PYTHON]
SHARE = 3  # each argument of each model meets one of so many of them


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


def detect(model: str, arguments: dict) -> torch.Tensor:
    """Build a model and look at images."""
    torch.manual_seed(0)
    detector = getattr(anomalib_clipzoo, model)(visualizer=False, **arguments).eval()
    return detector(torch.rand(6 if model == "MuSc" else 1, 3, 40, 50)).anomaly_map


def check(cases: list[Case], kind: str) -> None:
    """Run cases, of which the documentation says how many there are."""
    (said,) = re.findall(rf"^\| {kind} \| ([\d,]+) \|", PAGE.read_text(), re.MULTILINE)
    ended = outcomes(cases)
    wrong = ended[WRONG]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(cases)}", *wrong[:60]])
    assert ended[REFUSED]
    assert len(cases) >= int(said.replace(",", ""))


# ---- weights ----


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def damaged(content: bytes, seed: int) -> dict[str, bytes]:
    """Cut a file short, and change some of its bytes."""
    draw = random.Random(seed)
    files = {f"cut at {share:.2f}": content[: int(len(content) * share)] for share in np.linspace(0, 0.99, 12)}
    for number in range(24):
        changed = bytearray(content)
        region = len(content) if number % 2 else min(len(content), 4096)  # headers, or anywhere
        for _ in range(1 + number % 4):
            changed[draw.randrange(region)] = draw.randrange(256)
        files[f"bytes changed {number}"] = bytes(changed)
    return files


def nonsense_records(path: Path) -> dict[str, bytes]:
    """Change what a file of learned weights says of itself."""
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()[RECORD])
    tensors = load_file(path)
    records = {
        f"record {name} {value!r}": {**record, name: value}
        for name in ("model", "arguments", "fingerprint", "category", "components")
        for value in IN_JSON[::3]
    }
    for name in record["arguments"]:
        for value in (10**12, "nonsense", [-1]):
            records[f"record {name} {value!r}"] = {**record, "arguments": {**record["arguments"], name: value}}
    return {name: save(tensors, {RECORD: json.dumps(each)}) for name, each in records.items()}


def with_code(folder: Path, canary: Path) -> list[bytes]:
    """Return files that run a command when they are read carelessly: a pickle and an archive."""
    torch.save({"state_dict": Malicious(canary)}, folder / "code")
    return [pickle.dumps({"state_dict": Malicious(canary)}), (folder / "code").read_bytes()]


def write_cases(folder: Path, files: dict[str, bytes], model: str, arguments: dict, argument: str) -> list[Case]:
    """Write files, whose names end in a dot and their ending, and hand each over as an argument."""
    folder.mkdir(exist_ok=True)
    cases = []
    for number, (name, content) in enumerate(files.items()):
        path = folder / f"{model}_{number}.{name.rpartition('.')[2]}"
        path.write_bytes(content)
        given = {**arguments, argument: str(path)}
        cases.append(Case(f"{model}: {argument}, {name}", detect, (model, given), (path.name,)))
    return cases


def test_learned_weights(tiny, tmp_path):
    canary = tmp_path / "canary"
    cases = []
    for model in LEARNING:
        made = build(model, tiny)
        good = made.save_weights(tmp_path / f"{model.__name__}.safetensors")
        torch.save(checkpoint_of(made), tmp_path / "good.ckpt")
        checkpoint = (tmp_path / "good.ckpt").read_bytes()
        files = {f"{name}.safetensors": content for name, content in damaged(good.read_bytes(), 1).items()}
        files |= {f"{name}.safetensors": content for name, content in nonsense_records(good).items()}
        files |= {f"{name}.ckpt": content for name, content in damaged(checkpoint, 2).items()}
        for ending in ("ckpt", "pth", "pt", "bin", "safetensors"):
            files |= {f"code {i}.{ending}": content for i, content in enumerate(with_code(tmp_path, canary))}
        cases += write_cases(
            tmp_path / "cases", files, model.__name__, {"backbone": tiny, "pretrained": None}, "weights"
        )
    check(cases, "learned weights")
    assert not canary.exists()


def test_clip_weights(tiny, tmp_path):
    canary = tmp_path / "canary"
    clip = _build_clip(TINY_CLIP, quick_gelu=False)
    state = {key: value for key, value in clip.state_dict().items() if key != "token_embedding.weight"}
    torch.save(state, tmp_path / "clip.pt")
    torch.jit.save(torch.jit.script(torch.nn.Linear(3, 2)), tmp_path / "scripted.pt")
    files = {f"{name}.safetensors": content for name, content in damaged(save(state), 4).items()}
    for number, path in enumerate(("clip.pt", "scripted.pt")):
        for name, content in damaged((tmp_path / path).read_bytes(), 5 + number).items():
            files[f"{path} {name}.pt"] = content
    for ending in ("ckpt", "pth", "pt", "bin", "safetensors"):
        files |= {f"code {i}.{ending}": content for i, content in enumerate(with_code(tmp_path, canary))}
    check(write_cases(tmp_path / "cases", files, "WinClipPlus", {"backbone": tiny}, "pretrained"), "CLIP weights")
    assert not canary.exists()


# ---- configurations ----


def test_arguments(tiny):
    cases = []
    for model in MODELS:
        for index, name in enumerate(sorted(inspect.signature(model).parameters.keys() - COMPONENTS)):
            for value in NONSENSE[index % SHARE :: SHARE]:
                if name == "compile" and value is True:
                    continue  # it is valid, and may take longer than a case has
                arguments = {"backbone": tiny, "pretrained": None, name: value}
                words = [value] if isinstance(value, str) else value if isinstance(value, list) else []
                names = (name, *(word for word in words if isinstance(word, str) and word))
                names += ("state", "template", "layers []") if isinstance(value, list) and not value else ()
                label = f"{model.__name__}: {name}={value!r}"
                cases.append(Case(label, detect, (model.__name__, arguments), names))
    check(cases, "arguments")


# ---- backbones ----


def test_backbones(tmp_path):
    configs = {}
    for part, known in (("vision_cfg", VISION), ("text_cfg", TEXT), ("preprocess_cfg", PREPROCESSING)):
        for name in known:
            for value in IN_JSON:
                configs[f"{part}.{name}={value!r}"] = {**TINY_CLIP, part: {**TINY_CLIP.get(part, {}), name: value}}
    for name in (*TOP, "vision_cfg", "text_cfg", "preprocess_cfg", "model_cfg"):
        configs |= {f"{name}={value!r}": {**TINY_CLIP, name: value} for value in IN_JSON}
    text = json.dumps(TINY_CLIP)
    files = {f"{name}.json": json.dumps(config).encode() for name, config in configs.items()}
    files |= {f"cut at {end}.json": text[:end].encode() for end in range(0, len(text), 8)}
    check(write_cases(tmp_path, files, "AnomalyClip", {"pretrained": None}, "backbone"), "backbones")
