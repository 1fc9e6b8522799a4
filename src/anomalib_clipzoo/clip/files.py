# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""CLIP weights in: from a file to a state dict under open_clip's names."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .torchscript import is_torchscript, read_torchscript

# Constants that OpenAI's TorchScript files and old state dicts carry beside the weights.
LARGEST = 1e6  # far beyond any weight
NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size", "attn_mask"}


def load_clip_weights(clip: Any, name: str, path: Path) -> None:
    """Fill a CLIP with pretrained weights.

    Args:
        clip: open_clip's ``CLIP``.
        name: The backbone's name, for messages.
        path: The file of weights.

    Raises:
        ValueError: If the file cannot be read or its weights do not fit the backbone.
    """
    state = expand_token_embedding(path, read_state_dict(path), clip.token_embedding.weight)
    expected = clip.state_dict()
    state = {key: value for key, value in state.items() if key in expected or key not in NOT_WEIGHTS}
    check_tensors(path, state)
    problems = state_dict_problems(expected, state, optional={"logit_scale", "logit_bias"})
    if problems:
        msg = f"{path} does not hold the weights of backbone {name!r}: {problems}."
        raise ValueError(msg)
    clip.load_state_dict(state, strict=False)


def check_tensors(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Make sure that tensors are what weights can be: plain floating-point numbers, all finite.

    Raises:
        ValueError: If one is not; the message names the file and the tensor.
    """
    for key, value in state.items():
        if problem := _unfit(value):
            msg = f"{path} holds no usable weights: {key} {problem}."
            raise ValueError(msg)


def _unfit(value: torch.Tensor) -> str:
    if not _is_plain(value):
        return "is sparse, nested, without values, or has fewer of them than its shape says"
    if not value.is_floating_point():
        return f"is of {value.dtype}, not of floating-point numbers"
    if not value.float().isfinite().all():
        return "has values that are NaN or infinite (training may have diverged)"
    too_large = bool((value.float().abs() > LARGEST).any())
    return f"has values beyond {LARGEST:g}, whose products would be infinite" if too_large else ""


def _is_plain(value: Any) -> bool:
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_nested or value.is_meta:
        return False
    return value.untyped_storage().nbytes() >= value.numel() * value.itemsize  # else a few could fill the memory


def state_dict_problems(
    expected: dict[str, torch.Tensor],
    given: dict[str, torch.Tensor],
    optional: set[str] | frozenset[str] = frozenset(),
) -> str:
    """Say in words how a state dict differs in names and shapes from the one expected; empty if it fits."""
    missing = sorted(expected.keys() - given.keys() - optional)
    unknown = sorted(given.keys() - expected.keys() - optional)
    shapes = [
        f"{key} is {tuple(given[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & given.keys())
        if given[key].shape != expected[key].shape
    ]
    problems = [_first(missing, "lacks"), _first(unknown, "has unknown"), _first(shapes, "has other shapes:")]
    return "; ".join(filter(None, problems))


def _first(items: list[str], verb: str, most: int = 3) -> str:
    if not items:
        return ""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return f"it {verb} {', '.join(items[:most])}{more}"


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read a flat state dict from ``.safetensors``, a TorchScript archive or a ``torch.save`` file.

    Raises:
        ValueError: If the file is none of these, is cut short, or holds more than tensors.
    """
    content = read_file(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and _is_plain(value) for key, value in content.items()
    ):
        msg = f"{path} holds no state dict of plain tensors."
        raise ValueError(msg)
    return {key.removeprefix("module."): value for key, value in content.items()}


def read_file(path: Path) -> Any:
    """Read what a weights file holds, without ever executing code that it may carry.

    TorchScript archives are read by :func:`read_torchscript`, files of ``torch.save`` with ``weights_only=True``.

    Raises:
        ValueError: If the file is empty, cut short, of no known format, or holds code.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if is_torchscript(path):
            return read_torchscript(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        msg = (
            f"{path} is not a plain file of weights: it is damaged, of another format, or holds Python objects, which "
            f"are never executed here ({str(error).splitlines()[0]})."
        )
        raise ValueError(msg) from error
    except Exception as error:  # damage shows itself in any of them
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        msg = f"{path} cannot be read as weights; it may be cut short or of another format ({reason})."
        raise ValueError(msg) from error


def expand_token_embedding(
    path: Path,
    state: dict[str, torch.Tensor],
    table: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Undo the toy CLIP's pruning: rows only for the ids that occurred in training, zeros elsewhere.

    Args:
        path: The file that the state was read from, for messages.
        state: Tensors under open_clip's names; other than the toy's come back as they are.
        table: The token embeddings ``(V, D)`` of the CLIP that the state is for.

    Raises:
        ValueError: If ids and rows do not belong together.
    """
    state = dict(state)
    ids = state.pop("token_embedding.ids", None)
    if ids is None:
        return state
    rows = state.get("token_embedding.weight")
    whole = not ids.is_floating_point() and not ids.is_complex()
    if (
        rows is None
        or rows.shape != (*ids.shape, table.shape[1])
        or not (whole and bool(((ids >= 0) & (ids < len(table))).all()))
    ):
        msg = f"{path} is damaged: its token embeddings do not belong to the ids beside them."
        raise ValueError(msg)
    state["token_embedding.weight"] = rows.new_zeros(table.shape).index_copy(0, ids.long(), rows)
    return state
