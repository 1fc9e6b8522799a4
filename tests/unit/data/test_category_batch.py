# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Tests of items and batches that know their category."""

import pickle

import pytest
import torch
from anomalib.data import ImageBatch, MVTecAD
from anomalib.visualization import ImageVisualizer
from lightning.fabric.utilities import move_data_to_device
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize
from torchvision.tv_tensors import Image, Mask

from anomalib_clipzoo.data import CategoryBatch, CategoryDataset, CategoryItem, categories_of


def item(category: str | None, size: int = 8, masked: bool = True) -> CategoryItem:
    mask = Mask(torch.zeros(size, size, dtype=torch.uint8)) if masked else None
    return CategoryItem(
        image=Image(torch.rand(3, size, size)), gt_label=torch.tensor(1), gt_mask=mask, category=category
    )


@pytest.fixture
def dataset(auxiliary_root, target_root) -> CategoryDataset:
    bottle, tile = MVTecAD(auxiliary_root, "bottle"), MVTecAD(target_root, "tile")
    for datamodule in (bottle, tile):
        datamodule.setup()
    return CategoryDataset([bottle.test_data, tile.test_data], ["bottle", "tile"])


def test_collate_keeps_order_of_categories():
    batch = CategoryBatch.collate([item("b"), item(None), item("a")])
    assert batch.category == ["b", None, "a"]
    assert categories_of(batch) == ["b", None, "a"]


def test_collate_starting_with_an_item_without_category():
    assert CategoryBatch.collate([item(None), item("a")]).category == [None, "a"]


def test_plain_batches_have_no_category():
    assert categories_of(ImageBatch(image=torch.rand(2, 3, 8, 8))) == [None, None]


def test_items_of_several_sizes_make_one_batch():
    batch = CategoryBatch.collate([item("a", 8), item("b", 12)])
    assert batch.image.shape == (2, 3, 12, 12)
    assert batch.gt_mask.shape == (2, 12, 12)


def test_masks_that_some_items_lack_are_left_out():
    batch = CategoryBatch.collate([item("a"), item("b", masked=False)])
    assert batch.gt_mask is None
    assert batch.gt_label.tolist() == [True, True]


def test_normal_images_have_empty_masks_where_other_datasets_have_masks(dataset):
    plain = dataset.datasets[1]
    plain.samples["mask_path"] = ""
    plain.samples.attrs["task"] = "classification"
    both = CategoryDataset(dataset.datasets, ["bottle", "tile"])
    for index, sample in both.samples.iterrows():
        assert (both[index].gt_mask is None) == (sample["category"] == "tile" and sample["label_index"] == 1)
    normal = both.subsample(both.samples.index[both.samples["label_index"] == 0].tolist())
    assert not CategoryBatch.collate([normal[index] for index in range(len(normal))]).gt_mask.any()


def test_category_survives_what_anomalib_does_with_a_batch():
    batch = CategoryBatch.collate([item("a"), item("b")])
    moved = move_data_to_device(batch, torch.device("cpu"))
    updated = moved.update(pred_score=torch.tensor([0.1, 0.9]), anomaly_map=torch.rand(2, 8, 8))
    assert categories_of(updated) == ["a", "b"]
    assert [each.category for each in updated.items] == ["a", "b"]
    assert [each.category for each in updated] == ["a", "b"]
    assert updated.to_numpy().category == ["a", "b"]
    assert [each.category for each in updated.to_numpy().items] == ["a", "b"]
    assert updated.update(in_place=False, category=["c", "d"]).category == ["c", "d"]
    assert categories_of(pickle.loads(pickle.dumps(updated))) == ["a", "b"]


def test_anomalib_draws_such_batches():
    batch = CategoryBatch.collate([item("a"), item("b")]).update(
        anomaly_map=torch.rand(2, 8, 8), pred_mask=torch.ones(2, 8, 8, dtype=torch.bool)
    )
    images = ImageVisualizer().visualize(batch)
    assert len(images) == 2
    assert all(image is not None for image in images)


def test_items_are_those_of_the_datasets_inside(dataset):
    for index, sample in dataset.samples.iterrows():
        read = dataset[index]
        original = dataset.datasets[sample["dataset"]][sample["row"]]
        assert read.image_path == original.image_path == sample["image_path"]
        assert f"/{read.category}/" in read.image_path
        assert torch.equal(read.image, original.image)
        assert torch.equal(read.gt_mask, original.gt_mask)
        assert bool(read.gt_label) == ("spot" in read.image_path) == bool(read.gt_mask.any())


def test_subsample_and_sum_keep_categories(dataset):
    part = dataset.subsample([0, len(dataset) - 1])
    assert [part[index].category for index in range(2)] == ["bottle", "tile"]
    both = part + dataset
    assert len(both) == 2 + len(dataset)
    assert all(f"/{both[index].category}/" in both[index].image_path for index in range(len(both)))


def test_augmentations_reach_image_and_mask(dataset):
    dataset.augmentations = Resize((4, 4))
    read = dataset[0]
    assert read.image.shape == (3, 4, 4)
    assert read.gt_mask.shape == (4, 4)


def test_worker_processes_read_it(dataset):
    loader = DataLoader(dataset, batch_size=5, num_workers=2, collate_fn=dataset.collate_fn)
    batches = list(loader)
    paths = [path for batch in batches for path in batch.image_path]
    categories = [category for batch in batches for category in categories_of(batch)]
    assert paths == dataset.samples["image_path"].tolist()
    assert categories == dataset.samples["category"].tolist()
