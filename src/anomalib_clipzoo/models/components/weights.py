# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Learned weights in and out: our own files and the papers' checkpoints."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from anomalib_clipzoo.clip.files import check_tensors, read_file, state_dict_problems
from anomalib_clipzoo.writing import write_whole

from .known_weights import name_of

logger = logging.getLogger(__name__)

RECORD = "anomalib_clipzoo"  # the key under which our files say what they are
MODEL_PREFIX = "model."
POST_PROCESSOR_PREFIX = "post_processor."
RECORD_KINDS = {"version": str, "arguments": dict, "fingerprint": str, "category": str, "components": dict}

State = Mapping[str, torch.Tensor]
Companions = Mapping[tuple[str, ...], str]
Lengths = Mapping[str, Callable[[State], Any]]
"""For an argument, what tells its value from the learned tensors under their names here; ``None`` if they do not."""


@dataclass(frozen=True)
class LearnedWeights:
    """What a file of learned weights holds.

    Attributes:
        path: The file.
        state: Tensors under the Lightning module's names, without the frozen CLIP.
        arguments: The constructor arguments that they were learned with, as far as the file says.
        told: Those of them that the tensors themselves tell.
        record: What else the file says of itself; empty for the papers' checkpoints.
    """

    path: Path
    state: dict[str, torch.Tensor]
    arguments: dict[str, Any] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def lengths(self) -> str:
        """What the tensors tell, in words."""
        return ", ".join(f"{name} {value}" for name, value in self.told.items())


def size_of(key: str, axis: int, absent: int | None = None) -> Callable[[State], int | None]:
    """Tell an argument from a learned tensor's length along an axis; ``absent`` where there is no such tensor."""
    return lambda state: state[key].shape[axis] if key in state and state[key].dim() else absent


def number_of(prefix: str, more: int = 0) -> Callable[[State], int | None]:
    """Tell an argument from the number of learned tensors under a prefix, and so many more."""
    return lambda state: more + sum(key.startswith(prefix) for key in state)


