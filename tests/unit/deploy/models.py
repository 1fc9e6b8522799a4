# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""A model that finds some of a set of pictures normal and some anomalous."""

import torch
from PIL import Image

from anomalib_clipzoo.deploy.decoding import to_pixels
from anomalib_clipzoo.models.win_clip_plus import WinClipPlus

SIZE = (64, 64)


def make_model(pictures: list[Image.Image]) -> WinClipPlus:
    """Make a model whose thresholds half of the pictures are above, and few of their pixels."""
    model = WinClipPlus(backbone="toy", image_size=SIZE[0], class_name="screw").eval()
    batch = torch.stack([torch.from_numpy(to_pixels(picture, SIZE)) for picture in pictures]) / 255
    scores = model(batch)  # without thresholds, on the model's own scale
    middle = scores.pred_score.flatten().sort().values[len(pictures) // 2 :][:2].mean()
    model.post_processor._image_threshold.copy_(middle)
    model.post_processor._pixel_threshold.copy_(scores.anomaly_map.quantile(0.97))
    return model
