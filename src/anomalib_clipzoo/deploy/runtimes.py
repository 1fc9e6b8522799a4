# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The programs that run a model: PyTorch, ONNX Runtime and OpenVINO, with one way of calling them.

Each takes images ``(B, 3, H, W)``, 0..1, single precision, and returns arrays under anomalib's names: ``pred_score``,
``pred_label``, ``anomaly_map``, ``pred_mask``. Several threads may call one at the same time.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from anomalib_clipzoo.deploy.extras import needs

Outputs = dict[str, np.ndarray]
TRUST = "TRUST_REMOTE_CODE"
"""anomalib's environment variable, which says that files that run code when read may be read."""


class Runtime(Protocol):
    """What runs a model.

    Attributes:
        image_size: Height and width that the images have to have; ``None`` if they may have any.
    """

    image_size: tuple[int, int] | None

    def __call__(self, images: np.ndarray) -> Outputs:
        """Run the model."""


class TorchRuntime:
    """PyTorch, for models that post-process their own predictions.

    Args:
        model: Lightning module or exported module.
        device: PyTorch's name of the device.
        threads: Threads of one operation, in this whole process; ``None`` leaves them.
    """

    image_size: tuple[int, int] | None = None

    def __init__(self, model: Any, device: str = "cpu", threads: int | None = None) -> None:
        import torch

        if device != "cpu" and not torch.cuda.is_available() and device.startswith("cuda"):
            msg = f"There is no device {device!r} on this machine that PyTorch could use."
            raise ValueError(msg)
        if threads:
            torch.set_num_threads(threads)
        self.device = device
        self.model = model.eval().to(device)

    def __call__(self, images: np.ndarray) -> Outputs:
        """Run the model."""
        import torch

        with torch.no_grad():
            predictions = self.model(torch.from_numpy(images).to(self.device))._asdict()
        return {name: value.cpu().numpy() for name, value in predictions.items() if value is not None}


class OnnxRuntime:
    """ONNX Runtime.

    Args:
        path: An ``.onnx`` file.
        device: "cpu" or "cuda".
        threads: Threads of one operation; ``None`` for all cores.
    """

    def __init__(self, path: Path, device: str = "cpu", threads: int | None = None) -> None:
        with needs("onnx"):
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device.partition(":")[0])
        if provider not in onnxruntime.get_available_providers():
            msg = f"ONNX Runtime on this machine has no device {device!r}; it has {onnxruntime.get_device().lower()}."
            raise ValueError(msg)
        self.session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        (self.input,) = self.session.get_inputs()
        self.names = [output.name for output in self.session.get_outputs()]
        self.image_size = _fixed_size(self.input.shape)

    def __call__(self, images: np.ndarray) -> Outputs:
        """Run the model."""
        return dict(zip(self.names, self.session.run(None, {self.input.name: images}), strict=True))


class OpenVinoRuntime:
    """OpenVINO, in single precision: where the processor has bfloat16, it takes that unless told otherwise.

    Each thread has an inference request of its own.

    Args:
        path: An ``.xml`` file with its ``.bin`` beside it.
        device: "cpu", or another that OpenVINO knows.
        threads: Threads of one request; ``None`` for all cores.
    """

    def __init__(self, path: Path, device: str = "cpu", threads: int | None = None) -> None:
        with needs("openvino"):
            import openvino
        if not path.with_suffix(".bin").is_file():
            msg = f"{path.with_suffix('.bin')}, which holds the numbers of {path.name}, is missing."
            raise FileNotFoundError(msg)
        limits = {"INFERENCE_NUM_THREADS": threads} if threads else {}
        self.compiled = openvino.Core().compile_model(
            str(path), device.upper(), {"INFERENCE_PRECISION_HINT": "f32", **limits}
        )
        self.names = [output.any_name for output in self.compiled.outputs]
        shape = self.compiled.input(0).partial_shape
        self.image_size = _fixed_size([length.get_length() if length.is_static else None for length in shape])
        self._of_thread = threading.local()

    def __call__(self, images: np.ndarray) -> Outputs:
        """Run the model."""
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self.compiled.create_infer_request()
        request = self._of_thread.request
        request.infer([images])
        return {name: request.get_output_tensor(index).data.copy() for index, name in enumerate(self.names)}


def _fixed_size(shape: Any) -> tuple[int, int] | None:
    """Tell the height and width that an input ``(B, 3, H, W)`` is fixed to."""
    height, width = list(shape)[-2:]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def check_trust(path: Path) -> None:
    """Make sure that a file may be read that runs code when it is read.

    Models in PyTorch's export format are such files: pickles. So this asks for the same permission as anomalib's
    ``TorchInferencer``.

    Raises:
        ValueError: If the permission was not given.
    """
    if os.environ.get(TRUST, "0").lower() not in {"1", "true"}:
        msg = (
            f"{path}: reading a model in PyTorch's export format runs the code that the file holds. If you trust where "
            f"it comes from, set the environment variable {TRUST}=1; ONNX and OpenVINO files, checkpoints and learned "
            "weights are read without running code."
        )
        raise ValueError(msg)


def read_torch_export(path: Path) -> Any:
    """Read a model that was exported to PyTorch's format, see :func:`check_trust`.

    Raises:
        ValueError: If the permission was not given, or the file holds no model.
    """
    check_trust(path)
    import torch

    try:
        model = torch.load(path, map_location="cpu", weights_only=False)["model"]
    except Exception as error:  # damage shows itself in any
        msg = f"{path} cannot be read as an exported model ({error})."
        raise ValueError(msg) from error
    if not isinstance(model, torch.nn.Module):
        msg = f"{path} holds no exported model."
        raise ValueError(msg)
    return model
