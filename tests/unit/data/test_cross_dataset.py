# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Tests of CrossDataset."""

import shutil
from pathlib import Path

import pytest
import torch
from anomalib.data import AnomalibDataModule, Folder, MVTecAD, get_datamodule
from mvtec_layout import COUNT

from anomalib_clipzoo.data import CrossDataset, MultiCategory, categories_of


def paths(dataset) -> set[str]:
    return set(dataset.samples["image_path"])


def cross(auxiliary_root: Path, target_root: Path, **arguments) -> CrossDataset:
    arguments = {"validation_split": 0.34, "num_workers": 0, **arguments}
    return CrossDataset(MultiCategory(MVTecAD(auxiliary_root)), MVTecAD(target_root, "tile"), **arguments)


def test_each_split_comes_from_where_it_should(auxiliary_root, target_root):
    datamodule = cross(auxiliary_root, target_root)
    datamodule.setup()
    train, held_out, tested = map(paths, (datamodule.train_data, datamodule.val_data, datamodule.test_data))
    assert train | held_out == {str(path) for path in auxiliary_root.glob("*/test/*/*.png")}
    assert not train & held_out
    assert tested == {str(path) for path in target_root.glob("tile/test/*/*.png")}
    assert paths(datamodule.target.train_data) == {str(path) for path in target_root.glob("tile/train/*/*.png")}


def test_training_images_are_annotated(auxiliary_root, target_root):
    datamodule = cross(auxiliary_root, target_root)
    datamodule.setup()
    for item in datamodule.train_data:
        assert bool(item.gt_label) == ("spot" in item.image_path) == bool(item.gt_mask.any())
        assert f"/{item.category}/" in item.image_path
        assert item.image.dtype == torch.float32


def test_held_out_part_takes_from_every_category_and_label_alike(auxiliary_root, target_root):
    datamodule = cross(auxiliary_root, target_root)
    datamodule.setup()
    counts = datamodule.val_data.samples.groupby(["category", "label_index"]).size()
    assert counts.to_dict() == {(name, label): 2 for name in ("bottle", "cable", "own") for label in (0, 1)}


def test_held_out_part_depends_on_the_seed_alone(auxiliary_root, target_root):
    splits = []
    for global_seed, seed in ((1, 0), (2, 0), (1, 5)):
        torch.manual_seed(global_seed)
        datamodule = cross(auxiliary_root, target_root, seed=seed)
        datamodule.setup()
        splits.append(datamodule.val_data.samples["image_path"].tolist())
    assert splits[0] == splits[1] != splits[2]


def test_a_little_is_held_out_of_small_groups_and_never_all(auxiliary_root, target_root):
    for part, expected in ((0.01, 1), (0.99, COUNT - 1)):
        datamodule = cross(auxiliary_root, target_root, validation_split=part)
        datamodule.setup()
        assert set(datamodule.val_data.samples.groupby(["category", "label_index"]).size()) == {expected}


def test_nothing_held_out(auxiliary_root, target_root):
    datamodule = cross(auxiliary_root, target_root, validation_split=0)
    datamodule.setup()
    assert len(datamodule.train_data) == 6 * COUNT
    assert datamodule.val_dataloader() == []


@pytest.mark.parametrize("part", [-0.1, 1, 1.5])
def test_part_out_of_range(auxiliary_root, target_root, part):
    with pytest.raises(ValueError, match="validation_split"):
        cross(auxiliary_root, target_root, validation_split=part)


def test_whole_test_splits_are_used_whatever_the_datamodules_hold_out(auxiliary_root, target_root):
    auxiliary = MVTecAD(auxiliary_root, "bottle", val_split_mode="from_test")
    target = MVTecAD(target_root, "wood", val_split_mode="from_test")
    datamodule = CrossDataset(auxiliary, target)
    datamodule.setup()
    assert len(datamodule.train_data) + len(datamodule.val_data) == 2 * COUNT
    assert len(datamodule.test_data) == 2 * COUNT


