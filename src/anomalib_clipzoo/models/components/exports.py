# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Exported files: they say what they are, and are there whole or not at all."""

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from anomalib.deploy import CompressionType

from anomalib_clipzoo.deploy.metadata import FULL, describe, write_metadata
from anomalib_clipzoo.deploy.thresholds import finish_onnx, finish_openvino

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule as _Module
else:
    _Module = object  # each model names AnomalibModule as a direct base: anomalib's list_models looks at those only

SCRATCH = ".exporting-"
OUTDATED = 24 * 3600  # seconds after which a scratch folder is that of a killed process: no export takes so long


class WholeExports(_Module):
    """Mixin whose exports say what they are, and are written beside their place and moved there when they are whole.

    Thresholds are one constant of an exported graph and stay in single precision, whatever the weights are kept in, so
    that they can be changed later (:func:`~anomalib_clipzoo.deploy.thresholds.set_threshold`).
    """

    REFUSED_PRECISIONS: ClassVar[Mapping[str, str]] = {}  # what weights must not be kept in, and why

    has_learned: bool = False  # by training, or as weights or a checkpoint say

    def prepare_export(self) -> None:
        """See to what an exported model needs.

        Raises:
            ValueError: If the model would have to learn first.
        """
        if self.LEARNS and not self.has_learned:
            msg = f"{self.nothing_learned} Then export it."
            raise ValueError(msg)

    @property
    def nothing_learned(self) -> str:
        """What to say of a model that would have to learn first."""
        return (
            f"This {type(self).__name__} has learned nothing yet: it has random numbers in place of learned ones. "
            "Train it, or give it learned weights (weights=, --model.weights) or a checkpoint (--ckpt_path)."
        )

    def to_torch(self, export_root: Path | str, *args: Any, **kwargs: Any) -> Path:
        """Export the model in PyTorch's format, see anomalib."""
        self.prepare_export()
        finish = partial(write_metadata, metadata=describe(self))
        return export_whole(_finished(super().to_torch, finish), export_root, *args, **kwargs)

    def to_onnx(  # type: ignore[override]
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> Path:
        """Export the model in ONNX's format, see anomalib."""
        self.prepare_export()
        finish = partial(finish_onnx, metadata=describe(self, input_size))
        return export_whole(_finished(super().to_onnx, finish), export_root, model_file_name, input_size, **kwargs)

    def to_openvino(  # type: ignore[override]
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | None = None,
        **kwargs: Any,
    ) -> Path:
        """Export the model in OpenVINO's format, see anomalib."""
        precision = CompressionType(compression_type).value if compression_type else FULL
        self._check_precision(precision)
        finish = partial(finish_openvino, metadata=describe(self, input_size, precision))
        export = _finished(super().to_openvino, finish)
        return export_whole(export, export_root, model_file_name, input_size, compression_type, **kwargs)

    def _check_precision(self, precision: str) -> None:
        """Refuse, before the long work, what is known to spoil this model's scores."""
        if reason := self.REFUSED_PRECISIONS.get(precision):
            msg = f"{type(self).__name__} is not exported with {precision.upper()} weights: {reason}"
            raise ValueError(msg)


def _finished(export: Callable[..., Path], finish: Callable[[Path], None]) -> Callable[..., Path]:
    """Let an export end with something that is done to its file."""

    def export_and_finish(*args: Any, **kwargs: Any) -> Path:
        path = export(*args, **kwargs)
        finish(path)
        return path

    return export_and_finish


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
