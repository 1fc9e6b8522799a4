# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Tests of MultiCategory."""

import logging

import pytest
import torch
from anomalib import TaskType
from anomalib.data import BMAD, MPDD, VAD, AutoVI, BTech, Folder, MVTecAD, MVTecAD2, MVTecLOCO, RealIAD, Visa
from anomalib.data.datasets.image import visa
from anomalib.data.utils import ValSplitMode
from jsonargparse import Namespace
from omegaconf import DictConfig
from torchvision.transforms.v2 import Resize

from anomalib_clipzoo.data import MultiCategory, categories_of
from anomalib_clipzoo.data.multi_category import known_categories
from anomalib_clipzoo.data.nested import as_datamodule
from anomalib_clipzoo.data.toy import ToyAD


def test_joins_the_splits_of_all_categories(auxiliary_root):
    datamodule = MultiCategory(MVTecAD(auxiliary_root, eval_batch_size=5, num_workers=0))
    datamodule.setup()
    assert datamodule.categories == ["bottle", "cable", "own"]
    assert [len(getattr(datamodule, split)) for split in ("train_data", "val_data", "test_data")] == [18, 36, 36]
    batches = list(datamodule.test_dataloader())
    assert [len(batch) for batch in batches] == [5] * 7 + [1]
    for batch in batches:
        assert all(f"/{name}/" in path for name, path in zip(categories_of(batch), batch.image_path, strict=True))


def test_list_of_categories(auxiliary_root):
    datamodule = MultiCategory(MVTecAD(auxiliary_root), categories=["own", "bottle", "own"])
    datamodule.setup()
    assert datamodule.categories == ["own", "bottle"]
    assert set(datamodule.test_data.samples["category"]) == {"own", "bottle"}


def test_the_datamodule_inside_is_left_as_it_is(auxiliary_root):
    inner = MVTecAD(auxiliary_root, "bottle")
    inner.setup()
    before = inner.test_data
    datamodule = MultiCategory(inner, categories=["cable"])
    datamodule.setup()
    assert inner.category == "bottle"
    assert inner.test_data is before
    assert set(datamodule.test_data.samples["category"]) == {"cable"}


def test_data_that_were_set_up_before_do_not_linger(auxiliary_root):
    inner = MVTecAD(auxiliary_root, "bottle")
    inner.setup("fit")
    inner.val_split_mode = ValSplitMode.NONE
    datamodule = MultiCategory(inner, categories=["cable"])
    datamodule.setup()
    assert datamodule.val_dataloader() == []


def test_toy_categories_are_drawn_on_demand(tmp_path):
    datamodule = MultiCategory(ToyAD(tmp_path / "toy"), categories=["gear", "wood"])
    assert MultiCategory(ToyAD(tmp_path / "toy")).categories == list(ToyAD.CATEGORIES)
    datamodule.prepare_data()
    datamodule.setup()
    assert set(datamodule.test_data.samples["category"]) == {"gear", "wood"}
    with pytest.raises(ValueError, match="ToyAD has no category 'cog'"):
        MultiCategory(ToyAD(tmp_path / "toy"), categories=["cog"])


def test_takes_over_what_the_datamodule_says(auxiliary_root):
    inner = MVTecAD(auxiliary_root, train_batch_size=3, eval_batch_size=4, num_workers=1, augmentations=Resize((5, 5)))
    datamodule = MultiCategory(inner)
    assert (datamodule.train_batch_size, datamodule.eval_batch_size, datamodule.num_workers) == (3, 4, 1)
    datamodule.setup()
    assert datamodule.train_data[0].image.shape == (3, 5, 5)
    changed = MultiCategory(inner, train_batch_size=6, eval_batch_size=7, num_workers=0)
    assert (changed.train_batch_size, changed.eval_batch_size, changed.num_workers) == (6, 7, 0)


def test_validation_split_of_the_datamodule_is_kept(auxiliary_root):
    datamodule = MultiCategory(MVTecAD(auxiliary_root, val_split_mode="from_test", val_split_ratio=0.5))
    datamodule.setup()
    held_out, tested = (set(part.samples["image_path"]) for part in (datamodule.val_data, datamodule.test_data))
    assert len(held_out) == len(tested) == 18
    assert not held_out & tested
    again = MultiCategory(MVTecAD(auxiliary_root, val_split_mode="from_test", val_split_ratio=0.5))
    again.setup()
    assert set(again.val_data.samples["image_path"]) == held_out


def test_no_validation_split(auxiliary_root):
    datamodule = MultiCategory(MVTecAD(auxiliary_root, val_split_mode="none"))
    datamodule.setup()
    assert datamodule.val_dataloader() == []