def test_several_auxiliary_datamodules_and_many_target_categories(auxiliary_root, target_root):
    auxiliary = [MVTecAD(auxiliary_root, "bottle"), MVTecAD(auxiliary_root, "cable")]
    datamodule = CrossDataset(auxiliary, MultiCategory(MVTecAD(target_root)), eval_batch_size=6, num_workers=2)
    datamodule.setup()
    assert set(datamodule.train_data.samples["category"]) == {"bottle", "cable"}
    categories = [categories_of(batch) for batch in datamodule.predict_dataloader()]
    assert categories == [["tile"] * 6, ["tile"] * 6, ["wood"] * 6, ["wood"] * 6]
    batch = next(iter(datamodule.train_dataloader()))
    assert {f"/{name}/" in path for name, path in zip(batch.category, batch.image_path, strict=True)} == {True}


def folder(root: Path, category: str, **arguments) -> Folder:
    place = root / category
    arguments = {"mask_dir": place / "ground_truth/spot", **arguments}
    return Folder(
        name=category,
        normal_dir=place / "train/good",
        normal_test_dir=place / "test/good",
        abnormal_dir=place / "test/spot",
        **arguments,
    )


def test_folders(auxiliary_root, target_root):
    datamodule = CrossDataset(folder(auxiliary_root, "bottle"), folder(target_root, "wood"), num_workers=0)
    datamodule.setup()
    assert len(datamodule.train_data) + len(datamodule.val_data) == 2 * COUNT
    assert len(datamodule.test_data) == 2 * COUNT
    assert categories_of(next(iter(datamodule.test_dataloader()))) == ["wood"] * 8
    assert datamodule.name == "wood"


def test_results_are_filed_under_the_target(auxiliary_root, target_root):
    assert cross(auxiliary_root, target_root).name == "MVTecAD"
    assert cross(auxiliary_root, target_root).category == "tile"
    many = CrossDataset(MVTecAD(auxiliary_root), MultiCategory(MVTecAD(target_root)))
    assert (many.name, many.category) == ("target", "")


def test_get_datamodule_with_nested_configuration(auxiliary_root, target_root, monkeypatch):
    for cls in (CrossDataset, MultiCategory):
        monkeypatch.setattr("anomalib.data." + cls.__name__, cls, raising=False)
    many = {"class_path": "MultiCategory", "init_args": {"data": _config(auxiliary_root), "categories": ["own"]}}
    config = {
        "class_path": "anomalib.data.CrossDataset",
        "init_args": {"auxiliary": [many, _config(auxiliary_root)], "target": _config(target_root, category="wood")},
    }
    datamodule = get_datamodule({"data": config})
    assert isinstance(datamodule, AnomalibDataModule)
    datamodule.setup()
    assert set(datamodule.train_data.samples["category"]) == {"own", "bottle"}
    assert set(datamodule.test_data.samples["category"]) == {"wood"}


def _config(root: Path, **arguments) -> dict:
    return {"class_path": "MVTecAD", "init_args": {"root": str(root), **arguments}}


def test_target_labels_are_not_needed_to_learn(auxiliary_root, target_root, monkeypatch):
    datamodule = cross(auxiliary_root, target_root)
    datamodule.setup()
    opened = []
    read_mask = "anomalib.data.datasets.base.image.read_mask"
    monkeypatch.setattr(read_mask, lambda path, as_tensor: opened.append(path) or torch.zeros(16, 16))
    for loader in (datamodule.train_dataloader(), datamodule.val_dataloader()):
        list(loader)
    assert len(opened) == 3 * COUNT
    assert not [path for path in opened if str(target_root) in path]


def test_auxiliary_without_anomalies(auxiliary_root, target_root):
    for kind in ("test", "ground_truth"):
        shutil.rmtree(auxiliary_root / "bottle" / kind / "spot")
    with pytest.raises(ValueError, match="MVTecAD has no anomalous test images"):
        CrossDataset(MVTecAD(auxiliary_root, "bottle"), MVTecAD(target_root, "wood")).setup()


def test_auxiliary_without_masks(auxiliary_root, target_root):
    auxiliary = folder(auxiliary_root, "bottle", mask_dir=None)
    with pytest.raises(ValueError, match=r"6 of 6 anomalous images of the auxiliary dataset bottle have no mask"):
        CrossDataset(auxiliary, folder(target_root, "wood")).setup()


def test_auxiliary_with_a_lost_mask(auxiliary_root, target_root):
    (auxiliary_root / "bottle/ground_truth/spot/000_mask.png").unlink()
    with pytest.raises(ValueError, match=r"MVTecAD, category 'bottle'.*cannot be read"):
        CrossDataset(MVTecAD(auxiliary_root, "bottle"), MVTecAD(target_root, "wood")).setup()


