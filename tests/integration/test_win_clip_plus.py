# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""WinClipPlus on the toy: through anomalib's commands, and how good it is without and with reference images."""

import re

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from sklearn.metrics import roc_auc_score

from anomalib_clipzoo.anomaly.references import Reference, choose_references
from anomalib_clipzoo.data import MultiCategory
from anomalib_clipzoo.data.toy import UNSEEN_CATEGORIES, ToyAD
from anomalib_clipzoo.models.win_clip_plus import WinClipPlus

from .commands import predict_with_a_few_good_parts
from .conftest import CONFIGS, NO_PICTURES, anomalib, forked_anomalib

pytestmark = pytest.mark.slow

ON_QUICKSTART_DATA = ("--config", CONFIGS / "quickstart.yaml", "--model", "WinClipPlus", *NO_PICTURES)
TWO_CATEGORIES = ("screw", "tile")
ON_TWO_CATEGORIES = (
    *("--model", "WinClipPlus", "--model.backbone", "toy", *NO_PICTURES, "--trainer.accelerator", "cpu"),
    *("--data", "MultiCategory", "--data.data", "ToyAD", "--data.data.num_workers", "0"),
    *("--data.categories", f"[{','.join(TWO_CATEGORIES)}]"),
)
SEEDS = range(4)


# ---- commands ----


@pytest.fixture(scope="module")
def few_shot(workspace):
    """A run with references, of which there is one for each category."""
    run = anomalib("train", *ON_TWO_CATEGORIES, "--model.k_shot", "1", folder=workspace)
    (results,) = (workspace / "results" / "WinClipPlus").glob("*/v0")
    return run, results


def test_zero_shot(workspace):
    run = anomalib("test", *ON_QUICKSTART_DATA, "--default_root_dir", "results/zero_shot", folder=workspace)
    assert run.metrics["image_AUROC"] >= 0.65
    (table,) = (workspace / "results" / "zero_shot").rglob("metrics.csv")
    assert set(UNSEEN_CATEGORIES) <= set(pd.read_csv(table)["category"])  # one run, every category with its own name


def test_training_leaves_references_of_every_category(few_shot):
    _, results = few_shot
    with safe_open(results / "weights" / "learned.safetensors", "pt") as file:
        described = bytes(file.get_tensor("model.references.description").tolist()).decode()
    assert set(re.findall(r"/(\w+)/train/good/", described)) == set(TWO_CATEGORIES)


def test_weights_give_the_same_metrics_again(few_shot, workspace):
    run, results = few_shot
    weights = ("--model.weights", results / "weights" / "learned.safetensors")
    again = forked_anomalib("test", *ON_TWO_CATEGORIES, *weights, folder=workspace)
    for name in ("image_AUROC", "pixel_AUROC"):
        assert again.metrics[name] == pytest.approx(run.metrics[name], abs=1e-6)


@pytest.fixture(scope="module")
def of_tiles(workspace):
    """Weights with references of one category, which a folder of images or an exported model is compared with."""
    forked_anomalib(
        *("train", "--model", "WinClipPlus", "--model.backbone", "toy", "--model.k_shot", "2", *NO_PICTURES),
        *("--data", "ToyAD", "--data.category", "tile", "--data.num_workers", "0", "--trainer.accelerator", "cpu"),
        folder=workspace,
    )
    return workspace / "results" / "WinClipPlus" / "ToyAD" / "tile" / "v0" / "weights" / "learned.safetensors"


def test_predict_on_a_folder_of_ones_own(of_tiles, photos, tmp_path):
    model = ("--model", "WinClipPlus", "--model.backbone", "toy", "--model.weights", of_tiles)
    run = forked_anomalib("predict", *model, "--data", photos, folder=tmp_path)
    heatmaps = {path.stem for path in tmp_path.glob("results/WinClipPlus/latest/images/**/*.*")}
    assert heatmaps == {"rgb", "grey", "rgba", "photo", "deep"}, run.text


