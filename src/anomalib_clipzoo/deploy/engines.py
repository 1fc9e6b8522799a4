# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Two ways through a store of images: processes of this machine, and Ray Data on one machine or many."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from threading import Thread
from typing import Any

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from anomalib_clipzoo.deploy.model_file import ModelFile
from anomalib_clipzoo.deploy.store import SCHEMA, ImageStore, ReadyImage, Table, make_ready, score_images

IMAGES_PER_BLOCK = 256
"""So many images are read by one task of Ray."""


class ReadyImages(Dataset):
    """Images of a store, made ready for a model.

    Args:
        store: Where they are.
        names: Which of them.
        size: The model's size.
    """

    def __init__(self, store: ImageStore, names: Sequence[str], size: tuple[int, int] | None) -> None:
        self.store, self.names, self.size = store, names, size

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    def __getitem__(self, index: int) -> ReadyImage:
        """Read one."""
        return self.store.read(self.names[index], self.size)


def score_here(
    model: ModelFile, store: ImageStore, table: Table, names: Sequence[str], batch_size: int, workers: int
) -> None:
    """Score images in this process, while others read them.

    Args:
        model: What scores.
        store: Where the images are.
        table: Where the rows go.
        names: Which images.
        batch_size: Images that are scored at once.
        workers: Processes that read.
    """
    scorer = model.load()
    images = ReadyImages(store, names, scorer.image_size)
    # Connections to object stores do not outlive a fork.
    start = "spawn" if workers and store.is_remote else None
    loader = DataLoader(
        images,
        batch_size,
        num_workers=workers,
        collate_fn=list,
        multiprocessing_context=start,
        worker_init_fn=partial(_end_with, os.getpid()),
    )
    with tqdm(total=len(store.names), initial=len(store.names) - len(names), unit="images") as progress:
        for batch in loader:
            table.append(score_images(scorer, batch))
            progress.update(len(batch))
    table.flush()


def _end_with(parent: int, worker: int) -> None:
    """End this process when its parent does: one that is killed would leave it waiting for ever."""
    del worker

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


class ScoringActor:
    """A process of Ray that holds the model.

    Args:
        model: What scores.
        store: Where the images are.
    """

    def __init__(self, model: ModelFile, store: ImageStore) -> None:
        self.scorer, self.store = model.load(), store

    def __call__(self, batch: Any) -> Any:
        """Score a batch, a table of Arrow with the columns ``path`` and ``bytes``."""
        import pyarrow as pa

        images = [
            make_ready(self.store.to_name(row["path"]), row["bytes"], self.scorer.image_size, self.store.most_pixels)
            for row in batch.to_pylist()
        ]
        return pa.Table.from_pylist(score_images(self.scorer, images), SCHEMA)


def score_with_ray(
    model: ModelFile,
    store: ImageStore,
    table: Table,
    names: Sequence[str],
    batch_size: int,
    actors: int | None,
    address: str | None,
) -> None:
    """Score images with Ray Data.

    Args:
        model: What scores; each machine must have the file at this path.
        store: Where the images are; each machine must reach it.
        table: Where the rows go; each machine must reach it.
        names: Which images.
        batch_size: Images that are scored at once.
        actors: Processes that hold the model.
        address: Of a cluster that runs; by default, one is started for this run.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray sends statistics unless told otherwise
    ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        machines = ray.cluster_resources()
        gpus, cores = machines.get("GPU", 0), machines.get("CPU", 1)
        on_gpu = gpus > 0 and model.accelerator != "cpu"
        actors = actors or (int(gpus) if on_gpu else 1)
        images = ray.data.read_binary_files(
            [store.to_place(name) for name in names],
            filesystem=store.files,
            include_paths=True,
            ignore_missing_paths=True,
            override_num_blocks=max(actors, math.ceil(len(names) / IMAGES_PER_BLOCK)),
        )
        rows = images.map_batches(
            ScoringActor,
            fn_constructor_args=(replace(model, device="cuda" if on_gpu else "cpu"), store.without_names()),
            batch_size=batch_size,
            batch_format="pyarrow",
            concurrency=actors,
            num_gpus=min(1, gpus / actors) if on_gpu else 0,
            num_cpus=max(0.1, min(1, (cores - 1) / actors)),  # a core is left for reading
        )
        rows.write_parquet(table.folder, filesystem=table.files)
    finally:
        ray.shutdown()
