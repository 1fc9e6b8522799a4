# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The subcommand ``clipzoo score``: a whole store of images, to a table in parts."""

from __future__ import annotations

from importlib import import_module
from typing import Literal

from .limits import MOST_PIXELS

UNREADABLE = 3
"""Exit status where some images could not be read, as of ``anomalib predict``."""


def score(
    file: str,
    images: str,
    output: str,
    engine: Literal["local", "ray"] = "local",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int = 2,
    threads: int | None = None,
    batch_size: int = 16,
    rows_per_part: int = 1000,
    actors: int | None = None,
    ray_address: str | None = None,
    threshold: float | None = None,
    pixel_threshold: float | None = None,
    category: str | None = None,
    max_pixels: int = MOST_PIXELS,
) -> int:
    """Score all images of a folder or an object store, in memory that does not grow with their number.

    The folder OUTPUT gets Parquet files of some rows each, one row for an image, with score, label, threshold, regions,
    and the reason where an image could not be read. A run that was stopped goes on where it was when the same command
    is typed again; images that came since are scored as well. Needs the extra "parquet"; "ray" for several machines.

    Args:
        file: The model: a checkpoint (.ckpt), learned weights (.safetensors) or an exported file (.onnx, .xml, .pt).
        images: A folder, also one of an object store (s3://bucket/folder), a pattern such as photos/*.png, or an image.
        output: A folder for the table, also one of an object store.
        engine: This machine alone, or Ray Data on one or many machines.
        device: Where PyTorch runs a model; exported files run on the processor.
        workers: Processes that read and resize images, of the engine "local".
        threads: Threads that the model runs with.
        batch_size: So many images are scored at once.
        rows_per_part: Images in one file of the table; a stopped run loses at most these.
        actors: Processes that each hold the model, of the engine "ray". [as many as there are GPUs, else 1]
        ray_address: Of a Ray cluster; by default, one is started on this machine for this run.
        threshold: Scores above it are anomalous, 0..1, in place of the file's.
        pixel_threshold: Pixels of the map above it are anomalous, 0..1, in place of the file's.
        category: Whose references images are compared with, where a file holds those of several categories.
        max_pixels: Larger images are not read.

    Returns:
        The exit status: 3 if some images could not be read.
    """
    from anomalib_clipzoo.deploy.extras import needs

    with needs("parquet"):
        import_module("pyarrow")
    if engine == "ray":
        with needs("ray"):
            import_module("ray.data")
    from anomalib_clipzoo.deploy import engines
    from anomalib_clipzoo.deploy.model_file import ModelFile
    from anomalib_clipzoo.deploy.store import ImageStore, Table

    model = ModelFile(file, device, threads, threshold, pixel_threshold, category)
    store, table = ImageStore(images, max_pixels), Table(output, rows_per_part)
    table.begin(model.record())
    missing = table.missing(store.names)
    if missing and engine == "ray":
        engines.score_with_ray(model, store, table, missing, batch_size, actors, ray_address)
        missing = table.missing(store.names)  # what vanished meanwhile is not among what Ray read
    if missing:
        engines.score_here(model, store, table, missing, batch_size, workers)
    summary = table.summary(store.names)
    print(f"{summary}\nThe table is in {output}.")  # noqa: T201
    return UNREADABLE if summary.unreadable else 0
