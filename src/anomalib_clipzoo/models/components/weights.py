# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Learned weights in and out: our own files and the papers' checkpoints."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from anomalib_clipzoo.clip.files import read_file, state_dict_problems

RECORD = "anomalib_clipzoo"  # the key under which our files say what they are
MODEL_PREFIX = "model."


@dataclass(frozen=True)
class LearnedWeights:
    """What a file of learned weights holds.

    Attributes:
        path: The file.
        state: Tensors under the Lightning module's names.
        arguments: The constructor arguments that they were learned with; empty for the papers' checkpoints.
        fingerprint: Hash of the CLIP that they were learned on; ``None`` where the file does not say.
    """

    path: Path
    state: dict[str, torch.Tensor]
    arguments: dict[str, Any] = field(default_factory=dict)
    fingerprint: str | None = None


def read_learned_weights(
    weights: str | Path,
    model: str,
    reference_keys: Mapping[str, str | None],
) -> LearnedWeights:
    """Read learned weights from our ``.safetensors`` or ``.ckpt``, or from a reference repository's ``.pth``.

    Args:
        weights: Path of the file.
        model: Name of the model that asks.
        reference_keys: Prefixes of the reference's keys and what they are called here; ``None`` for what is not needed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds code, or the weights of another model.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        msg = f"There is no file of learned weights at {path}."
        raise FileNotFoundError(msg)
    content = read_file(path)
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get(RECORD, "null"))
        return _own(path, model, content, record)
    if isinstance(content, dict) and "state_dict" in content:
        return _own(path, model, content["state_dict"], content.get(RECORD))
    return LearnedWeights(path, _rename(path, model, _flatten(content), reference_keys))


def write_learned_weights(path: str | Path, state: Mapping[str, torch.Tensor], record: Mapping[str, Any]) -> Path:
    """Write learned weights and their record to a ``.safetensors`` file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    save_file(tensors, path, metadata={RECORD: json.dumps(record)})
    return path


def check_fit(given: LearnedWeights, expected: Mapping[str, torch.Tensor]) -> None:
    """Make sure that learned weights fit a model.

    Parts that the model goes without (an ablation) may be there and are ignored.

    Args:
        given: The weights.
        expected: The model's state.

    Raises:
        ValueError: If names or shapes differ.
    """
    needed = {key: value for key, value in expected.items() if key.startswith(MODEL_PREFIX)}
    present = {key: value for key, value in given.state.items() if key.startswith(MODEL_PREFIX)}
    present = {key: value for key, value in present.items() if any(name.startswith(_part(key)) for name in needed)}
    if problems := state_dict_problems(needed, present):
        msg = f"{given.path} does not fit this model, which has another backbone or other arguments: {problems}."
        raise ValueError(msg)


def _part(key: str) -> str:
    """Return the named part that a tensor belongs to: the key up to the first number, if there is one."""
    return ".".join(takewhile(lambda component: not component.isdigit(), key.split(".")))


def _own(path: Path, model: str, state: dict[str, torch.Tensor], record: dict[str, Any] | None) -> LearnedWeights:
    if not record or "model" not in record:
        msg = f"{path} was not written by anomalib-clipzoo, nor is it a checkpoint of {model}'s reference code."
        raise ValueError(msg)
    if record["model"] != model:
        msg = f"{path} holds weights of {record['model']}, not of {model}."
        raise ValueError(msg)
    return LearnedWeights(path, state, record["arguments"], record["fingerprint"])


def _flatten(content: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """Join the keys of nested dictionaries with dots; whatever is no tensor is left out."""
    if isinstance(content, torch.Tensor):
        return {prefix.removesuffix("."): content.detach()}
    if not isinstance(content, Mapping):
        return {}
    flat: dict[str, torch.Tensor] = {}
    for key, value in content.items():
        flat.update(_flatten(value, f"{prefix}{key}."))
    return flat


def _rename(
    path: Path,
    model: str,
    state: dict[str, torch.Tensor],
    reference_keys: Mapping[str, str | None],
) -> dict[str, torch.Tensor]:
    """Give a reference checkpoint's tensors our names."""
    renamed, unknown = {}, []
    for key, value in state.items():
        prefix = _longest_prefix(key, reference_keys)
        if prefix is None:
            unknown.append(key)
        elif (name := reference_keys[prefix]) is not None:
            renamed[f"{MODEL_PREFIX}{name}{key.removeprefix(prefix)}"] = value.float()
    if unknown or not renamed:
        found = f"it has {', '.join(sorted(unknown)[:3])}" if unknown else "it holds no tensors"
        msg = f"{path} is not a checkpoint of {model}'s reference code ({found})."
        raise ValueError(msg)
    return renamed


def _longest_prefix(key: str, prefixes: Iterable[str]) -> str | None:
    return max((prefix for prefix in prefixes if key.startswith(prefix)), key=len, default=None)
