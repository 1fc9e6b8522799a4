# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Reading tables of predictions back."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

PREDICTIONS_FILE = "predictions.csv"
WORDS = ("image_path", "category", "label", "gt_label", "regions", "heatmap", "problem")
NEEDED = ("image_path", "score", "label", "gt_label", "problem")


def read_predictions(path: Path) -> pd.DataFrame:
    """Read a table of predictions.

    Args:
        path: The file.

    Returns:
        The table; empty cells are empty strings in columns of words, and not a number in others.

    Raises:
        ValueError: If it is empty, or another program's table.
    """
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(WORDS, str))
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        msg = f"{path} is no table of predictions: {error}"
        raise ValueError(msg) from error
    missing = [name for name in NEEDED if name not in table]
    if missing:
        msg = f"{path} was not written by anomalib-clipzoo: it lacks the columns {', '.join(missing)}."
        raise ValueError(msg)
    words = [name for name in WORDS if name in table]
    table[words] = table[words].fillna("")
    return table
