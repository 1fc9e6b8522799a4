# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What an exported file says of itself: one dictionary, written into the file and read without running it.

It lies where each format keeps such things: in ONNX among ``metadata_props``, in OpenVINO's ``.xml`` under
``rt_info``, in PyTorch's ``.pt``, a zip archive, as a file of its own, so that reading it unpickles nothing.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import anomalib_clipzoo

if TYPE_CHECKING:
    import torch

KEY = "anomalib_clipzoo"
FORMAT = 1
FULL = "fp32"
SCORES = ("pred_score", "anomaly_map")
LABELS = ("pred_label", "pred_mask")
# Licences of CLIP weights by open_clip's tag, as their publishers state them; others are not known.
LICENCES = {"openai": "MIT", "laion": "MIT", "datacomp": "MIT", "commonpool": "MIT", "metaclip": "CC-BY-NC-4.0"}
TOY_LICENCE = "Apache-2.0"


def describe(model: Any, input_size: tuple[int, int] | None = None, precision: str = FULL) -> dict[str, Any]:
    """Say in plain data what an exported model is.

    Args:
        model: The model (a :class:`~anomalib_clipzoo.models.components.module.ClipZooModule`), as it is exported.
        input_size: Height and width of the images that the file takes; ``None`` if any.
        precision: What the file keeps its weights in: ``"fp32"``, ``"fp16"``, ``"int8"``, ...

    Returns:
        A dictionary with

        * ``format``: version of this dictionary, ``model``: name of the model's class, ``version``: of this package,
        * ``backbone``, ``pretrained``, ``fingerprint``: the CLIP, ``licence``: of its weights, ``None`` if not known,
        * ``learned_weights``: name of the file of learned weights; ``None`` where training or a checkpoint made them,
          or nothing is learned,
        * ``arguments``: all arguments that results depend on,
        * ``category``: the data's, ``class_names``: what images are taken to show; ``None`` if no words are used,
        * ``memory``: number of reference (or pool) images, their categories and megabytes; ``None`` without,
        * ``image_size``: height and width that images are resized to within the file,
        * ``input``: name, size (``None`` if any), channels and range of what goes in,
        * ``outputs``: names of what comes out,
        * ``thresholds``: see :func:`describe_thresholds`,
        * ``precision``.
    """
    arguments = model._record()["arguments"]
    learned = model.arguments.learned
    return {
        "format": FORMAT,
        "model": type(model).__name__,
        "version": anomalib_clipzoo.__version__,
        "backbone": arguments["backbone"],
        "pretrained": arguments["pretrained"],
        "fingerprint": model.model.backbone.fingerprint(),
        "licence": licence_of(arguments["backbone"], arguments["pretrained"]),
        "learned_weights": learned.path.name if learned else None,
        "arguments": arguments,
        "category": model.category,
        "class_names": model.context([model.category]).get("class_names"),
        "memory": _describe_memory(model),
        "image_size": list(model.model.backbone.vision.image_size),
        "input": {
            "name": "input",
            "size": list(input_size) if input_size else None,
            "channels": "RGB",
            "range": [0, 1],
        },
        "outputs": [*SCORES, *LABELS] if _has_labels(model) else list(SCORES),
        "thresholds": describe_thresholds(model.post_processor),
        "precision": precision,
    }


def licence_of(backbone: str, pretrained: str | None) -> str | None:
    """Name the licence of a CLIP's weights; ``None`` if it is not known."""
    if backbone == "toy":
        return TOY_LICENCE
    tags = [tag for tag in LICENCES if (pretrained or "").startswith(tag)]
    return LICENCES[tags[0]] if tags else None


def describe_thresholds(post_processor: Any) -> dict[str, Any] | None:
    """Say what decides between normal and anomalous.

    Returns:
        ``None`` for scores that no threshold was applied to; else ``image`` and ``pixel``, on the model's own scale
        (``None`` where none was fitted, which is 0.5), ``normalized``, the value that these have become in the file's
        scores, ``origin``, what they were fitted on (``None`` if that is not known), and the ``post_processor``.
    """
    if post_processor is None:
        return None
    return {
        "image": _number(post_processor.image_threshold),
        "pixel": _number(post_processor.pixel_threshold),
        "normalized": 0.5 if post_processor.enable_normalization else None,
        "origin": getattr(post_processor, "provenance", None),
        "post_processor": type(post_processor).__name__,
    }


