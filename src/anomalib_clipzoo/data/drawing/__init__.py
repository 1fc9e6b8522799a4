# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""A program that draws pictures of surfaces and things, clean or damaged, with exact masks."""

from anomalib_clipzoo.data.drawing.defects import DEFECTS
from anomalib_clipzoo.data.drawing.objects import OBJECTS
from anomalib_clipzoo.data.drawing.scene import IMAGE_SIZE, Visibility, draw
from anomalib_clipzoo.data.drawing.textures import TEXTURES

__all__ = ["DEFECTS", "IMAGE_SIZE", "OBJECTS", "TEXTURES", "Visibility", "draw"]
