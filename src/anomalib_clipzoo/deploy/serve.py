# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The subcommand ``clipzoo serve``: its options, checked before anything is loaded."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Literal

from .limits import MOST_PIXELS

TOKEN = "CLIPZOO_TOKEN"  # the name of the variable, not a token


def serve(
    file: str,
    host: Literal["127.0.0.1", "0.0.0.0", "::"] = "127.0.0.1",
    port: int = 8000,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int = 1,
    threads: int | None = None,
    batch_size: int = 8,
    batch_wait: float = 0.005,
    threshold: float | None = None,
    pixel_threshold: float | None = None,
    category: str | None = None,
    max_megabytes: float = 20,
    max_pixels: int = MOST_PIXELS,
    timeout: float = 30,
) -> None:
    """Answer over HTTP what a model says of images that are sent to it.

    POST an image to /predict, as multipart/form-data (field "image"), as the body itself (Content-Type: image/png, ...)
    or as {"image": base64} in JSON. The answer is JSON with score, label, threshold and regions; with ?overlay=true
    also a picture with the heatmap, in base64; with "Accept: image/png" that picture alone. /health says whether the
    service is ready, /metrics how it does, in Prometheus' text format. Where the environment variable CLIPZOO_TOKEN is
    set, all but /health asks for it ("Authorization: Bearer ..."). Needs the extra "serve".

    Args:
        file: The model: a checkpoint (.ckpt), learned weights (.safetensors) or an exported file (.onnx, .xml, .pt).
        host: Address that it listens at: this machine alone, or all of its networks.
        port: Port that it listens at, from 1024.
        device: Where PyTorch runs a model; exported files run on the processor.
        workers: Processes that each hold the model, on each device.
        threads: Threads of each of them.
        batch_size: At most so many images are scored at once.
        batch_wait: Seconds that an image waits for others to be scored with.
        threshold: Scores above it are anomalous, 0..1, in place of the file's.
        pixel_threshold: Pixels of the map above it are anomalous, 0..1, in place of the file's.
        category: Whose references images are compared with, where a file holds those of several categories.
        max_megabytes: Largest request.
        max_pixels: Largest image.
        timeout: Seconds after which a request that has no answer gets an error.
    """
    if not Path(file).expanduser().is_file():
        msg = f"There is no file {file!r}."
        raise FileNotFoundError(msg)
    check_free(host, port)
    from anomalib_clipzoo.deploy.extras import needs

    with needs("serve"):
        from anomalib_clipzoo.deploy.model_file import ModelFile
        from anomalib_clipzoo.deploy.service import Limits, run
    model = ModelFile(file, device, threads, threshold, pixel_threshold, category)
    limits = Limits(int(max_megabytes * 2**20), max_pixels, timeout, os.environ.get(TOKEN) or None)
    run(model, limits, host=host, port=port, workers=workers, batch_size=batch_size, batch_wait=batch_wait)


def check_free(host: str, port: int) -> None:
    """Make sure that nothing listens at a port.

    Raises:
        ValueError: If it is no port for this.
        OSError: If it is in use.
    """
    if not 1024 <= port <= 65535:
        msg = f"A port is a number in 1024..65535, not {port}."
        raise ValueError(msg)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what a server has just left is free
        try:
            probe.bind((host, port))
        except OSError as error:
            msg = f"Port {port} of {host} cannot be used ({error.strerror}): stop what uses it, or give another --port."
            raise OSError(msg) from error
