# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Images of any path are read, and each has a heatmap of its own; anomalib as it comes refuses and overwrites."""

import sys
from pathlib import Path

import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.data.utils import path as paths
from anomalib.data.utils import validate_path
from anomalib.engine import Engine
from anomalib.visualization.image.visualizer import ImageVisualizer
from torch.utils.data import DataLoader

from anomalib_clipzoo import MultiCategory, ToyAD
from anomalib_clipzoo.plugin.patches import images

from .test_engine import QUIET
from .tiny import CountsItsSteps, draw

visualizer = sys.modules[ImageVisualizer.__module__]
DAYS = ("mon/cam1/1.png", "tue/cam1/1.png", "tue/cam2/1.png")


def heatmaps(tmp_path: Path, photos: Path, **options) -> set[str]:
    """The heatmaps that a prediction leaves behind."""
    results = tmp_path / "results"
    Engine(default_root_dir=results, **QUIET, **options).predict(CountsItsSteps(visualizer=True), data_path=photos)
    return {str(path.relative_to(results)) for path in results.rglob("*.*")}


@pytest.mark.parametrize("name", ["Prüfbilder", "Pru\u0308fbilder", "検査", "Снимки", "Screenshot 9\u202fPM", "a b"])
def test_letters_of_all_languages_are_printable(name, tmp_path):
    photos = draw(tmp_path / name, "1.png")
    assert validate_path(photos) == photos.resolve()
    assert PredictDataset(photos).image_filenames == [photos / "1.png"]


@pytest.mark.parametrize("name", ["a\nb", "a\x00b", "a\x1bb", "a\x7fb", "a\u202eb", "a\u2028b", "a\udcffb", ""])
def test_control_characters_are_refused(name):
    with pytest.raises(ValueError, match="non-printable"):
        validate_path(name, should_exist=False)


def test_anomalib_refuses_umlauts(unpatched, tmp_path):
    unpatched(paths, "contains_non_printable_characters")
    with pytest.raises(ValueError, match="non-printable"):
        validate_path(draw(tmp_path / "Prüfbilder", "1.png"))


def test_each_image_has_a_heatmap_of_its_own(patched, unpatched, tmp_path):
    if not patched:
        unpatched(visualizer, "generate_output_filename")
    names = DAYS if patched else ("cam1/1.png", "cam2/1.png")
    assert heatmaps(tmp_path, draw(tmp_path / "photos", *DAYS)) == {f"CountsItsSteps/latest/images/{n}" for n in names}


def test_the_folder_of_all_images_is_looked_for_once_in_a_run(tmp_path, monkeypatch):
    asked = []
    find = images.image_paths
    monkeypatch.setattr(images, "image_paths", lambda loaders: asked.append(1) or find(loaders))
    heatmaps(tmp_path, draw(tmp_path / "photos", *DAYS))
    assert len(asked) == 1


def test_images_beside_their_folders_have_one_too(tmp_path):
    names = ("1.png", "photos/1.png", "a/photos/1.png")
    expected = {f"CountsItsSteps/latest/images/{name}" for name in names}
    assert heatmaps(tmp_path, draw(tmp_path / "photos", *names)) == expected


@pytest.mark.parametrize("names", [("1.png", "2.png"), ("good/1.png", "bad/1.png")])
def test_heatmaps_that_were_apart_stay_where_they_were(names, unpatched, tmp_path):
    photos = draw(tmp_path / "photos", *names)
    mended = heatmaps(tmp_path / "a", photos)
    unpatched(visualizer, "generate_output_filename")
    assert mended == heatmaps(tmp_path / "b", photos)
    assert len(mended) == len(names)


@pytest.mark.parametrize("image", ["/data/MVTecAD/bottle/test/bad/1.png", "/data/MVTecAD/bottle/1.png"])
def test_what_anomalib_keeps_below_the_dataset_stays(image):
    token = images._common_folder.set(Path("/data/MVTecAD/bottle"))
    place = visualizer.generate_output_filename(image, "out", "mvtecad", mkdir=False)
    images._common_folder.reset(token)
    assert place == "out" / Path(image).relative_to("/data/MVTecAD")


def test_two_datasets_of_one_name_are_kept_apart():
    token = images._common_folder.set(Path("/data"))
    place = visualizer.generate_output_filename("/data/new/MVTecAD/bad/1.png", "out", "MVTecAD", mkdir=False)
    images._common_folder.reset(token)
    assert place == Path("out/new/MVTecAD/bad/1.png")


def test_common_folder():
    assert images.common_folder([]) is None
    assert images.common_folder(["/a/b", "/a/b"]) == Path("/a/b")
    assert images.common_folder(["/a/b/c", "/a/b", "/a/b/d/e"]) == Path("/a/b")
    assert images.common_folder(["a/b", "a/c"]) == Path("a")
    assert images.common_folder(["/a/b", "a/c"]) is None


def test_image_paths_of_all_kinds_of_data(tmp_path):
    photos = draw(tmp_path / "photos", *DAYS)
    one, two = DataLoader(PredictDataset(photos)), DataLoader(torch.zeros(3))
    assert list(images.image_paths([one, two])) == [str(photos / name) for name in DAYS]
    toy = MultiCategory(ToyAD(root=tmp_path / "ToyAD", num_workers=0), categories=["tile", "wood"])
    toy.prepare_data()
    toy.setup()
    found = list(images.image_paths(toy.test_dataloader()))
    assert found == list(toy.test_data.samples["image_path"])
    assert images.common_folder(str(Path(path).parent) for path in found) == tmp_path / "ToyAD"


@pytest.mark.parametrize("mode", ["fast_dev_run", "barebones"])
def test_dry_runs_draw_nothing(mode, patched, unpatched, tmp_path):
    if not patched:
        unpatched(ImageVisualizer, "on_test_batch_end")
    options = {"fast_dev_run": True} if mode == "fast_dev_run" else {"barebones": True}
    found = heatmaps(tmp_path, draw(tmp_path / "photos", "1.png"), **options)
    assert len(found) == (0 if patched else 1)
