# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

import errno
import logging
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from anomalib.data.utils import Split
from filelock import FileLock

from anomalib_clipzoo.data import MultiCategory, toy
from anomalib_clipzoo.data.drawing import DEFECTS, IMAGE_SIZE, OBJECTS, TEXTURES, draw
from anomalib_clipzoo.data.toy import CATEGORIES, SEEN_CATEGORIES, UNSEEN_CATEGORIES, ToyAD


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    toy.ensure_category(folder, "gear")
    return folder


def test_there_is_enough_to_see():
    assert len(TEXTURES) >= 12
    assert len(OBJECTS) >= 8
    assert len(DEFECTS) >= 7
    assert set(CATEGORIES) == {*TEXTURES, *OBJECTS}
    assert set(SEEN_CATEGORIES).isdisjoint(UNSEEN_CATEGORIES)
    assert {*SEEN_CATEGORIES, *UNSEEN_CATEGORIES} == set(CATEGORIES)
    assert set(UNSEEN_CATEGORIES) & set(TEXTURES)
    assert set(UNSEEN_CATEGORIES) & set(OBJECTS)


@pytest.mark.parametrize("category", CATEGORIES)
def test_mask_is_exactly_where_the_defect_was_painted(category: str):
    for number, defect in enumerate(DEFECTS):
        clean, empty = draw(category, None, np.random.default_rng(number))
        damaged, mask = draw(category, defect, np.random.default_rng(number))
        assert damaged.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
        assert damaged.dtype == np.uint8
        assert not empty.any()
        assert 0 < mask.sum() < mask.size / 2
        changed = (clean != damaged).any(-1)
        assert not changed[~mask].any()
        assert changed[mask].mean() > 0.5


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_are_visible_and_of_several_strengths(defect: str):
    contrasts = []
    for seed in range(24):
        clean, _ = draw("cardboard", None, np.random.default_rng(seed))
        damaged, mask = draw("cardboard", defect, np.random.default_rng(seed))
        contrasts.append(np.abs(damaged.astype(float) - clean)[mask].mean() / 255)
    assert min(contrasts) > 0.02
    assert max(contrasts) > 1.5 * min(contrasts)  # strengths go from 0.6 to 1


def test_images_of_a_category_differ():
    first, second = (draw("nut", None, np.random.default_rng(seed))[0].astype(float) for seed in (0, 1))
    assert np.abs(first - second).mean() > 5


def test_defects_lie_on_the_object():
    background = np.zeros((IMAGE_SIZE, IMAGE_SIZE), bool)
    background[:3], background[-3:], background[:, :3], background[:, -3:] = True, True, True, True
    for seed in range(20):
        _, mask = draw("coin", "stain", np.random.default_rng(seed))
        assert not mask[background].any()


def test_layout_is_that_of_mvtec(root: Path):
    folder = root / "gear"
    assert len(list((folder / "train" / "good").glob("*.png"))) == toy.TRAIN_IMAGES
    assert [path.name for path in (folder / "train").iterdir()] == ["good"]
    assert len(list((folder / "test" / "good").glob("*.png"))) == toy.TEST_GOOD_IMAGES
    assert {path.name for path in (folder / "test").iterdir()} == {"good", *DEFECTS}
    assert {path.name for path in (folder / "ground_truth").iterdir()} == set(DEFECTS)
    for image in (path for defect in DEFECTS for path in (folder / "test" / defect).iterdir()):
        mask = read(folder / "ground_truth" / image.parent.name / f"{image.stem}_mask.png")
        assert mask.shape == read(image).shape[:2] == (IMAGE_SIZE, IMAGE_SIZE)
        assert set(np.unique(mask)) == {0, 255}


def test_no_image_is_there_twice(root: Path):
    images = [data for name, data in files(root / "gear").items() if name.startswith(("test", "train"))]
    assert len(set(images)) == len(images)


def test_files_are_the_same_every_time(root: Path, tmp_path: Path):
    toy.ensure_category(tmp_path, "gear")
    assert files(tmp_path / "gear") == files(root / "gear")


