# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AdaClip through the anomalib command."""

import pytest

from .commands import QuickstartCommands

pytestmark = pytest.mark.slow


class TestQuickstart(QuickstartCommands):
    model, pixel_auroc, image_auroc = "AdaClip", 0.88, 0.75
