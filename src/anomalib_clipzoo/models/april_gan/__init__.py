# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""APRIL-GAN: linear layers on CLIP's patch tokens, for zero- and few-shot anomaly detection."""

from .lightning_model import AprilGan
from .torch_model import AprilGanModel

__all__ = ["AprilGan", "AprilGanModel"]
