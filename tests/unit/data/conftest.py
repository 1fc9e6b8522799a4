# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Small datasets in the layout of MVTec AD."""

from pathlib import Path

import pytest
from mvtec_layout import draw_category


@pytest.fixture
def auxiliary_root(tmp_path: Path) -> Path:
    """Categories bottle, cable and one that MVTec AD does not have."""
    for seed, category in enumerate(("bottle", "cable", "own")):
        draw_category(tmp_path / "auxiliary" / category, seed)
    return tmp_path / "auxiliary"


@pytest.fixture
def target_root(tmp_path: Path) -> Path:
    """Categories tile and wood."""
    for seed, category in enumerate(("tile", "wood")):
        draw_category(tmp_path / "target" / category, 10 + seed)
    return tmp_path / "target"
