# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Crane: prompts that see the image, and an image score that sees the patches, for zero-shot anomaly detection."""

from .lightning_model import Crane
from .torch_model import CraneModel

__all__ = ["Crane", "CraneModel"]