@pytest.mark.parametrize("wrap", [dict, DictConfig, Namespace])
@pytest.mark.parametrize("class_path", ["MVTecAD", "anomalib.data.MVTecAD", "anomalib.data.datamodules.image.MVTecAD"])
def test_configuration_instead_of_a_datamodule(auxiliary_root, wrap, class_path):
    config = wrap({"class_path": class_path, "init_args": {"root": str(auxiliary_root), "train_batch_size": 2}})
    datamodule = MultiCategory(config)
    assert type(datamodule.data) is MVTecAD
    assert datamodule.train_batch_size == 2
    assert datamodule.categories == ["bottle", "cable", "own"]


def test_configuration_that_describes_nothing():
    with pytest.raises(ValueError, match=r"does not describe a datamodule.*NoSuchData"):
        as_datamodule({"class_path": "NoSuchData"})
    with pytest.raises(ValueError, match="nonsense"):
        as_datamodule({"class_path": "MVTecAD", "init_args": {"nonsense": 1}})


def test_unknown_category_is_refused_with_those_that_exist(auxiliary_root):
    with pytest.raises(ValueError, match=r"no category 'botle'.*There are: bottle, cable, own\."):
        MultiCategory(MVTecAD(auxiliary_root), categories=["bottle", "botle"])


def test_before_anything_is_on_disk_the_known_categories_count(tmp_path):
    datamodule = MultiCategory(Visa(tmp_path / "later"))
    assert datamodule.categories == list(visa.CATEGORIES)
    with pytest.raises(ValueError, match="There are: candle, capsules"):
        MultiCategory(Visa(tmp_path / "later"), categories=["bottle"])


def test_missing_known_categories_are_told(auxiliary_root, caplog):
    with caplog.at_level(logging.WARNING):
        MultiCategory(MVTecAD(auxiliary_root))
    assert "lacks 13 of 15 categories" in caplog.text


def test_categories_that_a_class_declares_can_be_made_on_demand(auxiliary_root):
    class Drawn(MVTecAD):
        CATEGORIES = ("cable", "wood")

    assert MultiCategory(Drawn(auxiliary_root)).categories == ["cable", "wood"]


def test_datamodule_without_category_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Folder takes no category"):
        MultiCategory(Folder(name="own", normal_dir=tmp_path))


def test_empty_choice_is_refused(auxiliary_root):
    with pytest.raises(ValueError, match="No categories are given"):
        MultiCategory(MVTecAD(auxiliary_root), categories=[])


def test_category_folder_without_images_is_named(auxiliary_root):
    (auxiliary_root / "empty" / "test").mkdir(parents=True)
    datamodule = MultiCategory(MVTecAD(auxiliary_root), categories=["bottle", "empty"])
    with pytest.raises(ValueError, match=r"category 'empty'.*Found 0 images"):
        datamodule.setup()


@pytest.mark.parametrize("cls", [MVTecAD, Visa, BTech, MPDD, RealIAD, VAD, MVTecAD2, MVTecLOCO, AutoVI, BMAD])
def test_categories_of_anomalibs_datasets_are_known(cls):
    assert len(known_categories(cls)) > 0


def test_name_is_a_folder_above_the_categories(auxiliary_root):
    assert MultiCategory(MVTecAD(auxiliary_root)).name == "auxiliary"
    assert MultiCategory(MVTecAD(auxiliary_root)).category == ""


class PartlyMasked(MVTecAD):
    """Category wood has no masks at all, one image of tile has lost its own."""

    def _setup(self, _stage=None) -> None:
        super()._setup(_stage)
        samples = self.test_data.samples
        if self.category == "wood":
            samples["mask_path"] = ""
            samples.attrs["task"] = TaskType.CLASSIFICATION.value
        else:
            samples.loc[samples.index[samples["label_index"] == 1][2], "mask_path"] = ""


@pytest.mark.parametrize("workers", [0, 2])
def test_images_without_masks_cost_no_other_image_its_own(target_root, caplog, workers):
    datamodule = MultiCategory(PartlyMasked(target_root), eval_batch_size=4, num_workers=workers)
    datamodule.setup()
    assert (
        caplog.text.count("7 anomalous test images have no mask and count in no pixel metric: tile (1), wood (6)") == 1
    )
    batches = list(datamodule.test_dataloader())
    assert [path for batch in batches for path in batch.image_path] == datamodule.test_data.samples[
        "image_path"
    ].tolist()
    assert max(map(len, batches)) == 4
    masked = [path for batch in batches if batch.gt_mask is not None for path in batch.image_path]
    assert len(masked) == 24 - 7
    assert all(batch.gt_label is not None for batch in batches)
    for batch in batches:
        assert batch.gt_mask is None or torch.equal(batch.gt_mask.flatten(1).any(dim=1), batch.gt_label.bool())


def test_where_nothing_has_masks_nothing_is_told(target_root, caplog):
    datamodule = MultiCategory(PartlyMasked(target_root), categories=["wood"], eval_batch_size=4, num_workers=0)
    datamodule.setup()
    assert "no mask" not in caplog.text
    assert [batch.gt_mask for batch in datamodule.test_dataloader()] == [None] * 3
