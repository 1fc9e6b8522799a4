# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Features of training images that are kept: same losses, nothing stale or half written, no more than asked."""

import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from anomalib.data import Folder, ImageBatch
from lightning.pytorch import Callback, Trainer
from PIL import Image

from anomalib_clipzoo import AdaClip, AnomalyClip, VcpClip
from anomalib_clipzoo.data.seeding import SeededDataset
from anomalib_clipzoo.data.toy import ToyAD
from anomalib_clipzoo.models.components.feature_cache import (
    UNFINISHED,
    FeatureCache,
    FolderStore,
    MemoryStore,
    weights_hash,
)
from anomalib_clipzoo.models.components.training_images import TrainingImages
from tests.tiny import write_tiny_clip
from tests.unit.models.test_arguments import LEARNING, build

FORKS = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """Normal and broken parts with masks."""
    folder = tmp_path_factory.mktemp("parts")
    noise = torch.Generator().manual_seed(0)
    for kind, count in {"good": 4, "broken": 4, "masks": 4}.items():
        (folder / kind).mkdir()
        for number in range(count):
            pixels = torch.randint(256, (40, 40, 3), generator=noise, dtype=torch.uint8).numpy()
            image = Image.fromarray(pixels)
            if kind == "masks":
                image = Image.new("L", (40, 40))
                image.paste(255, (8, 8, 20 + number, 20))
            image.save(folder / kind / f"{number}.png")
    return folder


def data(parts: Path) -> Folder:
    """Learn on all of them, the broken ones too."""
    folder = Folder(
        "parts",
        root=parts,
        normal_dir="good",
        abnormal_dir="broken",
        mask_dir="masks",
        train_batch_size=3,
        num_workers=0,
        test_split_mode="from_dir",
        val_split_mode="none",
    )
    folder.setup()
    samples = pd.concat([folder.train_data.samples, folder.test_data.samples], ignore_index=True)
    samples["split"] = "train"
    folder.train_data.samples = samples
    folder.setup = lambda *_, **__: None
    return folder


class Losses(Callback):
    """Take down the loss of each batch."""

    def __init__(self) -> None:
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.values.append(float(outputs["loss"]))


def losses(model, data, folder: Path, epochs: int = 3) -> list[float]:
    torch.manual_seed(3)
    taken = Losses()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        default_root_dir=folder,
        callbacks=[taken],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(model, datamodule=data)
    return taken.values


def learner(model_class, tiny, **arguments):
    torch.manual_seed(0)
    if model_class is VcpClip:
        arguments = {"augment": False, **arguments}
    return build(model_class, tiny, evaluator=False, **arguments)


@pytest.mark.parametrize("model_class", LEARNING, ids=lambda model: model.__name__)
def test_losses_are_those_without_a_cache(model_class, tiny, parts, tmp_path, monkeypatch, caplog):
    expected = losses(learner(model_class, tiny), data(parts), tmp_path)
    towers = count_images(monkeypatch)
    caplog.set_level(logging.INFO)
    for where in ("memory", str(tmp_path / "kept"), str(tmp_path / "kept")):
        got = losses(learner(model_class, tiny, feature_cache=where), data(parts), tmp_path)
        assert got == pytest.approx(expected, abs=1e-5, rel=0)
        towers.append(0)
    in_memory, in_folder, again, _ = towers
    assert in_memory == in_folder == 8  # all images once, and none of them in the second run
    assert again == 0
    rates = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Feature cache")]
    assert rates[0] == "Feature cache in memory: 0 of 8 images were there."
    assert rates[1] == "Feature cache in memory: 8 of 8 images were there."
    assert rates[6] == f"Feature cache in {tmp_path / 'kept'}: 8 of 8 images were there."


