# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageItem
from PIL import Image

from anomalib_clipzoo.results.folder_images import FolderImages
from anomalib_clipzoo.results.rows import Thresholds
from anomalib_clipzoo.results.visualizer import HEADER, HeatmapVisualizer, common_root, verdict_of

from .brightness import SQUARE, Brightness, engine_in, write_image

THRESHOLDS = Thresholds(image=0.5, pixel=0.6)


def item(path: Path, score: float, masked: bool) -> ImageItem:
    """An image after post-processing, its map highest in the square."""
    x, y, width, height = SQUARE
    anomaly_map = torch.full((40, 48), 0.1)
    anomaly_map[y : y + height, x : x + width] = 0.7 if masked else 0.4
    return ImageItem(
        image=torch.rand(3, 40, 48),
        image_path=str(path),
        anomaly_map=anomaly_map,
        pred_mask=anomaly_map > 0.6,
        pred_score=torch.tensor(score),
        pred_label=torch.tensor(score > 0.5),
    )


@pytest.fixture
def path(tmp_path) -> Path:
    write_image(tmp_path / "image.png", 0.9)
    return tmp_path / "image.png"


def test_label_score_and_threshold_are_said(path):
    assert verdict_of(item(path, 0.8123, masked=True), THRESHOLDS).text == "anomalous, score 0.812, threshold 0.500"
    assert verdict_of(item(path, 0.2, masked=False), THRESHOLDS).text == "normal, score 0.200, threshold 0.500"


def test_a_label_that_the_mask_contradicts_is_explained(path):
    bare = verdict_of(item(path, 0.8, masked=False), THRESHOLDS)
    assert bare.explanation == "no pixel is above the pixel threshold 0.600: the cross marks the highest"
    assert bare.marks_peak
    masked = verdict_of(item(path, 0.2, masked=True), THRESHOLDS)
    assert masked.explanation == "pixels are above the pixel threshold 0.600, the image's score is not"
    for agreeing in (item(path, 0.8, masked=True), item(path, 0.2, masked=False)):
        verdict = verdict_of(agreeing, THRESHOLDS)
        assert verdict.explanation == ""
        assert not verdict.marks_peak


def panel(picture: Image.Image, number: int) -> np.ndarray:
    """One of the panels from the right, 1 for the last."""
    left = picture.width - number * 256
    return np.asarray(picture.crop((left, HEADER, left + 256, HEADER + 256))).astype(int)


def test_an_anomalous_image_has_a_mask_or_a_cross(path):
    visualizer = HeatmapVisualizer()
    x, y, width, height = SQUARE
    masked = panel(visualizer.draw(item(path, 0.8, masked=True), THRESHOLDS), 1)
    red = (masked[..., 0] > 180) & (masked[..., 1] < 120)
    rows, columns = np.nonzero(red)
    assert abs(columns.min() - x / 48 * 256) <= 2
    assert abs(columns.max() - (x + width) / 48 * 256) <= 2
    assert abs(rows.min() - y / 40 * 256) <= 2
    assert abs(rows.max() - (y + height) / 40 * 256) <= 2
    plain = visualizer.draw(item(path, 0.2, masked=False), THRESHOLDS)
    crossed = visualizer.draw(item(path, 0.8, masked=False), THRESHOLDS)
    for number in (1, 2):
        changed = np.abs(panel(plain, number) - panel(crossed, number)).sum(-1) > 0
        rows, columns = np.nonzero(changed)
        assert abs(columns.mean() - (x + 0.5) / 48 * 256) <= 2
        assert abs(rows.mean() - (y + 0.5) / 40 * 256) <= 2


def test_sixteen_bit_images_are_not_white_in_the_picture(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((40, 48), 20000, dtype=np.uint16)).save(path)
    image = panel(HeatmapVisualizer().draw(item(path, 0.2, masked=False), THRESHOLDS), 3)
    assert abs(image[200, 200] - 20000 / 257).max() <= 1


def test_long_text_fits(path):
    narrow = HeatmapVisualizer(field_size=(96, 96), overlay_fields=[("image", ["anomaly_map"])])
    picture = narrow.draw(item(path, 0.8, masked=False), THRESHOLDS)
    assert picture.size == (192, 96 + HEADER)


def test_equal_names_in_different_folders_are_kept_apart(tmp_path):
    names = ["a/x/1.png", "b/x/1.png", "b/x/1.jpg", "1.png"]
    for name in names:
        write_image(tmp_path / "photos" / name)
    engine = engine_in(tmp_path / "results")
    engine.predict(Brightness(visualizer=HeatmapVisualizer()), dataset=FolderImages(tmp_path / "photos"))
    pictures = Path(engine.trainer.default_root_dir) / "images"
    found = {path.relative_to(pictures).as_posix() for path in pictures.rglob("*.*")}
    assert found == {f"photos/{name}" for name in names}


def test_a_picture_that_cannot_be_saved_is_named(tmp_path):
    write_image(tmp_path / "photos" / "1.png")
    engine = engine_in(tmp_path / "results")
    (tmp_path / "results" / "Brightness" / "latest" / "images" / "photos" / "1.png").mkdir(parents=True)
    with pytest.raises(OSError, match=r"photos/1\.png"):
        engine.predict(Brightness(visualizer=HeatmapVisualizer()), dataset=FolderImages(tmp_path / "photos"))


def test_the_folder_that_pictures_are_relative_to():
    paths = ["/data/ToyAD/tile/test/good/0.png", "/data/ToyAD/wood/test/good/0.png"]
    assert common_root(paths, "toyad") == Path("/data/ToyAD")
    assert common_root(paths) == Path("/data")
    assert common_root(["/a/1.png", "/b/1.png"]) == Path("/")
    assert common_root([]) is None
