# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""One short command for each model, as a user types it."""

import pandas as pd
import pytest

from tests.unit.models.test_arguments import MODELS

from .conftest import NO_PICTURES, forked_anomalib


@pytest.mark.parametrize("model", [model.__name__ for model in MODELS])
def test_predict_on_a_folder_of_ones_own(model, photos, tmp_path):
    forked_anomalib(
        *("predict", "--model", model, "--model.backbone", "toy", *NO_PICTURES, "--data", photos), folder=tmp_path
    )
    (table,) = tmp_path.glob(f"results/{model}/**/predictions.csv")
    scores = pd.read_csv(table)["score"]
    assert len(scores) == len(list(photos.iterdir()))
    assert scores.between(0, 1).all()