def count_images(monkeypatch) -> list[int]:
    """Count the images whose features are computed, in the last element of a list."""
    counts, lookup = [0], FeatureCache.lookup

    def counted(cache, images, compute):
        def run(missing):
            counts[-1] += len(missing)
            return compute(missing)

        return lookup(cache, images, run)

    monkeypatch.setattr(FeatureCache, "lookup", counted)
    return counts


@pytest.mark.parametrize("branch", ["VL", "L", ""])
@pytest.mark.parametrize("kind", ["SD", "S"])
def test_what_knows_no_prompts_is_kept_of_adaclip(branch, kind, tiny):
    model = build(AdaClip, tiny, prompting_branch=branch, prompting_type=kind).model
    kept = {"VL": {"embedded", "plain"} if kind == "SD" else {"embedded"}}
    assert model.frozen_features(torch.randn(2, 3, 32, 32)).keys() == kept.get(branch, {"plain", "tokens"})


# ---- never stale ----


def cache_of(model, store=None, dtype=torch.float32) -> FeatureCache:
    return FeatureCache(store or MemoryStore(1e9), dtype, model.features_made_with())


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_only_what_is_the_same_is_found(tiny, tmp_path):
    store, model = FolderStore(tmp_path, 1e9), build(AnomalyClip, tiny)
    cache_of(model, store).lookup(images(), model.model.frozen_features)
    other_clip = write_tiny_clip(tmp_path, mlp_ratio=3.0)
    changed = build(AnomalyClip, tiny)
    changed.model.backbone.vision.blocks[1].mlp[0].weight.data[3, 4] += 1e-3
    others = [changed, build(AnomalyClip, other_clip), build(VcpClip, tiny), build(AnomalyClip, tiny, layers=[2])]
    others += [build(AnomalyClip, tiny, **{name: value}) for name, value in DIFFERENT.items()]
    for other in others:
        cache = cache_of(other, store)
        size = other.hparams.image_size
        features = cache.lookup(images() if size == [32, 32] else torch.randn(3, 3, *size), other.model.frozen_features)
        assert cache.found == 0
        torch.testing.assert_close(features, other.model.frozen_features(images()) if size == [32, 32] else features)
    again = cache_of(build(AnomalyClip, tiny, lr=0.5, sigma=1.0, n_ctx=7), store)
    one_other = images()
    one_other[1, 2, 31, 31] += 1e-6
    again.lookup(one_other, model.model.frozen_features)
    assert again.found == 2


DIFFERENT = {"dpam_layer": 2, "local_attention": "qq", "quick_gelu": False, "image_size": [48, 32]}


@torch.no_grad()
def test_precision_of_the_tower_counts(tiny):
    model = build(VcpClip, tiny)
    cache = cache_of(model)
    exact = cache.lookup(images(), model.model.frozen_features)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = cache.lookup(images(), model.model.frozen_features)
    assert cache.found == 0
    assert not torch.equal(exact["image"], mixed["image"].float())
    model.bfloat16()
    half = cache_of(model, cache.store).lookup(images().bfloat16(), model.model.frozen_features)
    assert half["image"].dtype is torch.bfloat16
    assert half["patches"].dtype is torch.float32  # what blocks add up


