# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What is done once: importing the package costs little, a model reads its CLIP once, filters are made once a size."""

import os
import subprocess
import sys

import pytest
import torch

from anomalib_clipzoo import AnomalyClip
from anomalib_clipzoo.clip import backbone, preprocess

IMPORT = """
import sys, time
start = time.process_time()
import anomalib_clipzoo
print(time.process_time() - start, *{"torch", "anomalib", "numpy", "pandas"} & set(sys.modules))
"""


def test_importing_the_package_takes_less_than_50_milliseconds():
    environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    command = [sys.executable, "-W", "ignore", "-c", IMPORT]
    runs = [subprocess.check_output(command, text=True, env=environment).split() for _ in range(3)]
    assert min(float(seconds) for seconds, *_ in runs) < 0.05
    assert all(imported == [] for _, *imported in runs)


@pytest.fixture
def reads(monkeypatch):
    """Names of the CLIPs whose weights are read."""
    names, load = [], backbone.load_clip_weights
    monkeypatch.setattr(
        backbone, "load_clip_weights", lambda clip, name, path: names.append(name) or load(clip, name, path)
    )
    return names


def test_clips_weights_are_read_once(reads, tmp_path):
    model = AnomalyClip(backbone="toy", layers=[2], image_size=48, visualizer=False)
    assert reads == ["toy"]
    path = model.save_weights(tmp_path / "learned.safetensors")
    AnomalyClip(weights=path, visualizer=False)
    assert reads == ["toy", "toy"]


def test_filters_are_made_once_for_each_size(monkeypatch):
    monkeypatch.setattr(preprocess, "_resize_by_pillow", None)  # as on an accelerator
    preprocess._bands.cache_clear()
    for _ in range(3):
        for height, width in ((40, 50), (60, 50)):
            images = torch.rand(2, 3, height, width)
            preprocess._resize_by_matrices(images, (32, 32), preprocess.Resampling.BICUBIC, preprocess._filter_in_bands)
    assert preprocess._bands.cache_info().misses == 3  # lines of 40, 50 and 60 pixels
