# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What the page does, without the page: load what was chosen, score what was dropped, draw what is looked at."""

from __future__ import annotations

import inspect
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import pandas as pd
from PIL import Image

from anomalib_clipzoo.clip.backbone import TOY
from anomalib_clipzoo.data.toy import ensure_category
from anomalib_clipzoo.deploy.answers import draw_overlay, to_answer
from anomalib_clipzoo.deploy.decoding import decode_image
from anomalib_clipzoo.deploy.scorer import EXPORTED, LEARNED, TORCH, Finding, Scorer, load_scorer, model_class
from anomalib_clipzoo.results.rows import LABELS

MOST_REFERENCES = 8
TOY_CATEGORY, TOY_DEFECTS = "leather", ("cut", "hole", "scratch", "stain")
COLUMNS = ["image", "score", "label", "threshold", "region_count", "peak_x", "peak_y", "width", "height", "problem"]
"""Of the table, under the names of those of ``predictions.csv``."""


@dataclass(frozen=True)
class Choice:
    """What to score with.

    Attributes:
        model: Name of the model's class.
        weights: A file, empty for none.
        backbone: An open_clip name or "toy", and after a comma its tag or file, if not the paper's.
        class_name: Words for what images show.
        references: Files of normal images to compare with.
    """

    model: str
    weights: str = ""
    backbone: str = TOY
    class_name: str = ""
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Looked:
    """An image that was scored, or could not be.

    Attributes:
        name: The file's name.
        image: RGB picture.
        finding: What was found, by the model's own thresholds.
        problem: Why it could not be read.
    """

    name: str
    image: Image.Image | None = None
    finding: Finding | None = None
    problem: str = ""


class Trial:
    """What the page does.

    Args:
        folder: Temporary folder.
        device: Where models run.
        most_pixels: Of one image.
    """

    def __init__(self, folder: Path, device: str, most_pixels: int) -> None:
        self.folder, self.device, self.most_pixels = folder, device, most_pixels
        self.load = lru_cache(maxsize=2)(self._load)

    def _load(self, choice: Choice) -> Scorer:
        """Load what was chosen, its references in a folder of their own.

        Raises:
            ValueError: If that cannot be done; the message says why.
        """
        kind = Path(choice.weights).suffix
        if kind in {TORCH, *EXPORTED}:
            if choice.references:
                msg = "An exported model takes no reference images: what it compares with is in it."
                raise ValueError(msg)
            return load_scorer(choice.weights, device=self.device)
        taken = inspect.signature(model_class(choice.model)).parameters
        arguments: dict = {}
        if kind not in LEARNED:  # which say what they were learned on
            name, _, pretrained = (part.strip() for part in choice.backbone.partition(","))
            arguments |= {"backbone": name, **({"pretrained": pretrained} if pretrained else {})}
        if choice.class_name and "class_name" in taken:
            arguments["class_name"] = choice.class_name
        if choice.references:
            arguments |= self._refer(choice, set(taken))
        return load_scorer(choice.weights or None, model=choice.model, device=self.device, **arguments)

    def _refer(self, choice: Choice, taken: set[str]) -> dict:
        if len(choice.references) > MOST_REFERENCES:
            msg = f"At most {MOST_REFERENCES} reference images, please."
            raise ValueError(msg)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        for number, path in enumerate(choice.references):
            self._decode(path).save(folder / f"{number}.png")
        if "few_shot_source" in taken:
            return {"few_shot_source": folder, "k_shot": len(choice.references)}
        if "pool_source" in taken:
            return {"pool_source": folder}
        msg = f"{choice.model} takes no reference images."
        raise ValueError(msg)

    def _decode(self, path: str) -> Image.Image:
        return decode_image(Path(path).read_bytes(), self.most_pixels, turn=True)

    def look(self, scorer: Scorer, paths: Sequence[str]) -> list[Looked]:
        """Score images."""
        return [self._look_at(scorer, path) for path in paths]

    def _look_at(self, scorer: Scorer, path: str) -> Looked:
        try:
            image = self._decode(path)
        except ValueError as error:
            return Looked(Path(path).name, problem=str(error))
        return Looked(Path(path).name, image, scorer.find([image])[0])

    def toy_images(self) -> tuple[list[str], list[str]]:
        """Draw toy images: some to score, every second of them good, and normal ones to compare them with."""
        folder, named = self.folder / "toy", self.folder / "toy_images"
        ensure_category(folder, TOY_CATEGORY)
        named.mkdir(exist_ok=True)

        def take(split: str, kind: str, number: int) -> str:
            source = folder / TOY_CATEGORY / split / kind / f"{number:03}.png"
            return shutil.copy(str(source), str(named / f"{split}_{kind}_{number}.png"))

        pairs = [(take("test", kind, 0), take("test", "good", number)) for number, kind in enumerate(TOY_DEFECTS)]
        return [path for pair in pairs for path in pair], [take("train", "good", number) for number in range(4)]


def decide(finding: Finding, threshold: float) -> Finding:
    """Decide by another threshold, for the image and for its pixels."""
    mask = None if finding.map is None else finding.map > threshold
    return replace(finding, label=LABELS[int(finding.score > threshold)], threshold=threshold, mask=mask)


def to_table(looked: Sequence[Looked], threshold: float) -> pd.DataFrame:
    """Make a table, a row for each image."""
    rows = []
    for one in looked:
        answer = to_answer(decide(one.finding, threshold)) if one.finding else {}
        rows.append({"image": one.name, "problem": one.problem, **answer})
    return pd.DataFrame(rows, columns=COLUMNS)


def draw(one: Looked, opacity: float, threshold: float) -> Image.Image | None:
    """Draw an image's heatmap and regions over it."""
    if one.image is None or one.finding is None:
        return None
    return draw_overlay(one.image, decide(one.finding, threshold), opacity)
