# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What is drawn at random depends on the seed, the epoch and the image alone."""

import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from lightning.pytorch import Callback
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import RandomHorizontalFlip

from anomalib_clipzoo.data import CrossDataset, MultiCategory
from anomalib_clipzoo.data.seeding import EpochSampler, SeededDataset, derive_seed
from anomalib_clipzoo.data.toy import ensure_category
from anomalib_clipzoo.models.vcp_clip import VcpClip
from tests.tiny import write_tiny_clip

Samples = list[tuple[str, bool, bytes]]


@pytest.fixture
def sides(auxiliary_root, target_root):
    return MultiCategory(MVTecAD(auxiliary_root)), MVTecAD(target_root, "tile")


def cross(sides, **arguments) -> CrossDataset:
    settings = {"mosaic": 0.4, "train_augmentations": RandomHorizontalFlip(), "train_batch_size": 5, "num_workers": 0}
    return CrossDataset(*sides, **{**settings, **arguments})


def seen(batch) -> Samples:
    labels = (bool(label) for label in batch.gt_label)
    return list(zip(batch.image_path, labels, (image.numpy().tobytes() for image in batch.image), strict=True))


def epoch_of(loader: DataLoader, epoch: int) -> Samples:
    loader.sampler.set_epoch(epoch)
    return [sample for batch in loader for sample in seen(batch)]


@pytest.fixture
def epochs(sides):
    """Samples of two epochs, read without workers."""
    datamodule = cross(sides)
    datamodule.setup()
    loader = datamodule.train_dataloader()
    return [epoch_of(loader, epoch) for epoch in (0, 1)]


def test_epochs_differ_and_hold_every_image(epochs):
    first, second = epochs
    assert len(first) == len(second) == len({path for path, *_ in first})
    assert {path for path, *_ in first} == {path for path, *_ in second}
    assert [path for path, *_ in first] != [path for path, *_ in second]
    assert 0 < len(set(first) & set(second)) < len(first)  # some stay as they are: neither flipped nor replaced


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(sides, epochs, workers):
    datamodule = cross(sides, num_workers=workers)
    datamodule.setup()
    loader = datamodule.train_dataloader()
    torch.rand(3)
    assert [epoch_of(loader, epoch) for epoch in (0, 1)] == epochs
    assert epoch_of(datamodule.train_dataloader(), 1) == epochs[1]


def test_workers_that_outlive_an_epoch_see_the_next_one(sides, epochs):
    datamodule = cross(sides)
    datamodule.setup()
    dataset = datamodule.train_dataloader().dataset
    loader = DataLoader(
        dataset,
        batch_size=5,
        sampler=EpochSampler(dataset),
        num_workers=2,
        persistent_workers=True,
        collate_fn=datamodule.train_data.collate_fn,
    )
    assert [epoch_of(loader, epoch) for epoch in (0, 1)] == epochs


def test_an_iterator_made_early_reads_the_epoch_told_later(sides, epochs):
    """Lightning makes a resumed run's iterator before it tells the sampler the epoch."""
    datamodule = cross(sides, num_workers=2)
    datamodule.setup()
    loader = datamodule.train_dataloader()
    iterator = iter(loader)
    loader.sampler.set_epoch(1)
    assert [sample for batch in iterator for sample in seen(batch)] == epochs[1]


def test_seeds_of_the_run_and_of_the_datamodule_count(sides, epochs, monkeypatch):
    def first_epoch(**arguments) -> Samples:
        datamodule = cross(sides, validation_split=0.2, **arguments)
        datamodule.setup()
        return epoch_of(datamodule.train_dataloader(), 0)

    plain = first_epoch()
    assert first_epoch(seed=0) == plain
    assert first_epoch(seed=1) != plain
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    assert first_epoch() == plain
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert first_epoch() != plain


def test_reading_leaves_the_generator_as_it_was(sides):
    datamodule = cross(sides)
    datamodule.setup()
    dataset = SeededDataset(datamodule.train_data, 3)
    state = torch.get_rng_state()
    assert torch.equal(dataset[1].image, dataset[1].image)
    assert torch.equal(torch.get_rng_state(), state)


def test_seeds_of_neighbours_have_nothing_in_common():
    seeds = {derive_seed(*numbers) for numbers in ((0,), (1,), (0, 1), (1, 0), (0, 0, 1), (1, 1))}
    assert len(seeds) == 6
    assert derive_seed(7, 2) == derive_seed(7, 2)


class Seen(Callback):
    """Note what each epoch's batches hold when they reach the model."""

    def __init__(self) -> None:
        self.epochs: dict[int, list[Samples]] = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.epochs.setdefault(trainer.current_epoch, []).append(seen(batch))


@pytest.fixture(params=["cross", pytest.param("cross, in worker processes", marks=pytest.mark.slow), "normal"])
def make_data(request, sides, tmp_path):
    """What makes training data; the normal images are learned from with synthetic anomalies."""
    if request.param == "normal":
        ensure_category(tmp_path / "toy", "nut")  # large enough for Perlin noise
        return lambda: MVTecAD(tmp_path / "toy", "nut", train_batch_size=6, eval_batch_size=44, num_workers=0)
    return lambda: cross(sides, num_workers=2 if "worker" in request.param else 0)


def test_a_resumed_run_learns_what_an_uninterrupted_one_does(make_data, tmp_path):
    clip = write_tiny_clip(tmp_path)

    def train(name: str, epochs: int, ckpt_path=None):
        torch.manual_seed(0)  # the models start alike
        model, batches = VcpClip(clip, None, visualizer=False), Seen()
        trainer = {"max_epochs": epochs, "accelerator": "cpu", "devices": 1, "logger": False, "callbacks": [batches]}
        engine = Engine(default_root_dir=tmp_path / name, **trainer)
        engine.fit(model, datamodule=make_data(), ckpt_path=ckpt_path)
        return model, batches.epochs, engine.trainer.checkpoint_callback.best_model_path

    whole, expected, _ = train("whole", 3)
    _, first, checkpoint = train("part", 1)
    torch.rand(11)
    resumed, rest, _ = train("part", 3, checkpoint)
    assert {**first, **rest} == expected
    assert [*expected] == [0, 1, 2]
    assert [*rest] == [1, 2]
    learned = {name: value for name, value in whole.named_parameters() if value.requires_grad}
    for name, value in resumed.named_parameters():
        assert name not in learned or torch.equal(value, learned[name]), name
    assert len(learned) > 10
