# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The frozen CLIP that every model stands on; it knows nothing of anomalies."""

from .backbone import Backbone, default_image_size
from .text import TextTower
from .vision import VisionFeatures, VisionTower, quarter_layers

__all__ = ["Backbone", "TextTower", "VisionFeatures", "VisionTower", "default_image_size", "quarter_layers"]
