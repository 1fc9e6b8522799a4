# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Which normal images are a model's references."""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from anomalib import LearningType

from anomalib_clipzoo.anomaly.references import Candidates, images_by_category, images_in_folder
from anomalib_clipzoo.data.checks import shared_images, shortened

from .memory import MemoryModule, shown_categories

logger = logging.getLogger(__name__)

QUARTERS = (0, 90, 180, 270)
OF_THE_CHOICE = frozenset({"few_shot_source", "rotate_references", "allow_overlap"})
"""Arguments that say how references are chosen, and nothing where none are."""


class FewShotModule(MemoryModule):
    """Mixin for models that compare images with a few normal ones, see :class:`MemoryModule`.

    These are ``k_shot`` normal ones of each category of the target, from ``few_shot_source`` or the datamodule's normal
    training images. The torch model's memory is called ``references``.
    """

    OF_THE_RUN: ClassVar[frozenset[str]] = MemoryModule.OF_THE_RUN | OF_THE_CHOICE | {"k_shot"}

    borrowed: tuple[str | None, ...] = ()  # categories whose references serve the validation alone

    @property
    def turns(self) -> tuple[int, ...]:
        """Degrees by which references are turned."""
        return QUARTERS if self.hparams["rotate_references"] else super().turns

    @property
    def draws_anew(self) -> bool:
        """Whether references are chosen where a file's are not those that are wanted."""
        return self.hparams["k_shot"] > 0

    def context(self, categories: Sequence[str | None]) -> dict[str, Any]:
        """Return what the torch model takes beside images: what they show, and whose references they go with."""
        if not len(self.model.references):
            return super().context(categories)
        compared = self.model.references.resolve(categories)
        shown = [category or other for category, other in zip(categories, compared, strict=True)]
        return {**super().context(shown), "categories": categories}

    @property
    def learning_type(self) -> LearningType:
        """``FEW_SHOT`` with reference images where there is nothing to train."""
        few_shot = self.hparams["k_shot"] or len(self.model.references)
        return LearningType.FEW_SHOT if few_shot and not self.learns else super().learning_type

    def forward(self, batch: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Pre-process images ``(B, 3, H, W)``, 0..1, detect anomalies, post-process scores and maps."""
        self._check_references()
        return super().forward(batch, *args, **kwargs)

    def on_validation_start(self) -> None:
        """See to the references, also those of validation images that show something else than test images."""
        super().on_validation_start()
        self.borrowed = self._borrow_references(getattr(self.trainer, "datamodule", None))

    def on_validation_end(self) -> None:
        """Drop the references that served the validation alone."""
        self.model.references.forget(self.borrowed)
        super().on_validation_end()

    # ---- which images ----

    def prepare(self, datamodule: Any) -> None:
        """Choose the references that a run needs, unless they are there, or say before it starts that it cannot."""
        target = getattr(datamodule, "target", datamodule)  # CrossDataset: references are the target's
        k_shot = self.hparams["k_shot"]
        if not k_shot and (idle := [name for name in sorted(OF_THE_CHOICE) if self.hparams[name]]):
            logger.warning("%s given, but k_shot is 0: no references are chosen.", " and ".join(idle))
        if k_shot and not self._has_references(target):
            for category, paths in self._candidates(target).items():
                self.draw(category, paths, k_shot)
        self._check_references()
        if len(self.model.references):
            self.model.references.resolve(shown_categories(target, self.category))

    def _borrow_references(self, datamodule: Any) -> tuple[str | None, ...]:
        """Draw references for validation images of other categories than the target's, and return these categories.

        :class:`~anomalib_clipzoo.data.CrossDataset` validates on its auxiliary data.
        """
        memory = self.model.references
        if not len(memory) or getattr(datamodule, "target", None) is None or None in memory.categories:
            return ()
        count = len(memory.paths(memory.categories[0]))
        shown = images_by_category(datamodule.val_data, None, normal_only=False)
        known = images_by_category(datamodule.train_data, None)
        missing = [category for category in shown if category not in memory.categories]
        for category in missing:
            self.draw(category, known.get(category, []), count)
        return tuple(missing)

    def _has_references(self, target: Any) -> bool:
        """Tell whether a checkpoint or weights brought as many references as wanted of all that the run needs."""
        memory, k_shot = self.model.references, self.hparams["k_shot"]
        if not memory.restored or not len(memory):
            return False
        for category in memory.categories:
            images = memory.of(category)
            if len(images) != k_shot * len(self.turns) or {image.turn for image in images} != set(self.turns):
                return False
        return None in memory.categories or set(shown_categories(target)) <= {*memory.categories, None}

    def _candidates(self, target: Any) -> Candidates:
        """List the images that references are chosen from."""
        if source := self.hparams["few_shot_source"]:
            candidates = images_in_folder(source, shown_categories(target))
            if not self.hparams["allow_overlap"]:
                self._check_unseen(candidates, target)
            return candidates
        dataset = getattr(target, "train_data", None)
        return {} if dataset is None else images_by_category(dataset, target.category)

    @staticmethod
    def _check_unseen(candidates: Candidates, target: Any) -> None:
        """Make sure that references are chosen from images that the model is not tested on."""
        tested = getattr(target, "test_data", None)
        if tested is None:
            return
        sources = [path for paths in candidates.values() for path in paths]
        if shared := shared_images(sources, tested.samples["image_path"]):
            msg = f"{len(shared)} images in few_shot_source are test images too, which would look perfectly normal; "
            msg += f"choose others, or pass allow_overlap=True:\n{shortened(shared)}"
            raise ValueError(msg)

    def _check_references(self) -> None:
        k_shot = self.hparams["k_shot"]
        if k_shot and not len(self.model.references):
            msg = (
                f"k_shot={k_shot} needs reference images: give few_shot_source (a folder of normal images), run "
                "with a datamodule that has normal training images, or give the weights of such a run."
            )
            raise ValueError(msg)