def _number(value: torch.Tensor) -> float | None:
    return None if math.isnan(value) else float(value)


def _has_labels(model: Any) -> bool:
    return bool(getattr(model.post_processor, "enable_thresholding", False))


def _describe_memory(model: Any) -> dict[str, Any] | None:
    return getattr(model, "memory_record", None) or None


# ---- in files ----


def main_file(path: str | Path) -> Path:
    """Return the file that says what an export is: of OpenVINO's two, the ``.xml``, whichever was named."""
    path = Path(path)
    return path.with_suffix(".xml") if path.suffix == ".bin" else path


def files_of(path: Path) -> list[Path]:
    """List an exported file and those beside it that hold its numbers, which OpenVINO and large ONNX files have."""
    numbers = (path.with_suffix(".bin"), path.with_name(f"{path.name}.data"))
    return [path, *(part for part in numbers if part.is_file())]


def write_metadata(path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Write what a file says of itself into it, in the place of what it said before.

    Args:
        path: A ``.pt`` of anomalib's form without such a dictionary, an ``.onnx``, or OpenVINO's ``.xml``.
        metadata: The dictionary, see :func:`describe`.
    """
    path, text = Path(path), json.dumps(metadata)
    {".pt": _write_torch, ".onnx": _write_onnx, ".xml": _write_openvino}[path.suffix](path, text)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read what an exported file says of itself, see :func:`describe`. No code of the file is run.

    Args:
        path: The ``.pt``, ``.onnx``, or OpenVINO's ``.xml`` (or the ``.bin`` beside it).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no exported file of this package, damaged, or of a newer version.
    """
    path = main_file(path)
    if not path.is_file():
        msg = f"There is no exported file at {str(path)!r}."
        raise FileNotFoundError(msg)
    readers = {".pt": _read_torch, ".pth": _read_torch, ".onnx": _read_onnx, ".xml": _read_openvino}
    if path.suffix not in readers:
        msg = f"{path} is no exported file: these end in .pt (torch), .onnx, or .xml (OpenVINO)."
        raise ValueError(msg)
    return _checked(path, readers[path.suffix](path))


def _checked(path: Path, text: str | None) -> dict[str, Any]:
    if text is None:
        msg = f"{path} says nothing of itself: it was not exported by anomalib-clipzoo."
        raise ValueError(msg)
    try:
        metadata = json.loads(text)
        newer = metadata["format"] > FORMAT
    except (ValueError, TypeError, KeyError) as error:
        msg = f"{path} is damaged: what it says of itself cannot be read."
        raise ValueError(msg) from error
    if newer:
        msg = (
            f"{path} was exported by anomalib-clipzoo {metadata.get('version')}, but this is version "
            f"{anomalib_clipzoo.__version__}: install that one or a newer one, or export the model again."
        )
        raise ValueError(msg)
    return metadata


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged, or not what its name says: {error}")


def _write_torch(path: Path, text: str) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_place(archive), text)


def _read_torch(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            place = _place(archive)
            return archive.read(place).decode() if place in archive.namelist() else None
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error


def _place(archive: zipfile.ZipFile) -> str:
    """Return the name of the dictionary in an archive of PyTorch, all whose files are in one folder."""
    folder, _, _ = next(iter(archive.namelist()), "").partition("/")
    return f"{folder}/{KEY}.json"


def _write_onnx(path: Path, text: str) -> None:
    import onnx

    model = onnx.load(path, load_external_data=False)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**kept, KEY: text})
    onnx.save(model, path)


def _read_onnx(path: Path) -> str | None:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise _damaged(path, error) from error
    return next((entry.value for entry in model.metadata_props if entry.key == KEY), None)


def _write_openvino(path: Path, text: str) -> None:
    tree = ET.parse(path)
    info = tree.getroot().find("rt_info")
    info = ET.SubElement(tree.getroot(), "rt_info") if info is None else info
    entry = info.find(KEY)
    entry = ET.SubElement(info, KEY) if entry is None else entry
    entry.set("value", text)
    tree.write(path, encoding="utf-8", xml_declaration=True)


def _read_openvino(path: Path) -> str | None:
    try:
        entry = ET.parse(path).getroot().find(f"rt_info/{KEY}")
    except ET.ParseError as error:
        raise _damaged(path, error) from error
    return None if entry is None else entry.get("value")