def test_datamodule_reads_the_files_through_anomalib(root: Path):
    datamodule = ToyAD(root=root, category="gear", train_batch_size=4, eval_batch_size=44)
    datamodule.setup()
    assert datamodule.name == "ToyAD"
    assert datamodule.category == "gear"
    assert len(datamodule.train_data) == toy.TRAIN_IMAGES
    assert not datamodule.train_data.has_anomalous
    assert datamodule.train_data.split == Split.TRAIN
    batch = next(iter(datamodule.test_dataloader()))
    anomalous = len(DEFECTS) * toy.TEST_DEFECT_IMAGES
    assert batch.image.shape == (toy.TEST_GOOD_IMAGES + anomalous, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert batch.gt_label.sum() == anomalous
    assert (batch.gt_mask.flatten(1).any(1) == batch.gt_label.bool()).all()


def test_validation_split_modes_work(root: Path):
    datamodule = ToyAD(root=root, category="gear", val_split_mode="from_test", val_split_ratio=0.5, seed=1)
    datamodule.setup()
    total = toy.TEST_GOOD_IMAGES + len(DEFECTS) * toy.TEST_DEFECT_IMAGES
    assert len(datamodule.val_data) == len(datamodule.test_data) == total // 2


def test_unknown_category_lists_those_that_exist(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no category 'spoon'.*bottle.*wood") as error:
        ToyAD(root=tmp_path, category="spoon")
    assert all(category in str(error.value) for category in CATEGORIES)


def test_drawing_is_fast(tmp_path: Path):
    start = time.perf_counter()
    toy.ensure_category(tmp_path, "leather")
    assert time.perf_counter() - start < 10


def test_drawn_once(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(toy, "draw_category", lambda *_: pytest.fail("drawn again"))
    toy.ensure_category(root, "gear")


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != toy.LOCK_FILE)


def test_interrupted_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(_category: str, defect: str | None, _rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if defect == "hole":
            raise KeyboardInterrupt
        return np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), bool)

    monkeypatch.setattr(toy, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        toy.ensure_category(tmp_path, "nut")
    assert not visible(tmp_path)
    monkeypatch.undo()
    toy.ensure_category(tmp_path, "nut")
    assert len(list((tmp_path / "nut" / "test" / "hole").iterdir())) == toy.TEST_DEFECT_IMAGES


def test_a_killed_process_leaves_nothing_beyond_the_next_start(tmp_path: Path, root: Path, monkeypatch):
    started = tmp_path / "started"
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(toy, "draw", lambda *_: (started.touch(), time.sleep(600)))
        toy.ensure_category(tmp_path / "toy", "gear")
    while not started.exists():
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (scratch,) = (tmp_path / "toy").glob(".gear-*")
    toy.ensure_category(tmp_path / "toy", "gear")
    assert not scratch.exists()
    assert files(tmp_path / "toy" / "gear") == files(root / "gear")
    assert visible(tmp_path / "toy") == ["gear"]


def test_what_a_process_is_drawing_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(toy, "LOCK_PATIENCE", 0.05)
    (tmp_path / ".gear-drawing-1").mkdir()
    with FileLock(tmp_path / toy.LOCK_FILE), pytest.raises(OSError, match=r"cannot be drawn.*\.drawing\.lock"):
        toy.ensure_category(tmp_path, "gear")
    assert visible(tmp_path) == [".gear-drawing-1"]


def test_a_full_disk_is_told_and_leaves_nothing_half_drawn(tmp_path: Path, root: Path, monkeypatch):
    def full(path: Path, content: bytes) -> int:
        if path.name == "003_mask.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write_bytes(path, content)

    write_bytes = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"ToyAD cannot be drawn into .*No space left.*003_mask\.png.*another root"):
        toy.ensure_category(tmp_path, "gear")
    assert not visible(tmp_path)
    monkeypatch.undo()
    toy.ensure_category(tmp_path, "gear")
    assert files(tmp_path / "gear") == files(root / "gear")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


IMAGES = ("test/good/000.png", "ground_truth/cut/001_mask.png")
HARM = {"gone": Path.unlink, "cut": cut, "empty": lambda path: path.write_bytes(b"")}


@pytest.mark.parametrize(
    ("name", "harm"),
    [*product(IMAGES, HARM), (toy.RECORD_FILE, "cut"), (toy.RECORD_FILE, "empty")],
)
def test_a_category_that_is_not_whole_is_drawn_anew(tmp_path: Path, root: Path, harm, name):
    shutil.copytree(root / "gear", tmp_path / "gear")
    assert toy.is_current(tmp_path / "gear")
    HARM[harm](tmp_path / "gear" / name)
    assert not toy.is_current(tmp_path / "gear")
    toy.ensure_category(tmp_path, "gear")
    assert files(tmp_path / "gear") == files(root / "gear")
    assert visible(tmp_path) == ["gear"]


def test_one_line_tells_of_drawing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        MultiCategory(ToyAD(tmp_path), categories=["nut", "coin"]).prepare_data()
    assert [record.getMessage() for record in caplog.records if "toy" in record.name] == [
        f"Drawing toy categories into {tmp_path} as they are first used."
    ]
    assert visible(tmp_path) == ["coin", "nut"]


def test_a_changed_program_draws_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    toy.ensure_category(tmp_path, "nut")
    wanted = files(tmp_path / "nut")
    (tmp_path / "nut" / toy.RECORD_FILE).write_text("an older program")
    (tmp_path / "nut" / "test" / "good" / "000.png").unlink()
    toy.ensure_category(tmp_path, "nut")
    assert files(tmp_path / "nut") == wanted
    assert visible(tmp_path) == ["nut"]


def test_a_folder_of_somebody_else_is_not_touched(tmp_path: Path):
    (tmp_path / "bottle").mkdir()
    (tmp_path / "bottle" / "precious.png").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="not drawn by ToyAD"):
        ToyAD(root=tmp_path, category="bottle").prepare_data()
    assert files(tmp_path / "bottle") == {"precious.png": b"mine"}


def test_several_may_draw_at_once(tmp_path: Path, root: Path):
    (tmp_path / "gear").mkdir()
    (tmp_path / "gear" / toy.RECORD_FILE).write_text("an older program")
    with ThreadPoolExecutor(3) as pool:
        for result in [pool.submit(toy.ensure_category, tmp_path, "gear") for _ in range(3)]:
            result.result()
    assert files(tmp_path / "gear") == files(root / "gear")
    assert visible(tmp_path) == ["gear"]
