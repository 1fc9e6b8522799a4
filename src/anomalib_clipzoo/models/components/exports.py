# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Exported files that are there whole or not at all."""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule as _Module
else:
    _Module = object  # each model names AnomalibModule as a direct base: anomalib's list_models looks at those only

SCRATCH = ".exporting-"
OUTDATED = 24 * 3600  # seconds after which a scratch folder is that of a killed process: no export takes so long


class WholeExports(_Module):
    """Mixin whose exports are written beside their place and moved there when they are whole."""

    def to_torch(self, export_root: Path | str, *args: Any, **kwargs: Any) -> Path:
        """Export the model in PyTorch's format, see anomalib."""
        return export_whole(super().to_torch, export_root, *args, **kwargs)

    def to_onnx(self, export_root: Path | str, *args: Any, **kwargs: Any) -> Path:  # type: ignore[override]
        """Export the model in ONNX's format, see anomalib."""
        return export_whole(super().to_onnx, export_root, *args, **kwargs)

    def to_openvino(self, export_root: Path | str, *args: Any, **kwargs: Any) -> Path:
        """Export the model in OpenVINO's format, see anomalib."""
        return export_whole(super().to_openvino, export_root, *args, **kwargs)


def export_whole(export: Callable[..., Path], export_root: Path | str, *args: Any, **kwargs: Any) -> Path:
    """Let an export write into a scratch folder below its root, and move what it wrote to its place.

    Args:
        export: Takes a root and the arguments, writes a file and others that it refers to below that root, and returns
            the file's path.
        export_root: The folder below which the file is meant to be.
        *args: Further arguments.
        **kwargs: Further keyword arguments.

    Returns:
        The file's path. If the process ends before, an older export is what it was.
    """
    root = Path(export_root)
    root.mkdir(parents=True, exist_ok=True)
    _remove_outdated(root)
    with tempfile.TemporaryDirectory(dir=root, prefix=SCRATCH) as scratch:
        file = export(Path(scratch), *args, **kwargs)
        return _put_in_place(file, root / file.relative_to(scratch))


def _remove_outdated(root: Path) -> None:
    for left in root.glob(f"{SCRATCH}*"):
        if left.stat().st_mtime < time.time() - OUTDATED:
            shutil.rmtree(left, ignore_errors=True)


def _put_in_place(file: Path, target: Path) -> Path:
    """Move a file, and before it those that lie beside it (weights of OpenVINO's .xml, of a large .onnx)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    parts = [path for path in file.parent.iterdir() if path != file]
    if parts:
        target.unlink(missing_ok=True)  # at no time does a file stand beside another export's weights
    for path in parts:
        path.replace(target.parent / path.name)
    return file.replace(target)
