# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AdaCLIP: hybrid learnable prompts for zero-shot anomaly detection."""

from .lightning_model import AdaClip
from .torch_model import AdaClipModel

__all__ = ["AdaClip", "AdaClipModel"]
