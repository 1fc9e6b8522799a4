# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Learn on one dataset, test on another: the protocol of zero-shot anomaly detection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import torch
from anomalib.data import AnomalibDataModule, Folder, Tabular
from anomalib.data.utils import LabelName, ValSplitMode
from jsonargparse import Namespace
from torchvision.transforms.v2 import Transform

from anomalib_clipzoo.data.alike import warn_of_missing_masks
from anomalib_clipzoo.data.category import CategoryDataset
from anomalib_clipzoo.data.checks import check_annotations, check_disjoint, check_files
from anomalib_clipzoo.data.mosaic import MosaicDataset, MosaicOf
from anomalib_clipzoo.data.nested import NestedDataModule, as_datamodule, fresh_copy, set_up
from anomalib_clipzoo.data.seeding import DEFAULT_SEED


class CrossDataset(NestedDataModule):
    """Learn on auxiliary datasets' annotated images, test on a target whose categories were never seen.

    =========== =========================================================================================
    split       images
    =========== =========================================================================================
    train       the auxiliary datasets' *test* images, normal and anomalous, with masks
    validation  a part of them that is held out, equally from every category and label; thresholds come from here
    test        the target's test images; the target's labels are used for nothing else
    =========== =========================================================================================

    Both sides may be a :class:`~anomalib_clipzoo.data.MultiCategory`. Their batch sizes, workers, augmentations and
    validation splits do not matter.

    Attributes:
        auxiliary: The auxiliary datamodules.
        target: The target datamodule. After ``setup``, ``target.train_data`` are its normal training images, for
            models that take a few of them as references.

    Args:
        auxiliary: Datamodule to learn from, or several, or their configurations
            ``{"class_path": ..., "init_args": {...}}``.
        target: Datamodule to test on, or its configuration.
        validation_split: Part of the auxiliary images that is held out, in 0..1 (excluded). At 0 all are learned from
            and there is no validation: thresholds stay at 0.5.
        allow_overlap: Whether auxiliary and target may share images.
        mosaic: Probability that a training image is replaced by a mosaic of four of its category, see
            :class:`~anomalib_clipzoo.data.mosaic.MosaicDataset`; one for all auxiliary datamodules, or one for each.
            VCP-CLIP's, AdaCLIP's and APRIL-GAN's codes have 0.2 for MVTec AD, and none for other datasets.
        mosaic_of: What mosaics show: ``"anomalous"`` images alone, and a mosaic is anomalous (VCP-CLIP); ``"any"``,
            under the label of the image that they replace (AdaCLIP); or images of random ``"folders"``, a kind of
            defect as likely as good (APRIL-GAN).
        train_batch_size: Images per training batch.
        eval_batch_size: Images per validation and test batch.
        num_workers: Processes that read images.
        train_augmentations: Transform of training images and masks.
        val_augmentations: Transform of validation images and masks.
        test_augmentations: Transform of test images and masks.
        augmentations: Transform of those splits that have none of their own.
        seed: Seed of the held-out part, the same in every process and run. Together with ``seed_everything``, seed of
            the training images' order, mosaics and augmentations too.

    Raises:
        ValueError: If ``validation_split`` or ``mosaic`` is out of range or no auxiliary datamodule is given; and from
            ``setup``, if the auxiliary data have no anomalies or lack masks, if files cannot be read, if a mask has
            another size than its image, or if auxiliary and target share images.

    Example:
        >>> from anomalib.data import MVTecAD, Visa
        >>> datamodule = CrossDataset(auxiliary=MultiCategory(Visa()), target=MVTecAD(category="bottle"))
    """

    def __init__(
        self,
        auxiliary: AnomalibDataModule | list[AnomalibDataModule],
        target: AnomalibDataModule,
        validation_split: float = 0.1,
        allow_overlap: bool = False,
        mosaic: float | list[float] = 0.0,
        mosaic_of: MosaicOf = "anomalous",
        train_batch_size: int = 8,
        eval_batch_size: int = 8,
        num_workers: int = 4,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        seed: int = DEFAULT_SEED,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            seed=seed,
        )
        if not 0 <= validation_split < 1:
            msg = f"validation_split is a part of the auxiliary images, at least 0 and below 1, not {validation_split}."
            raise ValueError(msg)
        parts = [auxiliary] if isinstance(auxiliary, (AnomalibDataModule, Mapping, Namespace)) else auxiliary
        self.auxiliary = [_whole(part) for part in parts]
        if not self.auxiliary:
            msg = "CrossDataset needs at least one auxiliary datamodule to learn from."
            raise ValueError(msg)
        self.target = _whole(target)
        self.category = self.target.category
        self.validation_split = validation_split
        self.allow_overlap = allow_overlap
        self.mosaic = self._mosaic_rates(mosaic)
        if mosaic_of not in get_args(MosaicOf):
            msg = f"mosaic_of is one of {', '.join(map(repr, get_args(MosaicOf)))}, not {mosaic_of!r}."
            raise ValueError(msg)
        self.mosaic_of = mosaic_of

    def _mosaic_rates(self, mosaic: float | Sequence[float]) -> list[float]:
        """Check the probabilities, and give each auxiliary datamodule one."""
        rates = list(mosaic) if isinstance(mosaic, Sequence) else [mosaic] * len(self.auxiliary)
        if len(rates) != len(self.auxiliary) or not all(0 <= rate <= 1 for rate in rates):
            msg = f"mosaic is a probability, 0 to 1, or one for each of {len(self.auxiliary)} auxiliary datamodules, "
            msg += f"not {mosaic}."
            raise ValueError(msg)
        return rates

    @property
    def name(self) -> str:  # type: ignore[override]
        """The target's name: results are filed under what was tested on."""
        return self.target.name

    def prepare_data(self) -> None:
        """Let all datamodules download or draw what they need."""
        for datamodule in (*self.auxiliary, self.target):
            datamodule.prepare_data()

    def _setup(self, _stage: str | None = None) -> None:
        """Read and check both sides, and hold out the validation part."""
        annotated = self._annotated_images()
        set_up(self.target)
        self.test_data = CategoryDataset([self.target.test_data], [_shown_by(self.target)])
        check_files(annotated.samples)
        check_files(self.test_data.samples)
        warn_of_missing_masks(self.test_data)
        if not self.allow_overlap:
            check_disjoint(annotated.samples["image_path"], self._target_images())
        self._split(annotated)

    def _annotated_images(self) -> CategoryDataset:
        """Join the auxiliary datasets' test images."""
        datasets = []
        for datamodule in self.auxiliary:
            dataset = set_up(datamodule).test_data
            check_annotations(dataset.samples, datamodule.name)
            known = dataset.samples["label_index"] != LabelName.UNKNOWN
            datasets.append(dataset.subsample(known.to_numpy().nonzero()[0].tolist()))
        return CategoryDataset(datasets, [_shown_by(datamodule) for datamodule in self.auxiliary])

    def _target_images(self) -> list[str]:
        """Paths of all images of the target, those for references included."""
        return [*self.target.test_data.samples["image_path"], *self.target.train_data.samples["image_path"]]

    def _split(self, annotated: CategoryDataset) -> None:
        """Hold out the validation part, equally from every category and label."""
        held_out = self._held_out(annotated) if self.validation_split else []
        learned = annotated.subsample(sorted(set(range(len(annotated))) - set(held_out)))
        if any(self.mosaic):
            learned = MosaicDataset(learned, self.mosaic, self.mosaic_of)  # type: ignore[arg-type]
        self.train_data = learned
        if self.validation_split == 0:
            return
        self.val_data = annotated.subsample(held_out)
        if not (self.val_data.has_anomalous and self.val_data.has_normal):
            msg = f"The auxiliary data are too few to hold out {self.validation_split:.0%} of them: validation needs "
            msg += "normal and anomalous images, at least two of each. Pass validation_split=0 to do without it."
            raise ValueError(msg)

    def _held_out(self, annotated: CategoryDataset) -> list[int]:
        """Rows to hold out: of every group the rounded part, at least one, and never all of it."""
        generator = torch.Generator().manual_seed(self.seed or DEFAULT_SEED)
        samples = annotated.samples.assign(category=annotated.samples["category"].fillna(""))
        rows: list[int] = []
        for _, group in samples.groupby(["dataset", "category", "label_index"]):
            count = min(max(1, round(len(group) * self.validation_split)), len(group) - 1)
            order = torch.randperm(len(group), generator=generator)
            rows.extend(group.index[order[:count].numpy()])
        return sorted(rows)


def _whole(datamodule: AnomalibDataModule) -> AnomalibDataModule:
    """Copy of a datamodule that gives up none of its test images for validation, and leaves checks to this one."""
    return fresh_copy(as_datamodule(datamodule), val_split_mode=ValSplitMode.NONE, checks_files=False)


def _shown_by(datamodule: AnomalibDataModule) -> str | None:
    """Name what a datamodule's images show: its category, or the name that the user gave to images of their own.

    The papers' code calls what is on medical images by the name of the dataset, too.
    """
    return datamodule.category or (datamodule.name if isinstance(datamodule, (Folder, Tabular)) else None)
