# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""A model of anomalib that costs nothing, to see what anomalib does with models of any kind."""

from pathlib import Path

import torch
from anomalib import LearningType
from anomalib.data import Batch
from anomalib.models import AnomalibModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader


class CountsItsSteps(AnomalibModule):
    """Learns how many steps it has been trained for, and remembers how many it had when it was tested."""

    def __init__(self, visualizer: bool = False) -> None:
        super().__init__(pre_processor=False, post_processor=False, evaluator=False, visualizer=visualizer)
        self.model = torch.nn.Linear(1, 1)
        self.register_buffer("steps", torch.zeros(()))
        self.tested_after = None

    def training_step(self, batch: Tensor) -> Tensor:
        self.steps += 1
        return self.model(batch).sum()

    def validation_step(self, batch: object) -> None:
        pass

    def test_step(self, batch: object) -> None:
        self.tested_after = int(self.steps)

    def predict_step(self, batch: Batch) -> Batch:
        size = batch.image.shape[-2:]
        return batch.update(anomaly_map=torch.zeros(len(batch.image), *size), pred_score=torch.zeros(len(batch.image)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=0.1)

    @property
    def learning_type(self) -> LearningType:
        return LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict:
        return {"num_sanity_val_steps": 0}


def loader(steps: int = 3) -> DataLoader:
    return DataLoader(torch.ones(steps, 1))


def draw(folder: Path, *names: str) -> Path:
    """Draw images of different greys into a folder."""
    for grey, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (40 * grey,) * 3).save(path)
    return folder