def test_too_few_anomalies_to_hold_some_out(auxiliary_root, target_root):
    for number in range(1, COUNT):
        (auxiliary_root / f"bottle/test/spot/{number:03}.png").unlink()
        (auxiliary_root / f"bottle/ground_truth/spot/{number:03}_mask.png").unlink()
    with pytest.raises(ValueError, match="too few"):
        CrossDataset(MVTecAD(auxiliary_root, "bottle"), MVTecAD(target_root, "wood")).setup()
    CrossDataset(MVTecAD(auxiliary_root, "bottle"), MVTecAD(target_root, "wood"), validation_split=0).setup()


def test_no_auxiliary_datamodule(target_root):
    with pytest.raises(ValueError, match="at least one auxiliary"):
        CrossDataset([], MVTecAD(target_root, "wood"))


def test_sharing_files_is_refused_unless_allowed(auxiliary_root):
    sides = (MultiCategory(MVTecAD(auxiliary_root)), MVTecAD(auxiliary_root, "cable"))
    with pytest.raises(ValueError, match=r"12 auxiliary images are images of the target too.*allow_overlap"):
        CrossDataset(*sides).setup()
    CrossDataset(*sides, allow_overlap=True).setup()
    CrossDataset(MVTecAD(auxiliary_root, "bottle"), MVTecAD(auxiliary_root, "cable")).setup()


def test_sharing_contents_is_refused(auxiliary_root, target_root):
    shutil.copy(auxiliary_root / "bottle/test/good/003.png", target_root / "wood/test/good/000.png")
    with pytest.raises(ValueError, match=r"1 auxiliary images(.|\n)*003.png = .*wood/test/good/000.png"):
        CrossDataset(MVTecAD(auxiliary_root, "bottle"), MVTecAD(target_root, "wood")).setup()


def test_sharing_files_by_another_name_is_refused(auxiliary_root, tmp_path):
    (tmp_path / "link").symlink_to(auxiliary_root)
    with pytest.raises(ValueError, match="12 auxiliary images"):
        CrossDataset(MVTecAD(auxiliary_root, "bottle"), MVTecAD(tmp_path / "link", "bottle")).setup()


def test_images_that_the_target_keeps_for_references_count_too(auxiliary_root, target_root):
    shutil.copy(auxiliary_root / "bottle/test/good/003.png", target_root / "wood/train/good/000.png")
    with pytest.raises(ValueError, match="1 auxiliary images"):
        CrossDataset(MVTecAD(auxiliary_root, "bottle"), MVTecAD(target_root, "wood")).setup()


def test_mosaic_is_for_training_images_only(auxiliary_root, target_root):
    datamodule = cross(auxiliary_root, target_root, mosaic=1.0)
    datamodule.setup()
    assert all(bool(item.gt_label) for item in datamodule.train_data)
    assert len({bool(item.gt_label) for item in datamodule.val_data}) == 2


def test_mosaics_of_one_auxiliary_datamodule_alone(auxiliary_root, target_root):
    auxiliary = [MVTecAD(auxiliary_root, "bottle"), MVTecAD(auxiliary_root, "cable")]
    datamodule = CrossDataset(auxiliary, MVTecAD(target_root, "tile"), mosaic=[0, 1.0], validation_split=0)
    datamodule.setup()
    for item in datamodule.train_data:
        assert bool(item.gt_label) == (item.category == "cable" or "spot" in item.image_path)


@pytest.mark.parametrize("mosaic", [20, -0.1, float("nan"), [0.2, 0.2], []])
def test_mosaic_rates_that_mean_nothing(auxiliary_root, target_root, mosaic):
    with pytest.raises(ValueError, match="mosaic is a probability, 0 to 1, or one for each of 1 auxiliary datamodules"):
        cross(auxiliary_root, target_root, mosaic=mosaic)


def test_mosaics_of_what(auxiliary_root, target_root):
    datamodule = cross(auxiliary_root, target_root, mosaic=1.0, mosaic_of="any")
    datamodule.setup()
    assert all(bool(item.gt_label) == ("spot" in item.image_path) for item in datamodule.train_data)
    with pytest.raises(ValueError, match="mosaic_of is one of 'anomalous', 'any', 'folders', not 'normal'"):
        cross(auxiliary_root, target_root, mosaic_of="normal")
