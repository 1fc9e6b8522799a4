# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Features of images that a model keeps and compares others with: when they are drawn, and how they stay."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from anomalib.data.utils import read_image

from anomalib_clipzoo.anomaly.references import ImageMemory, Reference, choose_references, images_by_category

from .module import ClipZooModule
from .weights import LearnedWeights

logger = logging.getLogger(__name__)


class MemoryModule(ClipZooModule):
    """Mixin for models that keep features of images, see :class:`ClipZooModule`.

    The torch model has a memory (:class:`~anomalib_clipzoo.anomaly.references.ImageMemory`) and ``remember(images,
    references)``, which fills it. :meth:`prepare` says which images these are. They are kept with checkpoints and
    weights, so that predicting and exporting need no images.
    """

    MEMORY: ClassVar[str] = "references"  # where the torch model has it, and what it is called in messages

    @property
    def memory(self) -> ImageMemory:
        """The torch model's memory."""
        return getattr(self.model, self.MEMORY)

    def prepare(self, datamodule: Any) -> None:
        """See to the images that a run or an export needs, or say before it starts that it cannot.

        Args:
            datamodule: The run's datamodule; ``None`` where there is none.
        """
        raise NotImplementedError

    def on_test_start(self) -> None:
        """See to the memory, which comes after a checkpoint was restored, and before the first batch."""
        self.prepare(getattr(self.trainer, "datamodule", None))

    on_validation_start = on_predict_start = on_test_start

    def prepare_export(self) -> None:
        """See to the images that an exported model needs."""
        self.prepare(None)

    def to_torch(self, *args: Any, **kwargs: Any) -> Path:
        """Export the model in PyTorch's format, with its memory, see anomalib."""
        self.prepare_export()
        return super().to_torch(*args, **kwargs)

    def to_onnx(self, *args: Any, **kwargs: Any) -> Path:  # type: ignore[override]
        """Export the model in ONNX's format, with its memory, see anomalib."""
        self.prepare_export()
        return super().to_onnx(*args, **kwargs)

    def draw(self, category: str | None, paths: Sequence[str], count: int) -> None:
        """Choose a category's images and remember them, unless they are those that it has."""
        chosen = choose_references(paths, count, self.hparams["seed"], category)
        if chosen == self.memory.paths(category):
            return
        logger.info("Images in the %s of %s: %s", self.MEMORY, category or "any category", ", ".join(chosen))
        images = torch.cat([self._read(path) for path in chosen])
        self.model.remember(images, [Reference(category, path) for path in chosen])

    def _read(self, path: str) -> torch.Tensor:
        """Read an image ``(1, 3, H, W)`` and pre-process it as the images of a batch are."""
        image = torch.as_tensor(read_image(path, as_tensor=True))[None].to(self.device)
        return self.pre_process(image)

    def pre_process(self, images: torch.Tensor) -> torch.Tensor:
        """Bring images ``(B, 3, H, W)``, 0..1, to what the torch model takes, as the loops do with their batches."""
        transform = getattr(self.pre_processor, "transform", self.pre_processor)
        return transform(images) if transform else images

    def as_in_loop(self, images: torch.Tensor) -> torch.Tensor:
        """Bring images as they were read to device, pre-processing and precision of the trainer's loops."""
        return self.trainer.precision_plugin.convert_input(self.pre_process(images.to(self.device)))

    # ---- what is kept ----

    def load_weights(self, learned: LearnedWeights) -> None:
        """Fill the model with learned weights; the papers' checkpoints hold no memory and leave it as it is."""
        if not learned.record:
            own = {name: value for name, value in self.state_dict().items() if name.startswith(tuple(self._memories))}
            learned = replace(learned, state={**own, **learned.state})
        super().load_weights(learned)

    def _restore(self, learned: LearnedWeights) -> None:
        """Make room for what a file holds of images, then take over what it says."""
        for prefix, memory in self._memories.items():
            memory.make_room(learned.state, prefix)
        super()._restore(learned)

    @property
    def _memories(self) -> dict[str, ImageMemory]:
        """All that grows with the number of images, by its prefix in state dicts."""
        return {f"{name}.": module for name, module in self.named_modules() if isinstance(module, ImageMemory)}


def shown_categories(target: Any, otherwise: str | None = None) -> list[str | None]:
    """Return the categories of a datamodule's test images, or one where there is no datamodule."""
    dataset = getattr(target, "test_data", None)
    return [otherwise] if dataset is None else list(images_by_category(dataset, target.category, normal_only=False))
