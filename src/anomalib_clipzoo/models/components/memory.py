# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Features of images that a model keeps and compares others with: when they are drawn, and how they stay."""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from anomalib_clipzoo.anomaly.references import ImageMemory, Reference, choose_references, images_by_category
from anomalib_clipzoo.results.images import read_pixels

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

    @property
    def memory_record(self) -> dict[str, Any]:
        """Say in plain data which images there are features of, and what these take."""
        if not len(self.memory):
            return {}
        paths = {(image.category, image.path) for image in self.memory.images}
        categories = [category for category in self.memory.categories if category]
        return {"images": len(paths), "categories": categories, "megabytes": round(self.memory.megabytes, 3)}

    def prepare(self, datamodule: Any) -> None:
        """See to the images that a run or an export needs, or say before it starts that it cannot.

        Args:
            datamodule: The run's datamodule; ``None`` where there is none.
        """
        raise NotImplementedError

    def on_validation_start(self) -> None:
        """See to the memory, before the thresholds are fitted."""
        self.prepare(getattr(self.trainer, "datamodule", None))

    def on_test_start(self) -> None:
        """See to the memory, which comes after a checkpoint was restored, and before the first batch."""
        super().on_test_start()
        self._prepare_for_thresholds(getattr(self.trainer, "datamodule", None))

    on_predict_start = on_test_start

    def prepare_export(self) -> None:
        """See to the images that an exported model needs."""
        super().prepare_export()
        self._prepare_for_thresholds(None)

    def _prepare_for_thresholds(self, datamodule: Any) -> None:
        """See to the memory, and say so if scores become others than those that the thresholds were fitted on."""
        before = self.memory.images
        self.prepare(datamodule)
        if self.memory.images != before and getattr(self.post_processor, "provenance", None):
            logger.warning(
                "The thresholds were fitted before these images were in the %s, and scores are others with them: "
                "labels may be wrong. Fit thresholds with them (anomalib train, with these arguments and a dataset), "
                "or go by the order of the scores.",
                self.MEMORY,
            )

    @property
    def turns(self) -> tuple[int, ...]:
        """Degrees by which each image is turned before it is remembered: not at all, unless a model says otherwise."""
        return (0,)

    def draw(self, category: str | None, paths: Sequence[str], count: int) -> None:
        """Choose a category's images and remember them, unless they are those that it has.

        Raises:
            ValueError: If there are too few, or one cannot be read.
        """
        chosen = choose_references(paths, count, self.hparams["seed"], category)
        images = [Reference(category, path, turn) for path in chosen for turn in self.turns]
        if images == self.memory.of(category):
            return
        logger.info("Images in the %s of %s: %s", self.MEMORY, category or "any category", ", ".join(chosen))
        self.model.remember(torch.cat([self._read(image) for image in images]), images)
        logger.info("Features of the %s take %.1f MB in memory and in files.", self.MEMORY, self.memory.megabytes)

    def _read(self, reference: Reference) -> torch.Tensor:
        """Read an image ``(1, 3, H, W)``, of any size and colour mode, and pre-process it as those of a batch are."""
        try:
            image = read_pixels(reference.path)[None]
        except ValueError as error:
            msg = f"{reference.path} is to be in the {self.MEMORY}, but {error}. Replace it or leave it out."
            raise ValueError(msg) from error
        return self.pre_process(image.rot90(reference.turn // 90, dims=(-2, -1)).to(self.device))

    def pre_process(self, images: torch.Tensor) -> torch.Tensor:
        """Bring images ``(B, 3, H, W)``, 0..1, to what the torch model takes, as the loops do with their batches."""
        transform = getattr(self.pre_processor, "transform", self.pre_processor)
        return transform(images) if transform else images

    def as_in_loop(self, images: torch.Tensor) -> torch.Tensor:
        """Bring images as they were read to device, pre-processing and precision of the trainer's loops."""
        return self.trainer.precision_plugin.convert_input(self.pre_process(images.to(self.device)))

    # ---- what is kept ----

    def _restore(self, learned: LearnedWeights) -> None:
        """Make room for what a file holds of images, then take over what it says.

        A memory that the file holds no image of, as those of the papers' code, stays as it is, and so does one that is
        to be filled anew with other features.
        """
        for prefix, memory in self._memories.items():
            unfit = self.draws_anew and not memory.fits(learned.state, prefix)
            if unfit or not memory.is_filled_by(learned.state, prefix):
                for name in [name for name in learned.state if name.startswith(prefix)]:
                    del learned.state[name]
                learned.state.update(memory.state_dict(prefix=prefix))
            memory.make_room(learned.state, prefix)
        super()._restore(learned)

    @property
    def draws_anew(self) -> bool:
        """Whether images are chosen where a file's are not those that are wanted."""
        return False

    @property
    def _memories(self) -> dict[str, ImageMemory]:
        """All that grows with the number of images, by its prefix in state dicts."""
        return {f"{name}.": module for name, module in self.named_modules() if isinstance(module, ImageMemory)}


def shown_categories(target: Any, otherwise: str | None = None) -> list[str | None]:
    """Return the categories of a datamodule's test images, or one where there is no datamodule."""
    dataset = getattr(target, "test_data", None)
    return [otherwise] if dataset is None else list(images_by_category(dataset, target.category, normal_only=False))
