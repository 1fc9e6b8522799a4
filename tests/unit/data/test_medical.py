# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The configurations of medical datasets, on small folders laid out as the datasets come."""

from pathlib import Path

import pytest

from anomalib_clipzoo.data import CrossDataset, categories_of
from anomalib_clipzoo.data.nested import as_datamodule
from tests.medical import CONFIGS, COUNT, WITH_MASKS, WITHOUT_MASKS, lay_out


def test_every_configuration_is_tested():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {name.lower() for name in {**WITHOUT_MASKS, **WITH_MASKS}}


@pytest.mark.parametrize("name", [*WITHOUT_MASKS, *WITH_MASKS])
def test_all_images_are_for_testing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    datamodule = as_datamodule(lay_out(name, tmp_path))
    datamodule.setup()
    masked = name in WITH_MASKS
    labels = datamodule.test_data.samples["label_index"].tolist()
    assert sorted(labels) == ([1] * COUNT if masked else [0] * COUNT + [1] * COUNT)
    assert len(datamodule.train_data) == 0
    for item, label in zip(datamodule.test_data, labels, strict=True):
        assert bool(item.gt_label) == bool(label)
        assert Path(item.image_path).is_file()
        assert item.gt_mask.sum() == 100 if masked else item.gt_mask is None


def test_the_name_is_what_the_images_show(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    auxiliary, target = (as_datamodule(lay_out(name, tmp_path)) for name in ("ClinicDB", "ColonDB"))
    datamodule = CrossDataset(auxiliary, target, validation_split=0, num_workers=0)
    datamodule.setup()
    assert set(datamodule.train_data.samples["category"]) == {"ClinicDB"}
    assert categories_of(next(iter(datamodule.test_dataloader()))) == ["ColonDB"] * COUNT
