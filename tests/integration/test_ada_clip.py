# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AdaClip through the anomalib command."""

import pytest

from .commands import QuickstartCommands

pytestmark = pytest.mark.slow


class TestQuickstart(QuickstartCommands):
    model, floors = "AdaClip", {"pixel_AUROC": 0.88, "image_AUROC": 0.75}