def read_learned_weights(
    weights: str | Path,
    model: str,
    reference_keys: Mapping[str, str | None],
    companions: Companions,
) -> LearnedWeights:
    """Read learned weights from our ``.safetensors`` or ``.ckpt``, or from a reference repository's ``.pth``.

    Args:
        weights: Path of the file.
        model: Name of the model that asks.
        reference_keys: Prefixes of the reference's keys and what they are called here; ``None`` for what is not needed.
        companions: For prefixes of the reference's keys, another that its code saves where it saves those.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds code, or the weights of another model.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        msg = f"There is no file of learned weights at {str(weights)!r}."
        raise FileNotFoundError(msg)
    content = read_file(path)
    if path.suffix == ".safetensors":
        return from_checkpoint(path, model, {"state_dict": content, RECORD: _metadata(path)})
    if isinstance(content, dict) and "state_dict" in content:
        return from_checkpoint(path, model, content)
    logger.info("Learned weights: %s", name_of(path) or f"{path}, a file that is not among the known ones")
    return LearnedWeights(path, _rename(path, model, _flatten(content), reference_keys, companions))


def model_of(path: Path) -> str:
    """Tell which model wrote a file of learned weights or a checkpoint.

    Raises:
        ValueError: If none of ours did, or the file cannot be read.
    """
    content = read_file(path)
    told = content.get(RECORD) if isinstance(content, dict) else None
    record = _metadata(path) if path.suffix == ".safetensors" else told
    if not isinstance(record, dict) or not isinstance(record.get("model"), str):
        msg = f"{path} was not written by anomalib-clipzoo: it does not say which model it belongs to."
        raise ValueError(msg)
    return record["model"]


def _metadata(path: Path) -> Any:
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(RECORD, "null")
    try:
        return json.loads(text)
    except ValueError as error:
        msg = f"{path} is damaged: what it says of itself is not JSON."
        raise ValueError(msg) from error


def from_checkpoint(path: Path, model: str, checkpoint: Mapping[str, Any]) -> LearnedWeights:
    """Take what one of our own files holds, and make sure that it is whole.

    Args:
        path: The file, for messages.
        model: Name of the model that asks.
        checkpoint: A checkpoint's content: ``state_dict`` and what the file says of itself.

    Raises:
        ValueError: If it is not ours, of another model, or damaged.
    """
    record, state = checkpoint.get(RECORD), checkpoint["state_dict"]
    if not isinstance(record, dict) or "model" not in record:
        msg = f"{path} was not written by anomalib-clipzoo, nor is it a checkpoint of {model}'s reference code."
        raise ValueError(msg)
    if record["model"] != model:
        msg = f"{path} holds weights of {record['model']}, not of {model}."
        raise ValueError(msg)
    tensors = isinstance(state, Mapping) and all(isinstance(value, torch.Tensor) for value in state.values())
    wrong = [name for name, kind in RECORD_KINDS.items() if not isinstance(record.get(name, kind()), kind)]
    wrong += [] if "arguments" in record else ["arguments"]
    if wrong or not tensors:
        msg = f"{path} is damaged: {', '.join(wrong) or 'its tensors'} cannot be read."
        raise ValueError(msg)
    return LearnedWeights(path, dict(state), dict(record.get("arguments", {})), record=record)


def write_learned_weights(path: str | Path, state: State, record: Mapping[str, Any]) -> Path:
    """Write learned weights and their record to a ``.safetensors`` file, which is there whole or not at all."""
    path = Path(path)
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    write_whole(path, save(tensors, metadata={RECORD: json.dumps(record)}))
    return path


def check_fit(given: LearnedWeights, expected: State) -> None:
    """Make sure that learned weights fit a model.

    Parts that the model goes without (an ablation) may be there and are ignored.

    Args:
        given: The weights.
        expected: The model's state, without the frozen CLIP.

    Raises:
        ValueError: If names, shapes or kinds differ, or a value is not a finite number.
    """
    needed = {key: value for key, value in expected.items() if key.startswith(MODEL_PREFIX)}
    present = {key: value for key, value in given.state.items() if key.startswith(MODEL_PREFIX)}
    present = {key: value for key, value in present.items() if any(name.startswith(_part(key)) for name in needed)}
    if given.record:  # the papers' checkpoints have no thresholds
        numbers = [key for key, value in expected.items() if value.is_floating_point()]
        thresholds = [key for key in numbers if key.startswith(POST_PROCESSOR_PREFIX)]
        needed |= {key: expected[key] for key in thresholds}
        present |= {key: given.state[key] for key in thresholds if key in given.state}
    if problems := state_dict_problems(needed, present):
        told = f" Its prompts have {given.lengths}: leave these arguments out, or give the same." if given.told else ""
        msg = f"{given.path} does not fit this model, which has another backbone or other arguments: {problems}.{told}"
        raise ValueError(msg)
    _check_values(given.path, present, needed)


def fit_shapes(state: State, expected: State) -> dict[str, torch.Tensor]:
    """Give tensors the shapes that a model expects, where that takes nothing from them and adds nothing.

    Some references write linear layers as convolutions of kernel 1, and a memory without rows has any width.
    """
    return {key: _fit_shape(value, expected[key]) if key in expected else value for key, value in state.items()}


def _fit_shape(value: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    same_values = value.shape[: expected.dim()] == expected.shape or value.numel() == 0
    return value.reshape(expected.shape) if same_values and value.numel() == expected.numel() else value


def _check_values(path: Path, given: State, expected: State) -> None:
    """Make sure that numbers are finite, but for thresholds that nothing was fitted to, and the rest no numbers."""
    numbers = {key for key, value in expected.items() if value.is_floating_point()}
    set_ones = {key: given[key] for key in numbers & given.keys() if not _is_unset(key, given[key])}
    check_tensors(path, set_ones)
    for key in given.keys() - numbers:
        if given[key].is_floating_point() or given[key].is_complex():
            msg = f"{path} is damaged: {key} holds {given[key].dtype} where {expected[key].dtype} is meant."
            raise ValueError(msg)


def _is_unset(key: str, value: torch.Tensor) -> bool:
    single_number = value.numel() == 1 and value.is_floating_point()
    return key.startswith(POST_PROCESSOR_PREFIX) and single_number and bool(value.isnan())


def _part(key: str) -> str:
    """Return the named part that a tensor belongs to: the key up to the first number, if there is one."""
    return ".".join(takewhile(lambda component: not component.isdigit(), key.split(".")))


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
    companions: Companions,
) -> dict[str, torch.Tensor]:
    """Give a reference checkpoint's tensors our names."""
    renamed, unknown = {}, []
    for key, value in state.items():
        prefix = _longest_prefix(key, reference_keys)
        if prefix is None:
            unknown.append(key)
        elif (name := reference_keys[prefix]) is not None:
            renamed[f"{MODEL_PREFIX}{name}{key.removeprefix(prefix)}"] = _as_float(path, key, value)
    missing = [other for prefixes, other in companions.items() if _has(state, *prefixes) and not _has(state, other)]
    if unknown or missing or not renamed:
        found = f"it has {', '.join(sorted(unknown)[:3])}" if unknown else "it holds no tensors"
        found = f"it lacks {missing[0]}*, which that code always saves" if missing and not unknown else found
        msg = f"{path} is not a checkpoint of {model}'s reference code ({found})."
        raise ValueError(msg)
    return renamed


def _has(state: State, *prefixes: str) -> bool:
    return all(any(key.startswith(prefix) for key in state) for prefix in prefixes)


def _as_float(path: Path, key: str, value: torch.Tensor) -> torch.Tensor:
    if not value.is_floating_point():
        msg = f"{path} is damaged: {key} holds {value.dtype} where learned numbers are meant."
        raise ValueError(msg)
    return value.float()


def _longest_prefix(key: str, prefixes: Iterable[str]) -> str | None:
    return max((prefix for prefix in prefixes if key.startswith(prefix)), key=len, default=None)