def test_predict_with_a_few_good_parts(of_tiles, workspace, tmp_path):
    tiles = workspace / "datasets" / "ToyAD" / "tile"
    predict_with_a_few_good_parts("--model", "WinClipPlus", "--model.backbone", "toy", tiles=tiles, folder=tmp_path)


def test_export_to_torch(of_tiles, photos, tmp_path, monkeypatch):
    model = ("--model", "WinClipPlus", "--model.backbone", "toy", "--model.weights", of_tiles)
    forked_anomalib("export", *model, "--export_type", "torch", "--export_root", tmp_path, folder=tmp_path)
    from anomalib.deploy import TorchInferencer

    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    exported = TorchInferencer(tmp_path / "weights" / "torch" / "model.pt", device="cpu")
    assert len(exported.model.model.references) == 2
    assert exported.predict(photos / "rgb.png").anomaly_map.shape[-2:] == (96, 96)


# ---- how good it is ----


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Training and test images of each unseen category, pre-processed."""
    root = tmp_path_factory.mktemp("toy")
    datamodule = MultiCategory(ToyAD(root=root), categories=list(UNSEEN_CATEGORIES))
    datamodule.prepare_data()
    datamodule.setup()
    transform = WinClipPlus.configure_pre_processor((96, 96)).transform
    splits = []
    for dataset in (datamodule.train_data, datamodule.test_data):
        batch = dataset.collate_fn([dataset[index] for index in range(len(dataset))])
        rows = {name: [row for row, own in enumerate(batch.category) if own == name] for name in UNSEEN_CATEGORIES}
        images = transform(batch.image)
        splits.append({name: (images[own], batch.gt_label[own], batch.gt_mask[own]) for name, own in rows.items()})
    return splits


def make_model(monkeypatch, **arguments):
    """The model, which encodes every batch once."""
    model = WinClipPlus(backbone="toy", **arguments).eval().model
    encode, kept = model.encode, {}

    def encode_once(images, *, with_patches):
        if id(images) not in kept:
            kept[id(images)] = (images, encode(images, with_patches=True))  # the images too, which keeps their id
        return kept[id(images)][1]

    monkeypatch.setattr(model, "encode", encode_once)
    return model


@torch.no_grad()
def mean_auroc(model, tests) -> tuple[float, float]:
    """Image and pixel AUROC, means over categories."""
    figures = []
    for name, (images, labels, masks) in tests.items():
        prediction = model(images, [name], [name])
        scores, maps = prediction.pred_score, prediction.anomaly_map
        figures.append((roc_auc_score(labels, scores), roc_auc_score(masks.flatten(), maps.flatten())))
    image, pixel = torch.tensor(figures).mean(dim=0).tolist()
    return image, pixel


def test_more_references_are_better(toy, monkeypatch):
    normal, tests = toy
    model = make_model(monkeypatch)
    image, pixel = [], []
    for count in (1, 2, 4):
        runs = []
        for seed in SEEDS:
            for name, (images, *_) in normal.items():
                chosen = choose_references([f"{row:02}" for row in range(len(images))], count, seed)
                model.remember(images[[int(row) for row in chosen]], [Reference(name, row) for row in chosen])
            runs.append(mean_auroc(model, tests))
        means = torch.tensor(runs).mean(dim=0)
        image.append(float(means[0]))
        pixel.append(float(means[1]))
    assert image == sorted(image)
    assert pixel == sorted(pixel)
    assert image[-1] > image[0]


def test_half_precision_ranks_as_single_precision_does(toy, monkeypatch):
    _, tests = toy
    few_windows = {"scales": [2], "stride": 2}  # processors without bfloat16 are slow at it
    models = [make_model(monkeypatch, precision=kind, **few_windows) for kind in ("float32", "bfloat16")]
    single, half = (mean_auroc(model, tests) for model in models)
    assert half == pytest.approx(single, abs=2e-3)
