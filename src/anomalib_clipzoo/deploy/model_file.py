# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Which model is to score: what one process tells another that loads it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anomalib_clipzoo.deploy.metadata import files_of
from anomalib_clipzoo.deploy.scorer import EXPORTED, Scorer, identify, load_scorer
from anomalib_clipzoo.digests import digest


@dataclass(frozen=True)
class ModelFile:
    """A file that holds a model, and how it is to decide.

    Attributes:
        file: A checkpoint, learned weights or an exported file.
        device: "auto", "cpu" or "cuda".
        threads: Threads that one batch is scored with; ``None`` for all cores.
        threshold: Scores above it are anomalous, in place of the file's.
        pixel_threshold: Pixels of the map above it are anomalous, in place of the file's.
        category: Whose references images are compared with, where the file holds those of several categories.
    """

    file: str
    device: str = "auto"
    threads: int | None = None
    threshold: float | None = None
    pixel_threshold: float | None = None
    category: str | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.file).expanduser()

    @property
    def name(self) -> str:
        """The model's name, see :func:`~anomalib_clipzoo.deploy.scorer.identify`."""
        return identify(self.path)

    @property
    def accelerator(self) -> str:
        """Where it runs: exported files on the processor, unless told otherwise."""
        return "cpu" if self.device == "auto" and self.path.suffix in EXPORTED else self.device

    def load(self, device: str | None = None) -> Scorer:
        """Load it, onto another device if one is given."""
        scorer = load_scorer(self.file, device=device or self.accelerator, threads=self.threads, category=self.category)
        if self.threshold is not None:
            scorer.threshold = self.threshold
        if self.pixel_threshold is not None:
            scorer.pixel_threshold = self.pixel_threshold
        return scorer

    def record(self) -> dict[str, Any]:
        """Say in plain data what scores depend on."""
        chosen = {key: value for key, value in asdict(self).items() if key not in {"file", "device", "threads"}}
        files = files_of(self.path) if self.path.suffix in EXPORTED else [self.path]
        return {"model": self.name, "sha256": [digest(path) for path in files], **chosen}
