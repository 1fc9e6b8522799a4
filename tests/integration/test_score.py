# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""A store of images, scored by both engines and by ``anomalib predict``, killed and resumed."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from anomalib_clipzoo.command import main
from tests.unit.deploy.models import make_model
from tests.unit.deploy.pictures import draw_pictures

from .conftest import NO_PICTURES, environment, forked_anomalib

pytestmark = pytest.mark.slow

CLIPZOO = Path(sys.executable).parent / "clipzoo"
COUNT = 60
ALONE = ("--batch_size", "1")
"""The last digits of scores depend on which images are scored together, and with them the highest of equal pixels."""
COLUMNS = ["label", "width", "height", "peak_x", "peak_y", "region_count", "regions", "problem"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    pictures = [picture for _, picture in named_pictures()]
    return make_model(pictures).save_weights(tmp_path_factory.mktemp("weights") / "learned.safetensors")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "Prüf bilder #1"
    (folder / "sub").mkdir(parents=True)
    for name, picture in named_pictures():
        picture.save(folder / name)
    (folder / "empty.png").write_bytes(b"")
    return folder


def named_pictures() -> Iterator[tuple[str, Image.Image]]:
    for seed, size in enumerate([(96, 96), (150, 60), (40, 200)]):
        for number, picture in enumerate(draw_pictures(COUNT // 3, size, seed)):
            yield f"{'sub/' if number % 2 else ''}{seed}-{number} 100%.png", picture


@pytest.fixture(scope="module")
def killed_and_resumed(weights, images, tmp_path_factory) -> pd.DataFrame:
    """The table of a run that was killed after its first parts."""
    output = tmp_path_factory.mktemp("tables") / "killed"
    command = ["score", str(weights), str(images), str(output), *ALONE, "--rows_per_part", "4"]
    with subprocess.Popen([CLIPZOO, *command], env=environment(), stderr=subprocess.DEVNULL) as process:
        while not list(output.glob("*.parquet")):
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    kept = len(read(output))
    assert 4 <= kept < COUNT
    assert main(command) == 3
    return read(output)


def read(output: Path) -> pd.DataFrame:
    parts = [pd.read_parquet(path) for path in sorted(output.glob("*.parquet"))]
    return pd.concat(parts).sort_values("image_path").set_index("image_path")


def check_equal(table: pd.DataFrame, other: pd.DataFrame) -> None:
    assert table.index.is_unique
    pd.testing.assert_frame_equal(table[COLUMNS], other[COLUMNS])
    np.testing.assert_allclose(table["score"], other["score"], atol=1e-6)


def test_a_killed_run_goes_on_without_double_or_missing_rows(killed_and_resumed, images):
    names = {str(path) for path in images.rglob("*.png")}
    assert set(killed_and_resumed.index) == names
    assert len(killed_and_resumed) == len(names) == COUNT + 1
    assert set(killed_and_resumed["label"].dropna()) == {"normal", "anomalous"}


def test_predict_says_the_same(killed_and_resumed, weights, images, tmp_path):
    model = ("--model", "WinClipPlus", "--model.weights", weights, "--model.backbone", "toy", *NO_PICTURES)
    forked_anomalib("predict", *model, "--data", images / "sub", folder=tmp_path)
    (path,) = tmp_path.glob("results/WinClipPlus/latest/predictions.csv")
    predicted = pd.read_csv(path).set_index("image_path").sort_index()
    table = killed_and_resumed.loc[predicted.index]
    assert len(table) == COUNT // 2
    np.testing.assert_allclose(table["score"], predicted["score"], atol=1e-6)
    for name in ("label", "width", "height", "peak_x", "peak_y", "region_count", "regions"):
        assert list(table[name]) == list(predicted[name]), name


def test_ray_finishes_what_was_begun_here_with_equal_rows(killed_and_resumed, weights, images, tmp_path):
    pytest.importorskip("ray")
    output = tmp_path / "ray"
    command = ["score", str(weights), str(images / "sub"), str(output), *ALONE]
    assert main(command) == 0
    begun = len(read(output))
    assert 0 < begun < COUNT
    (output / "half.parquet").write_bytes(b"PAR1 and no end")
    command[2] = str(images)
    assert main([*command, "--engine", "ray", "--actors", "2"]) == 3
    check_equal(read(output), killed_and_resumed)
