# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""VCP-CLIP: visual context prompting for zero-shot anomaly segmentation."""

from .lightning_model import VcpClip
from .torch_model import VcpClipModel

__all__ = ["VcpClip", "VcpClipModel"]