def test_every_weight_of_the_tower_counts(tiny):
    vision = build(VcpClip, tiny).model.backbone.vision
    known = {weights_hash(vision)}
    for value in [*vision.parameters(), *vision.buffers()]:
        value.data.view(-1)[-1] += 0.5
        known.add(weights_hash(vision))
    assert len(known) == 1 + len([*vision.parameters(), *vision.buffers()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_the_first_time_is_as_later_ones_in_any_precision(dtype, tiny, tmp_path):
    model = build(VcpClip, tiny)
    sizes = []
    for store in MemoryStore(1e9), FolderStore(tmp_path, 1e9):
        cache = cache_of(model, store, dtype)
        first, second = (cache.lookup(images(), model.model.frozen_features) for _ in range(2))
        assert cache.found == 3
        exact = model.model.frozen_features(images())
        for name, value in first.items():
            assert torch.equal(value, second[name])
            assert torch.equal(value, exact[name].to(dtype).float())
            assert value.dtype is torch.float32
        sizes.append(sum(value.nbytes for value in store.read(next(iter_keys(cache))).values()))
    assert sizes[0] == sizes[1] == dtype.itemsize * (32 + 4 * 16 * 32)


def iter_keys(cache):
    from anomalib_clipzoo.models.components.feature_cache import image_hash

    return (f"{cache._origin(images())}/{image_hash(image)}" for image in images())


# ---- no more than asked ----


@pytest.mark.parametrize("kind", ["memory", "folder"])
@torch.no_grad()
def test_a_full_cache_keeps_what_it_has(kind, tiny, tmp_path):
    model = build(VcpClip, tiny)
    one = 4 * (32 + 4 * 16 * 32) + 400  # a file has a header
    store = MemoryStore(2.5 * one) if kind == "memory" else FolderStore(tmp_path, 2.5 * one)
    cache = cache_of(model, store)
    for _ in range(3):
        features = cache.lookup(images(5), model.model.frozen_features)
        torch.testing.assert_close(features, model.model.frozen_features(images(5)))
    assert (cache.found, cache.refused) == (2 * 2, 3 * 3)
    if kind == "folder":
        assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) <= 2.5 * one
        reopened = cache_of(model, FolderStore(tmp_path, 2.5 * one))
        reopened.lookup(images(5), model.model.frozen_features)
        assert (reopened.found, reopened.refused) == (2, 3)


def test_a_full_cache_is_told(tiny, parts, tmp_path, caplog):
    losses(learner(VcpClip, tiny, feature_cache="memory", cache_size=2e-5), data(parts), tmp_path, epochs=2)
    assert "is full: the features of 6 images were not kept" in caplog.text
    assert "cache_size" in caplog.text


@torch.no_grad()
def test_a_folder_that_cannot_be_written_stops_nothing(tiny, tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("anomalib_clipzoo.models.components.feature_cache.save_file", fail)
    model = build(VcpClip, tiny)
    features = cache_of(model, FolderStore(tmp_path, 1e9)).lookup(images(), model.model.frozen_features)
    torch.testing.assert_close(features, model.model.frozen_features(images()))
    assert "No space left" in caplog.text


# ---- several processes, and killed ones ----


def entry(key: str) -> dict[str, torch.Tensor]:
    return {"a:float32": torch.full((1000, 100), float(int(key.split("/")[1])))}


def write_many(folder: Path, numbers: range, limit: float = 1e9) -> None:
    store = FolderStore(folder, limit)
    for number in numbers:
        key = f"context/{number % 40}"
        if (kept := store.read(key)) is not None:
            assert torch.equal(kept["a:float32"], entry(key)["a:float32"])
        store.write(key, entry(key))


def test_a_killed_process_leaves_nothing_half_written(tmp_path):
    for pause in (0.05, 0.11, 0.17):
        process = FORKS.Process(target=write_many, args=(tmp_path, range(10**6)))
        process.start()
        while not [*tmp_path.rglob("*.safetensors")]:
            time.sleep(0.01)
        time.sleep(pause)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    (tmp_path / "context" / f"7{UNFINISHED}").write_bytes(b"half")  # wherever it was killed
    store = FolderStore(tmp_path, 1e9)
    keys = [f"context/{path.stem}" for path in tmp_path.rglob("*.safetensors")]
    assert keys
    for key in keys:
        assert torch.equal(store.read(key)["a:float32"], entry(key)["a:float32"])
    store.write("context/41", entry("context/41"))
    assert not [*tmp_path.rglob(f"*{UNFINISHED}")]


def test_processes_share_a_folder_and_its_limit(tmp_path):
    limit = 20.5 * 400_200
    processes = [FORKS.Process(target=write_many, args=(tmp_path, range(n, 200 + n), limit)) for n in (0, 7, 20)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    files = [*tmp_path.rglob("*.safetensors")]
    assert len(files) == 20
    assert sum(file.stat().st_size for file in files) <= limit


def test_a_damaged_file_is_computed_again(tmp_path):
    store = FolderStore(tmp_path, 1e9)
    store.write("context/1", entry("context/1"))
    path = tmp_path / "context" / "1.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert store.read("context/1") is None
    assert store.write("context/1", entry("context/1"))
    assert torch.equal(store.read("context/1")["a:float32"], entry("context/1")["a:float32"])


# ---- variants ----


class Noise(torch.nn.Module):
    def forward(self, images, masks):
        return images + torch.rand_like(images), masks


def drawn(variants: int | None, epoch: int, order: list[int]) -> dict[int, torch.Tensor]:
    batch = ImageBatch(
        image=torch.stack([torch.full((3, 8, 8), float(number)) for number in order]),
        gt_mask=torch.zeros(len(order), 8, 8).bool(),
        gt_label=torch.zeros(len(order)).bool(),
    )
    trainer = SimpleNamespace(global_rank=0, current_epoch=epoch)
    TrainingImages(Noise(), variants).on_train_batch_start(trainer, None, batch, 0)
    return dict(zip(order, batch.image, strict=True))


def test_an_image_has_the_variants_that_are_asked_for():
    epochs = [drawn(3, epoch, order) for epoch, order in enumerate([[1, 2, 5], [5, 1, 2], [2], [2, 1], [5, 2], [2, 1]])]
    for number in (1, 2, 5):
        kinds = {found[number].numpy().tobytes() for found in epochs if number in found}
        assert len(kinds) == 3 - (number == 5)
    assert (epochs[0][2] == 2).all()  # the first is the image itself
    assert torch.equal(epochs[1][2], epochs[4][2])
    assert not torch.equal(epochs[1][2] - 2, epochs[1][1] - 1)  # each has draws of its own
    assert (drawn(1, 7, [4])[4] == 4).all()
    assert (drawn(None, 0, [4])[4] != 4).any()


def test_draws_of_a_dataset_come_again():
    dataset = SeededDataset([lambda: None], seed=1)
    dataset.dataset = SimpleNamespace(__getitem__=None)
    dataset.dataset = type("Draws", (), {"__getitem__": lambda self, index: float(torch.rand(()))})()
    dataset.variants = 2
    values = []
    for epoch in range(6):
        dataset.epoch.fill_(epoch)
        values.append(dataset[0])
    assert values[:2] == values[2:4] == values[4:]
    assert values[0] != values[1]


def test_variants_without_a_cache_are_refused(tiny):
    with pytest.raises(ValueError, match="cache_variants is of no effect without feature_cache"):
        build(VcpClip, tiny, cache_variants=3)


def test_synthetic_anomalies_are_kept_too(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    toy = ToyAD(root=tmp_path / "toy", category="pill", train_batch_size=8, num_workers=0)
    model = learner(VcpClip, tiny, feature_cache="memory", cache_variants=2, augment=True)
    losses(model, toy, tmp_path, epochs=4)
    rates = [record.args for record in caplog.records if record.getMessage().startswith("Feature cache in")]
    found = [args[1] for args in rates]
    count = rates[0][2]
    assert found[0] == 0
    assert found[1] < count / 2  # some images got no anomaly, and no augmentation either
    assert found[2:] == [count, count]


def test_images_that_never_come_again_are_told(tiny, parts, tmp_path, caplog):
    class Changed(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            batch.image += 0.01 * trainer.current_epoch

    model = learner(VcpClip, tiny, feature_cache="memory")
    callbacks = model.configure_callbacks()
    model.configure_callbacks = lambda: [Changed(), *callbacks]
    losses(model, data(parts), tmp_path, epochs=2)
    assert "they differ from epoch to epoch" in caplog.text
