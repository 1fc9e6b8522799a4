# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Maps, masks and scores to evaluate."""

import torch
from anomalib.data import ImageBatch


def make_batch(seed: int, count: int = 6, size: int = 48) -> ImageBatch:
    """Noisy maps over masks with regions of several sizes; every second image is normal."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, size, size, dtype=torch.bool)
    for index in range(0, count, 2):
        masks[index, 3 : 8 + 4 * (index % 10), 5:12] = True
        masks[index, 30:40, 30:33] = True
    maps = (0.7 * torch.rand(masks.shape, generator=generator) + 0.3 * masks) ** 2
    labels = masks.flatten(1).any(1)
    scores = 0.6 * torch.rand(count, generator=generator) + 0.4 * labels
    return ImageBatch(
        image=torch.zeros(count, 3, size, size),
        anomaly_map=maps,
        gt_mask=masks,
        pred_score=scores,
        gt_label=labels,
        pred_label=scores > 0.5,
        pred_mask=maps > 0.5,
        image_path=[f"test/{'bad' if label else 'good'}/{seed}_{row}.png" for row, label in enumerate(labels)],
    )
