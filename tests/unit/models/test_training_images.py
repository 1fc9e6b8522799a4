# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What training images go through: synthetic anomalies, masks, augmentation, and seeds that a resumed run shares."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from anomalib.data import Folder, ImageBatch, ImageItem
from anomalib.engine import Engine
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from anomalib_clipzoo.data.toy import ToyAD
from anomalib_clipzoo.models.ada_clip import AdaClip
from anomalib_clipzoo.models.anomaly_clip import AnomalyClip
from anomalib_clipzoo.models.components.training_images import TrainingImages, known_samples
from anomalib_clipzoo.models.vcp_clip import VcpClip
from tests.tiny import write_tiny_clip

MODELS = {
    VcpClip: {},
    AnomalyClip: {"layers": [2]},
    AdaClip: {"hsf": False},
}


class Table(Dataset):
    """A dataset with a table of samples, or none."""

    def __init__(self, labels: list[int] | None, masks: list[str] | None = None) -> None:
        if labels is not None:
            paths = [f"{number}.png" for number in range(len(labels))]
            self.samples = pd.DataFrame({"label_index": labels, "image_path": paths})
            if masks is not None:
                self.samples["mask_path"] = masks
        self.labels = labels or [0]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> ImageItem:
        return ImageItem(image=torch.rand(3, 40, 40), gt_label=torch.tensor(self.labels[index]))


def trainer_on(dataset, epoch: int = 0) -> SimpleNamespace:
    loader = None if dataset is None else DataLoader(dataset)
    return SimpleNamespace(train_dataloader=loader, global_rank=0, current_epoch=epoch)


def batch_of(count: int, **fields) -> ImageBatch:
    fields = {"gt_label": torch.zeros(count, dtype=torch.bool), **fields}
    return ImageBatch(image=torch.rand(count, 3, 40, 40), image_path=[f"{n}.png" for n in range(count)], **fields)


def test_synthetic_anomalies_come_with_their_masks_and_labels(caplog):
    training_images, trainer = TrainingImages(), trainer_on(Table([0, 0]))
    training_images.on_train_start(trainer, None)
    assert "learns on synthetic (Perlin noise) anomalies" in caplog.text
    batch = batch_of(16)
    before = batch.image.clone()
    training_images.on_train_batch_start(trainer, None, batch, 0)
    changed = (batch.image != before).any(dim=1)
    assert 0 < batch.gt_label.sum() < 16
    assert torch.equal(batch.gt_label.bool(), batch.gt_mask.flatten(1).any(dim=1))
    assert not (changed & ~batch.gt_mask.bool()).any()


def test_samples_are_found_through_wrappers():
    dataset = Table([0, 1, 0])
    assert known_samples(Subset(dataset, [0, 2]))["label_index"].tolist() == [0, 0]
    assert known_samples(ConcatDataset([dataset, Subset(dataset, [1])]))["label_index"].tolist() == [0, 1, 0, 1]
    assert known_samples(ConcatDataset([dataset, Table(None)])) is None
    assert known_samples(None) is None


@pytest.mark.parametrize("dataset", [Table(None), None])
def test_a_training_set_that_cannot_be_looked_at_is_told(dataset, caplog):
    training_images = TrainingImages()
    training_images.on_train_start(trainer_on(dataset), None)
    assert "nobody can see whether it has annotated anomalies" in caplog.text
    assert training_images.synthesize is None


def test_anomalous_images_without_masks_are_refused_before_training():
    dataset = Table([0, 1, 1], ["", "1_mask.png", ""])
    with pytest.raises(ValueError, match=r"1 of 2 anomalous images of the training set have no mask(.|\n)*  2.png"):
        TrainingImages().on_train_start(trainer_on(dataset), None)
    TrainingImages().on_train_start(trainer_on(Subset(dataset, [0, 1])), None)


@pytest.mark.parametrize("label", [torch.tensor([True, False]), None], ids=["anomalous", "unknown"])
def test_a_batch_that_needs_masks_and_has_none_is_refused(label):
    with pytest.raises(ValueError, match=r"have no masks, which learning needs.*0\.png, 1\.png"):
        TrainingImages().on_train_batch_start(trainer_on(None), None, batch_of(2, gt_label=label), 0)


def test_normal_images_without_masks_have_empty_ones():
    batch = batch_of(2)
    TrainingImages().on_train_batch_start(trainer_on(None), None, batch, 0)
    assert batch.gt_mask.shape == (2, 40, 40)
    assert not batch.gt_mask.any()


def test_draws_depend_on_seed_epoch_and_batch_alone(monkeypatch):
    class Noise(nn.Module):
        def forward(self, images, masks):
            return torch.rand_like(images), masks

    def draw(seed: int, epoch: int, batch_idx: int) -> bytes:
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        batch = batch_of(1)
        TrainingImages(Noise()).on_train_batch_start(trainer_on(None, epoch), None, batch, batch_idx)
        return batch.image.numpy().tobytes()

    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)]
    draws = [draw(*place) for place in places]
    torch.rand(7)
    assert [draw(*place) for place in places] == draws
    assert len(set(draws)) == len(places)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    ToyAD(folder, "nut").prepare_data()
    return folder


def engine(folder, **arguments) -> Engine:
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, logger=False, **arguments)


def maskless(root) -> Folder:
    nut = root / "nut"
    datamodule = Folder(
        name="nut",
        normal_dir=nut / "train/good",
        normal_test_dir=nut / "test/good",
        abnormal_dir=nut / "test/hole",
        val_split_mode="none",
        num_workers=0,
    )
    datamodule.setup()
    return datamodule


@pytest.mark.parametrize("model", MODELS)
def test_bare_loaders_of_normal_images_train_on_synthetic_anomalies(model, root, tmp_path, caplog):
    learner = model(write_tiny_clip(tmp_path), None, visualizer=False, **MODELS[model])
    engine(tmp_path, max_epochs=1).fit(learner, train_dataloaders=maskless(root).train_dataloader())
    assert f"{model.__name__} learns on synthetic" in caplog.text


def test_bare_loaders_of_anomalous_images_without_masks_are_refused(root, tmp_path):
    learner = VcpClip(write_tiny_clip(tmp_path), None, visualizer=False)
    with pytest.raises(ValueError, match=r"4 of 4 anomalous images of the training set have no mask"):
        engine(tmp_path, max_epochs=1).fit(learner, train_dataloaders=maskless(root).test_dataloader())
