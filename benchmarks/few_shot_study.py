# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What a handful of normal images add to each model, on the toy's unseen categories.

```
python benchmarks/few_shot_study.py --weights results/*/ToyAD/v0/weights/learned.safetensors --output study
```

``--weights`` are what the quickstart learned with each model (docs/index.md and the models' pages say how); WinClipPlus
learns nothing and is always there. First the share of the references in map and score is chosen on categories that the
models learned from. Then image and pixel AUROC on the unseen ones: mean over categories, and standard deviation over
seeds of the choice of references. Last what a coreset loses. Each image goes through each model once.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import matplotlib as mpl
import pandas as pd
import torch
from safetensors import safe_open
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

import anomalib_clipzoo
from anomalib_clipzoo.anomaly.patch_references import tapped_patches
from anomalib_clipzoo.anomaly.references import Reference, choose_references
from anomalib_clipzoo.data import MultiCategory
from anomalib_clipzoo.data.toy import SEEN_CATEGORIES, TRAIN_IMAGES, UNSEEN_CATEGORIES, ToyAD
from anomalib_clipzoo.models.april_gan import AprilGan
from anomalib_clipzoo.models.win_clip_plus import WinClipPlus

mpl.use("Agg")
from matplotlib import pyplot as plt

SHOTS = (1, 2, 4, 8)
SEEDS = range(5)
WEIGHED_SEEDS = range(3)
WEIGHTS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
RATIOS = (1.0, 0.1, 0.01)
STEP = 2  # every second pixel of rows and columns counts in pixel AUROC, which then takes a quarter of the time


class Images(NamedTuple):
    """Pre-processed images ``(B, 3, H, W)`` of one category, whether they are anomalous ``(B,)``, and masks."""

    category: str
    normal: Tensor
    tested: Tensor
    labels: Tensor
    masks: Tensor


class Seen(NamedTuple):
    """What a model's frozen part says of a category's images, once and for all."""

    images: Images
    normal: Any
    tested: Any
    score: Tensor
    maps: Tensor


class Study:
    """A model, few-shot, on images that have gone through it."""

    def __init__(self, module: Any) -> None:
        self.module, self.model = module.eval(), module.model
        self.name = type(module).__name__
        self.windows = isinstance(module, WinClipPlus)

    @property
    def own_weight(self) -> float:
        """Share of the references where the user says nothing."""
        return self.model.reference_weight if self.windows else self.model.references.weight

    @torch.no_grad()
    def look(self, images: Images) -> Seen:
        """Run the towers on a category's images."""
        names = self.module.class_names([images.category])
        context = {"class_names": names} if self.module._takes_class_names else {}
        self.model.references.forget(self.model.references.categories)
        zero = self.model(images.tested, **context)
        normal, tested = self._features(images.normal), self._features(images.tested)
        return Seen(images, normal, tested, zero.pred_score, zero.anomaly_map)

    def _features(self, images: Tensor) -> Any:
        if self.windows:
            return self.model.encode(images, with_patches=True)
        layers = self.model.references.layers
        return tapped_patches(self.model.backbone.vision, images, layers)[1]

    def choose(self, seen: Seen, k_shot: int, seed: int) -> None:
        """Make normal images references, as the model itself would choose them."""
        category = seen.images.category
        rows = choose_references([f"{row:03}" for row in range(len(seen.images.normal))], k_shot, seed)
        references, chosen = [Reference(category, row) for row in rows], [int(row) for row in rows]
        self.model.references.forget(self.model.references.categories)
        if self.windows:
            features = {kind: values[chosen] for kind, values in self.model._by_kind(seen.normal).items()}
        else:
            features = {f"layer_{layer}": patches[chosen] for layer, patches in seen.normal.items()}
        self.model.references.remember(references, features)

    @torch.no_grad()
    def judge(self, seen: Seen, weights: Sequence[float]) -> Iterator[tuple[float, Tensor, Tensor]]:
        """Return scores and maps of the test images for each share of the references."""
        category = [seen.images.category]
        if self.windows:
            yield from self._judge_windows(seen, weights)
            return
        distances = self.model.references.layer_distances(seen.tested, category).mean(dim=0)
        for weight in weights:
            self.model.references.weight = weight
            yield weight, *self._weigh(seen, distances)

    def _weigh(self, seen: Seen, distances: Tensor) -> tuple[Tensor, Tensor]:
        references = self.model.references
        if isinstance(self.module, AprilGan):
            maps = references.weigh(seen.maps, self.model.maps.upsample(distances[None])[0])
            return (seen.score + maps.amax(dim=(1, 2))) / 2, maps
        score = references.weigh(seen.score, distances.amax(dim=1))
        return score, references.weigh(seen.maps, self.model.maps(distances))

    def _judge_windows(self, seen: Seen, weights: Sequence[float]) -> Iterator[tuple[float, Tensor, Tensor]]:
        category = [seen.images.category]
        with patch.object(self.model, "encode", lambda *_, **__: seen.tested):
            for weight in weights:
                self.model.reference_weight = weight
                output = self.model(seen.images.tested, self.module.class_names(category), category)
                yield weight, output.pred_score, output.anomaly_map


def auroc(values: Tensor, truth: Tensor) -> float:
    """Area under the ROC curve of values 0..1."""
    return float(binary_auroc(values.flatten(), truth.flatten().long()))


def figures(seen: Seen, score: Tensor, maps: Tensor) -> dict[str, float]:
    """Image and pixel AUROC of a category."""
    every = (slice(None), slice(None, None, STEP), slice(None, None, STEP))
    return {"image": auroc(score, seen.images.labels), "pixel": auroc(maps[every], seen.images.masks[every])}


def toy_images(module: Any, root: Path, categories: Sequence[str]) -> Iterator[Images]:
    """Read the toy's images of some categories, pre-processed for a model."""
    for category in categories:
        datamodule = MultiCategory(ToyAD(root=root), categories=[category])
        datamodule.prepare_data()
        datamodule.setup()
        parts = [
            dataset.collate_fn([dataset[row] for row in range(len(dataset))])
            for dataset in (datamodule.train_data, datamodule.test_data)
        ]
        normal, tested = (module.pre_processor.transform(part.image) for part in parts)
        yield Images(category, normal, tested, parts[1].gt_label, parts[1].gt_mask)


def build(weights: Path | None, **arguments: Any) -> Study:
    """Build the model that learned these weights, or WinClipPlus, which learns nothing."""
    if weights is None:
        return Study(WinClipPlus(backbone="toy", visualizer=False, **arguments))
    with safe_open(weights, "pt") as file:
        name = json.loads(file.metadata()["anomalib_clipzoo"])["model"]
    return Study(getattr(anomalib_clipzoo, name)(weights=weights, visualizer=False, **arguments))


def by_weight(weights: Sequence[Path | None], root: Path, categories: Sequence[str]) -> pd.DataFrame:
    """Image and pixel AUROC, means over categories learned from, by share and number of the references."""
    rows = []
    for path in weights:
        study = build(path)
        for images in toy_images(study.module, root, categories):
            seen = study.look(images)
            for k_shot, seed in product(SHOTS, WEIGHED_SEEDS):
                study.choose(seen, k_shot, seed)
                for weight, score, maps in study.judge(seen, WEIGHTS):
                    about = {"model": study.name, "weight": weight, "k": k_shot}
                    rows.append({**about, **figures(seen, score, maps)})
    return pd.DataFrame(rows).groupby(["model", "weight", "k"], sort=False)[["image", "pixel"]].mean()


def by_shots(weights: Sequence[Path | None], root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """AUROC on unseen categories by number of references, and with all of them by what a coreset keeps."""
    rows, kept = [], []
    for path in weights:
        study = build(path)
        weight = study.own_weight
        twins = {ratio: build(path, coreset_ratio=ratio) for ratio in RATIOS}
        for images in toy_images(study.module, root, UNSEEN_CATEGORIES):
            seen = study.look(images)
            about = {"model": study.name, "category": images.category}
            rows += [{**about, "k": 0, "seed": seed, **figures(seen, seen.score, seen.maps)} for seed in SEEDS]
            for k_shot, seed in product(SHOTS, SEEDS):
                study.choose(seen, k_shot, seed)
                ((_, score, maps),) = study.judge(seen, [weight])
                rows.append({**about, "k": k_shot, "seed": seed, **figures(seen, score, maps)})
            for ratio, twin in twins.items():
                twin.choose(seen, len(images.normal), 0)
                ((_, score, maps),) = twin.judge(seen, [weight])
                kept.append({**about, "kept": ratio, **figures(seen, score, maps)})
    return pd.DataFrame(rows), pd.DataFrame(kept)


def over_seeds(rows: pd.DataFrame, by: str = "k") -> pd.DataFrame:
    """Means over categories, then mean and standard deviation over seeds."""
    means = rows.groupby(["model", by, "seed"], sort=False)[["image", "pixel"]].mean()
    return means.groupby(["model", by], sort=False).agg(["mean", "std"])


def table(summary: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One row a model, one column a number of references."""
    cells = summary[metric].apply(lambda row: f"{row['mean']:.3f} ± {row['std']:.3f}", axis=1)
    return cells.unstack(level=1).reindex(summary.index.unique(0))


def plot(summary: pd.DataFrame, path: Path) -> None:
    """Draw image and pixel AUROC against the number of references."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True)
    for axis, metric in zip(axes, ("image", "pixel"), strict=True):
        for name in summary.index.unique(0):
            values = summary.loc[name, metric]
            axis.errorbar(values.index, values["mean"], values["std"], marker="o", markersize=4, capsize=3, label=name)
        axis.set(xlabel="normal reference images (k)", ylabel=f"{metric} AUROC", xticks=[0, *SHOTS])
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run the study; print and write its tables and its plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, nargs="*", default=[], help="what each model learned")
    parser.add_argument("--root", type=Path, default=Path("datasets/ToyAD"), help="folder of the toy")
    parser.add_argument("--output", type=Path, default=Path("few_shot_study"))
    parser.add_argument("--part", choices=["weight", "shots"], help="one part of the study alone")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    weights = [*arguments.weights, None]
    if arguments.part != "shots":
        seen = by_weight(weights, arguments.root, SEEN_CATEGORIES[::3])
        seen.to_csv(arguments.output / "by_weight.csv")
        print(f"\nMean of image and pixel AUROC on seen categories by the references' share, over {SHOTS} references")
        print(seen.mean(axis=1).groupby(["model", "weight"], sort=False).mean().unstack().round(3).to_string())
    if arguments.part != "weight":
        rows, kept = by_shots(weights, arguments.root)
        rows.to_csv(arguments.output / "by_shots.csv", index=False)
        summary = over_seeds(rows)
        for metric in ("image", "pixel"):
            print(f"\n{metric} AUROC on unseen categories, by number of references")
            print(table(summary, metric).to_string())
        print(f"\nAUROC with {TRAIN_IMAGES} references, by share of their patches that is kept")
        print(kept.groupby(["model", "kept"], sort=False)[["image", "pixel"]].mean().unstack().round(3).to_string())
        plot(summary, arguments.output / "few_shot.png")


if __name__ == "__main__":
    main()
