# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What MuSc loses where a set is divided and where products are rounded to 8 bits, on real photographs.

```
pip install elpv-dataset
python benchmarks/musc_sets.py
```

Sets of 200 monocrystalline solar cells from the elpv dataset (electroluminescence, 160 that are certainly sound and 40
that are certainly defective, three draws), the toy CLIP, neighbourhoods of 1 and 3. Image AUROC of the raw scores and
after rescoring, mean over the draws.
"""

import numpy as np
import torch
from elpv_dataset.utils import load_dataset
from sklearn.metrics import roc_auc_score

from anomalib_clipzoo.clip import Backbone
from anomalib_clipzoo.clip.preprocess import normalize, resize_images
from anomalib_clipzoo.models.musc import MuScModel
from anomalib_clipzoo.models.musc.features import batches_of
from anomalib_clipzoo.models.musc.rescoring import rescore
from anomalib_clipzoo.models.musc.torch_model import RESCORE_WINDOWS

GOOD, BAD, DRAWS = 160, 40, 3
SETTINGS = (("float32", 200), ("float32", 100), ("float32", 50), ("int8", 200), ("int8", 100))


def draw(seed: int, size: tuple[int, int]) -> tuple[torch.Tensor, np.ndarray]:
    """Return images ``(N, 3, H, W)`` as the model takes them, and labels ``(N,)``."""
    cells, defective, kind = load_dataset()
    noise = np.random.default_rng(seed)
    rows = [
        noise.choice(np.flatnonzero((kind == "mono") & (defective == probability)), count, replace=False)
        for probability, count in ((0, GOOD), (1, BAD))
    ]
    grey = torch.from_numpy(cells[np.concatenate(rows)]).float()[:, None] / 255
    return normalize(resize_images(grey.expand(-1, 3, -1, -1), size)), np.repeat([0, 1], [GOOD, BAD])


@torch.no_grad()
def main() -> None:
    """Run the study."""
    clip = Backbone("toy", None, antialias=False)
    draws = [draw(seed, clip.vision.image_size) for seed in range(DRAWS)]
    print("| distance_precision | set_size | raw | rescored |\n|---|---|---|---|")
    for precision, size in SETTINGS:
        model = MuScModel(clip, r_list=(1, 3), rescore_windows=(), set_size=size, distance_precision=precision)
        aurocs = []
        for images, labels in draws:
            raw = model.score_sets(batches_of(images), [None] * len(images)).images
            rescored = rescore(raw, model.encode(images).image, RESCORE_WINDOWS)
            aurocs.append([roc_auc_score(labels, scores) for scores in (raw, rescored)])
        raw_mean, rescored_mean = np.mean(aurocs, axis=0)
        print(f"| {precision} | {size} | {raw_mean:.3f} | {rescored_mean:.3f} |", flush=True)


if __name__ == "__main__":
    main()
