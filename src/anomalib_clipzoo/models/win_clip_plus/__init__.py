# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""WinCLIP and WinCLIP+: zero- and few-shot anomaly detection with windows of CLIP."""

from .lightning_model import WinClipPlus
from .torch_model import WinClipPlusModel

__all__ = ["WinClipPlus", "WinClipPlusModel"]
