# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Few-shot detection on real photographs: electroluminescence images of solar cells.

```
pip install elpv-dataset
python benchmarks/elpv.py --weights results/*/ToyAD/v0/weights/learned.safetensors
```

The package ``elpv-dataset`` brings 300 x 300 photographs (Deitsch et al., 2019), each with the probability of a defect
that experts gave. Tested are 100 monocrystalline cells with probability 1 and 100 with probability 0; references are
other cells with probability 0. Image AUROC, mean and standard deviation over seeds of both choices. Beside the models
stands what grey levels alone tell: their mean, standard deviation and quantiles, and the Mahalanobis distance from the
references. ``--weights`` may name any CLIP that weights were learned on; without them, WinClipPlus is alone.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from few_shot_study import Images, Study, auroc, build
from sklearn.covariance import LedoitWolf
from torch import Tensor

SHOTS = (1, 4, 16)
SEEDS = range(3)
TESTED = 100  # of each kind
QUANTILES = np.linspace(0, 1, 11)
CATEGORY = "solar cell"
WEIGHTS = (0.0, 0.5, 0.7, 0.9, 1.0)


def load(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose test images and references among the monocrystalline cells.

    Returns:
        References and test images in grey levels ``(B, 300, 300)``, and whether the latter are defective.
    """
    try:
        from elpv_dataset.utils import load_dataset
    except ModuleNotFoundError as error:
        msg = "The photographs are in a package of their own: pip install elpv-dataset"
        raise SystemExit(msg) from error
    pictures, defective, kinds = load_dataset()
    good, bad = (np.flatnonzero((kinds == "mono") & (defective == chance)).tolist() for chance in (0, 1))
    generator = random.Random(seed)
    generator.shuffle(good)
    generator.shuffle(bad)
    tested = [*good[:TESTED], *bad[:TESTED]]
    references = good[TESTED : TESTED + max(SHOTS)]
    return pictures[references], pictures[tested], np.repeat([False, True], TESTED)


def statistics(pictures: np.ndarray) -> np.ndarray:
    """Mean, standard deviation and quantiles of each picture's grey levels, 0..1, ``(B, 13)``."""
    levels = pictures.reshape(len(pictures), -1) / 255
    return np.column_stack([levels.mean(axis=1), levels.std(axis=1), *np.quantile(levels, QUANTILES, axis=1)])


def baseline(references: np.ndarray, tested: np.ndarray) -> Tensor:
    """Mahalanobis distances of pictures from references, of which one alone says nothing about covariance."""
    known, new = statistics(references), statistics(tested)
    if len(known) == 1:
        return torch.as_tensor(((new - known) ** 2).sum(axis=1))
    return torch.as_tensor(LedoitWolf().fit(known).mahalanobis(new))


def as_images(study: Study, references: np.ndarray, tested: np.ndarray, labels: np.ndarray) -> Images:
    """Pre-process pictures for a model."""
    normal, new = (
        study.module.pre_processor.transform(torch.as_tensor(part)[:, None].expand(-1, 3, -1, -1) / 255)
        for part in (references, tested)
    )
    return Images(CATEGORY, normal, new, torch.as_tensor(labels), torch.empty(0))


def measure(paths: Sequence[Path | None]) -> pd.DataFrame:
    """Image AUROC by model, number of references, their share, and seed."""
    studies = [build(path) for path in paths]
    own = {study.name: study.own_weight for study in studies}
    rows = []
    for seed in SEEDS:
        references, tested, labels = load(seed)
        for k_shot in SHOTS:
            value = rank_auroc(baseline(references[:k_shot], tested), labels)
            rows.append({"model": "grey levels alone", "k": k_shot, "weight": "own", "seed": seed, "image": value})
        for study in studies:
            seen = study.look(as_images(study, references, tested, labels))
            rows.append(
                {
                    "model": study.name,
                    "k": 0,
                    "weight": "own",
                    "seed": seed,
                    "image": auroc(seen.score, seen.images.labels),
                }
            )
            for k_shot in SHOTS:
                study.choose(seen, k_shot, seed)
                weights = (own[study.name], *WEIGHTS)
                for name, (_, score, _) in zip(("own", *WEIGHTS), study.judge(seen, weights), strict=True):
                    value = auroc(score, seen.images.labels)
                    rows.append({"model": study.name, "k": k_shot, "weight": name, "seed": seed, "image": value})
    return pd.DataFrame(rows)


def rank_auroc(values: Tensor, labels: np.ndarray) -> float:
    """Area under the ROC curve of values of any range."""
    ranks = values.argsort().argsort() / len(values)
    return auroc(ranks, torch.as_tensor(labels))


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, nargs="*", default=[], help="what each model learned")
    parser.add_argument("--output", type=Path, help="file for all figures, as CSV")
    arguments = parser.parse_args()
    rows = measure([*arguments.weights, None])
    if arguments.output:
        rows.to_csv(arguments.output, index=False)
    own = rows[rows.weight == "own"].groupby(["model", "k"], sort=False)["image"].agg(["mean", "std"])
    cells = own.apply(lambda row: f"{row['mean']:.3f} ± {row['std']:.3f}", axis=1)
    print("Image AUROC by number of references")
    print(cells.unstack().sort_index(axis=1).reindex(own.index.unique(0)).fillna("").to_string())
    print("\nBy share of the references")
    shares = rows[rows.weight != "own"].astype({"weight": float})
    print(shares.pivot_table("image", ["model", "k"], "weight", sort=True).round(3).to_string())


if __name__ == "__main__":
    main()
