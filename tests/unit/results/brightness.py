# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""An anomalib model of no weights, for runs of milliseconds, and images for it."""

from pathlib import Path

import numpy as np
import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.engine import Engine
from anomalib.models import AnomalibModule
from PIL import Image

SQUARE = (10, 20, 8, 4)
"""Where the bright square of an anomalous image is: left, upper, width, height."""


class Brightness(AnomalibModule):
    """Half the brightness is the score: images and pixels above 0.5 of it are anomalous."""

    def __init__(self, evaluator=False, pre_processor=False, **arguments) -> None:
        super().__init__(evaluator=evaluator, pre_processor=pre_processor, **arguments)
        self.model = torch.nn.Identity()

    def test_step(self, batch, *args, **kwargs):
        maps = batch.image.mean(1)
        return batch.update(**InferenceBatch(pred_score=maps.amax((1, 2)), anomaly_map=maps)._asdict())

    validation_step = predict_step = test_step

    def training_step(self, *args, **kwargs):
        raise NotImplementedError

    @property
    def trainer_arguments(self):
        return {}

    @property
    def learning_type(self):
        return LearningType.ONE_CLASS


def write_image(path: Path, brightness: float | None = None, size: tuple[int, int] = (48, 40)) -> None:
    """Write a grey image, with a square of a brightness (0..1) where one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), 51, dtype=np.uint8)
    if brightness is not None:
        x, y, width, height = SQUARE
        pixels[y : y + height, x : x + width] = round(brightness * 255)
    Image.fromarray(pixels).save(path)


def engine_in(folder: Path, *callbacks, **arguments) -> Engine:
    """Return an engine that is quiet and leaves its results below a folder."""
    options = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "logger": False, **arguments}
    return Engine(callbacks=list(callbacks), default_root_dir=folder, **options)
