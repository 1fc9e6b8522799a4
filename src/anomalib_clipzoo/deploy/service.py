# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The inspection service: a LitServe API, and what stands before it."""

import base64
import logging
import os
import signal
import time
from typing import Annotated, Any

import litserve
from fastapi import Depends
from fastapi.responses import JSONResponse, Response
from litserve.loops.simple_loops import BatchedLoop
from PIL import Image

from anomalib_clipzoo.deploy.answers import draw_overlay, to_answer, to_png
from anomalib_clipzoo.deploy.decoding import TooManyPixelsError, UnknownTypeError, decode_image
from anomalib_clipzoo.deploy.gate import Gate, Limits, Metrics
from anomalib_clipzoo.deploy.model_file import ModelFile
from anomalib_clipzoo.deploy.scorer import Finding
from anomalib_clipzoo.deploy.uploads import PNG, Upload, read_upload

PATH = "/predict"
STATUS = {TooManyPixelsError: 413, UnknownTypeError: 415}
POLL = 0.003
"""Seconds between two looks at an empty queue."""


class InspectionApi(litserve.LitAPI):
    """What LitServe's workers do.

    What is wrong with one image of a batch is kept with that image, as an error would fail its whole batch.

    Args:
        model: What to load.
        most_pixels: Of one image.
        **batching: LitServe's own arguments.
    """

    def __init__(self, model: ModelFile, most_pixels: int, **batching: Any) -> None:
        super().__init__(api_path=PATH, loop=PatientLoop(), **batching)
        self.model, self.most_pixels = model, most_pixels

    def setup(self, device: str) -> None:
        """Load the model."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
        self.scorer = self.model.load(device)

    def decode_request(
        self, request: Annotated[Upload, Depends(read_upload)]
    ) -> tuple[Upload, Image.Image | ValueError]:
        """Decode the image, or say why that cannot be done."""
        try:
            return request, decode_image(request.content, self.most_pixels)
        except ValueError as error:
            return request, error

    def batch(self, inputs: list) -> list:
        """Leave images of several sizes as they are."""
        return inputs

    def predict(self, x: list) -> list:
        """Score those images of a batch that could be decoded."""
        findings = iter(self.scorer.find([image for _, image in x if isinstance(image, Image.Image)]))
        return [(upload, image, next(findings) if isinstance(image, Image.Image) else None) for upload, image in x]

    def unbatch(self, output: list) -> list:
        """Leave answers as they are."""
        return output

    def encode_response(self, output: tuple[Upload, Any, Finding | None]) -> Response:
        """Answer one request."""
        upload, image, finding = output
        if finding is None:
            return JSONResponse({"detail": str(image)}, STATUS.get(type(image), 422))
        picture = to_png(draw_overlay(image, finding)) if upload.overlay or upload.as_png else b""
        if upload.as_png:
            return Response(picture, media_type=PNG)
        answer = {"model": self.scorer.model, "class_name": self.scorer.class_name, **to_answer(finding)}
        return JSONResponse(answer | ({"overlay": base64.b64encode(picture).decode()} if upload.overlay else {}))


class PatientLoop(BatchedLoop):
    """LitServe's loop, which waits for the first image of a batch without keeping a processor busy.

    It takes nothing from the queue before something is there: what a waiting worker that is killed had asked for would
    be lost.
    """

    def get_batch_requests(self, lit_api: Any, request_queue: Any, transport: Any) -> tuple[list, list]:
        """Wait for requests, and take those that come soon after each other."""
        while request_queue.empty():
            time.sleep(POLL)
        return super().get_batch_requests(lit_api, request_queue, transport)


def make_server(model: ModelFile, limits: Limits, workers: int = 1, **batching: Any) -> litserve.LitServer:
    """Make the server, which is not running yet."""

    def pids() -> list[int | None]:
        return [worker.pid for worker in server.inference_workers]

    metrics = Metrics({"file": model.file, "model": model.name})
    server = litserve.LitServer(
        InspectionApi(model, limits.most_pixels, **batching),
        accelerator=model.accelerator,
        workers_per_device=workers,
        timeout=limits.timeout,
        restart_workers=True,
        middlewares=[(Gate, {"limits": limits, "metrics": metrics, "workers": pids, "path": PATH})],
    )

    @server.app.get("/metrics")
    async def tell_metrics() -> Response:
        return Response(metrics.text(), media_type=metrics.media_type)

    return server


def run(
    model: ModelFile,
    limits: Limits,
    *,
    host: str,
    port: int,
    workers: int,
    batch_size: int,
    batch_wait: float,
) -> None:
    """Run the server until it is told to stop.

    Raises:
        ValueError: If the file holds no model, or no worker could load it.
    """
    server = make_server(model, limits, workers, max_batch_size=batch_size, batch_timeout=batch_wait)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    print(f"Listening at http://{host}:{port}{PATH}; Ctrl+C ends it.", flush=True)  # noqa: T201
    try:
        # One thread answers: it is told when a worker dies, which processes of their own are not.
        server.run(
            host=host,
            port=port,
            num_api_servers=1,
            api_server_worker_type="thread",
            generate_client_file=False,
            log_level="warning",
        )
    except RuntimeError as error:
        msg = f"The service did not start: {error}. The messages above say why."
        raise ValueError(msg) from error
    os._exit(0)  # the workers have ended; nothing ends LitServe's thread


def _stop(*_: object) -> None:
    """End the service as LitServe does when it is interrupted, and keep it from complaining of its own thread."""
    logging.getLogger("litserve").setLevel(logging.CRITICAL)
    raise KeyboardInterrupt
