# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The thresholds of exported files, and how they are changed without a new export.

Exported graphs hold them as one constant of their own, ``thresholds``: those of an image and of a pixel, on the model's
own scale. Scores and maps are bent around it so that 0.5 decides, see
:class:`~anomalib_clipzoo.models.components.post_processor.ProbabilityPostProcessor`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_clipzoo.results.run_record import now

from .metadata import FULL, main_file, read_metadata, write_metadata

logger = logging.getLogger(__name__)

NAME = "thresholds"
BENDS = "ProbabilityPostProcessor"
KINDS = ("image", "pixel")
NEUTRAL = 0.5  # which decides where no threshold was fitted, and in post-processed scores
TINY = float(np.finfo(np.float32).eps)  # how near to 0 and 1 a threshold may come


def set_threshold(file: Path, value: float, pixel: float | None = None, *, raw: bool = False) -> None:
    """Change the thresholds of an exported file, in place, without exporting again.

    Scores and maps are scaled so that 0.5 is the threshold again: what has the score VALUE now will have 0.5.

    Args:
        file: An exported model: .onnx, OpenVINO's .xml, or .pt (which runs code of the file and so needs
            TRUST_REMOTE_CODE=1).
        value: The score above which an image is to be called anomalous, in 0..1, as the file gives scores now.
        pixel: The same for pixels of the map; left as it is by default.
        raw: Whether these are on the model's own scale, as in the file's metadata.

    Raises:
        ValueError: If the value is not within 0..1 or the file has no thresholds that could be changed.
        FileNotFoundError: If there is no such file.
    """
    metadata = read_metadata(file)
    before = effective(metadata["thresholds"])
    given = {"image": value, "pixel": pixel}
    after = {kind: _moved(before[kind], given[kind], raw) for kind in KINDS}
    changed = {**metadata["thresholds"], **after, "origin": _by_hand()}
    path = main_file(file)
    write = {".onnx": _write_onnx, ".xml": _write_openvino}.get(path.suffix, _write_torch)
    _replace_whole(partial(write, metadata={**metadata, NAME: changed}), path)
    logger.info("Thresholds of %s on the model's own scale were %s, are %s.", path, before, after)


def effective(thresholds: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the thresholds of an image and of a pixel on the model's own scale, as a file's metadata has them.

    Raises:
        ValueError: If the file's scores are not bent around thresholds.
    """
    if thresholds is None or not is_bent(thresholds):
        msg = (
            f"This file's scores are not bent around thresholds, which a {BENDS} with normalization does: compare its "
            "scores with a threshold of your own where you use them."
        )
        raise ValueError(msg)
    return {kind: NEUTRAL if thresholds[kind] is None else thresholds[kind] for kind in KINDS}


def is_bent(thresholds: Mapping[str, Any] | None) -> bool:
    """Tell whether a file's scores are bent around its thresholds."""
    return bool(thresholds and thresholds["normalized"] is not None and thresholds["post_processor"] == BENDS)


def _moved(before: float, value: float | None, raw: bool) -> float:
    """Return the threshold on the model's own scale that a value, mostly on the scale of the file's scores, means."""
    if value is None:
        return before
    if not 0 <= value <= 1:
        msg = f"A threshold is a score in 0..1, not {value}."
        raise ValueError(msg)
    if raw:
        return value
    return value * 2 * before if value < NEUTRAL else 1 - (1 - value) * 2 * (1 - before)


def _by_hand() -> dict[str, Any]:
    fitted_on: dict[str, Any] = {"normal_images": 0, "anomalous_images": 0, "categories": []}
    return {"method": "set by hand", "false_alarm_rate": None, **fitted_on, "date": now()}


def _constant(metadata: Mapping[str, Any]) -> np.ndarray:
    """Return what a graph holds: thresholds, a hair within 0..1."""
    values = effective(metadata[NAME])
    return np.array([min(max(values[kind], TINY), 1 - TINY) for kind in KINDS], dtype=np.float32)


def _replace_whole(write: Callable[[Path, Path], None], path: Path) -> None:
    from anomalib_clipzoo.models.components.exports import export_whole

    def rewrite(folder: Path) -> Path:
        write(path, folder / path.name)
        return folder / path.name

    export_whole(rewrite, path.parent)


# ---- in files ----


def finish_onnx(path: Path, metadata: Mapping[str, Any]) -> None:
    """Name the constant of a freshly exported graph, and say what the file is."""
    import onnx

    if is_bent(metadata[NAME]):
        model = onnx.load(path, load_external_data=False)
        expected = _constant(metadata)
        found = [tensor.name for tensor in model.graph.initializer if _is_constant(model.graph, tensor, expected)]
        if len(found) == 1:
            _rename(model.graph, found[0])
            onnx.save(model, path)
    write_metadata(path, metadata)


def _is_constant(graph: Any, tensor: Any, expected: np.ndarray) -> bool:
    """Tell whether a tensor is what :meth:`ProbabilityPostProcessor.forward` expands over the batch."""
    import onnx

    if list(tensor.dims) != list(expected.shape) or tensor.data_type != onnx.TensorProto.FLOAT:
        return False
    readers = [node.op_type for node in graph.node if tensor.name in node.input]
    return readers == ["Expand"] and np.allclose(onnx.numpy_helper.to_array(tensor), expected)


def _rename(graph: Any, name: str) -> None:
    for tensor in graph.initializer:
        tensor.name = NAME if tensor.name == name else tensor.name
    for node in graph.node:
        node.input[:] = [NAME if value == name else value for value in node.input]
    for value in graph.value_info:
        value.name = NAME if value.name == name else value.name


def _write_onnx(path: Path, target: Path, metadata: Mapping[str, Any]) -> None:
    import onnx

    model = onnx.load(path, load_external_data=False)
    (tensor,) = _only(path, [tensor for tensor in model.graph.initializer if tensor.name == NAME])
    tensor.CopyFrom(onnx.numpy_helper.from_array(_constant(metadata), NAME))
    onnx.save(model, target)
    write_metadata(target, metadata)


def finish_openvino(path: Path, metadata: Mapping[str, Any]) -> None:
    """Have thresholds in single precision, and say what the file is."""
    if metadata["precision"] != FULL and is_bent(metadata[NAME]):
        _replace_whole(partial(_write_openvino, metadata=metadata), path)
    write_metadata(path, metadata)


def _write_openvino(path: Path, target: Path, metadata: Mapping[str, Any]) -> None:
    import openvino

    model = openvino.Core().read_model(path)
    (node,) = _only(path, [node for node in model.get_ops() if node.get_friendly_name() == NAME])
    constant = openvino.opset13.constant(_constant(metadata))
    node.output(0).replace(constant.output(0))
    constant.set_friendly_name(NAME)
    openvino.save_model(model, target, compress_to_fp16=False)
    write_metadata(target, metadata)


def _only(path: Path, found: list[Any]) -> list[Any]:
    if len(found) != 1:
        msg = (
            f"{path.name} was exported with options that melt its thresholds into other constants, such as a fixed "
            "batch size: export it without them."
        )
        raise ValueError(msg)
    return found


def _write_torch(path: Path, target: Path, metadata: Mapping[str, Any]) -> None:
    import torch

    from .runtimes import read_torch_export

    model = read_torch_export(path)
    post_processor = model.post_processor
    for kind in KINDS:
        value = metadata[NAME][kind]
        getattr(post_processor, f"_{kind}_threshold").fill_(math.nan if value is None else value)
    post_processor._write_provenance(metadata[NAME]["origin"])
    torch.save({"model": model}, target)
    write_metadata(target, metadata)
