# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AnomalyCLIP: object-agnostic prompts for zero-shot anomaly detection."""

from .lightning_model import AnomalyClip
from .torch_model import AnomalyClipModel

__all__ = ["AnomalyClip", "AnomalyClipModel"]
