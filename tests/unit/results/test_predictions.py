# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The table of predictions, in runs of anomalib's engine with a model that is none of ours."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from anomalib.data import Folder, PredictDataset
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import ImageVisualizer
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import CenterCrop, Compose, Resize

from anomalib_clipzoo.results.folder_images import FolderImages
from anomalib_clipzoo.results.predictions import PREDICTIONS_FILE, Predictions, _join
from anomalib_clipzoo.results.reading import read_predictions
from anomalib_clipzoo.results.rows import COLUMNS
from anomalib_clipzoo.results.run_record import RunRecord
from anomalib_clipzoo.results.table_file import TableFile
from anomalib_clipzoo.results.visualizer import HEADER, HeatmapVisualizer

from .brightness import SQUARE, Brightness, engine_in, write_image


@pytest.fixture
def images(tmp_path) -> Path:
    """Four images, one of them bright enough to be anomalous."""
    folder = tmp_path / "images"
    for number, brightness in enumerate((None, 0.3, 0.4, 0.9)):
        write_image(folder / f"{number}.png", brightness, size=(96, 40))
    return folder


def predict(images: Path, results: Path, model=None, dataset=FolderImages, **arguments) -> tuple[Path, pd.DataFrame]:
    """Predict a folder; return the run's folder and its table."""
    engine = engine_in(results, Predictions(**arguments))
    engine.predict(model or Brightness(visualizer=False), dataset=dataset(images))
    folder = Path(engine.trainer.default_root_dir)
    return folder, read_predictions(folder / PREDICTIONS_FILE)


def fitted(**values: float) -> PostProcessor:
    """anomalib's post-processor as validation leaves it."""
    post_processor = PostProcessor()
    for name, value in {"image_min": 0.0, "image_max": 1.0, "pixel_min": 0.0, "pixel_max": 1.0, **values}.items():
        getattr(post_processor, name).fill_(value)
    return post_processor


def test_every_image_has_a_row(images, tmp_path):
    folder, table = predict(images, tmp_path / "results")
    assert tuple(table.columns) == COLUMNS
    assert table.image_path.tolist() == [str(images / f"{number}.png") for number in range(4)]
    assert table.score.tolist() == pytest.approx([0.2, 0.3, 0.4, 0.9], abs=0.002)
    assert table.label.tolist() == ["normal", "normal", "normal", "anomalous"]
    assert (table.threshold == 0.5).all()
    assert table.raw_threshold.isna().all()
    assert (table.gt_label == "").all()
    x, y, width, height = SQUARE
    region = {"x": x, "y": y, "width": width, "height": height, "area": width * height}
    assert [json.loads(regions) for regions in table.regions] == [[], [], [], [region]]
    assert table[["peak_x", "peak_y"]].iloc[3].tolist() == [x, y]
    assert table[["width", "height"]].to_numpy().tolist() == [[96, 40]] * 4
    record = RunRecord.read(folder)
    assert (record.stage, record.model, record.images, record.unreadable) == ("predict", "Brightness", 4, 0)
    assert record.finished >= record.started
    assert record.packages["anomalib-clipzoo"]


def test_scores_are_those_after_the_post_processor_and_raw_scores_those_before(images, tmp_path):
    model = Brightness(visualizer=False, post_processor=fitted(_image_threshold=0.35))
    _, table = predict(images, tmp_path / "results", model)
    assert table.raw_score.tolist() == pytest.approx([0.2, 0.3, 0.4, 0.9], abs=0.002)
    assert table.score.tolist() == pytest.approx([0.35, 0.45, 0.55, 1.0], abs=0.002)  # anomalib cuts off at 1
    assert table.label.tolist() == ["normal", "normal", "anomalous", "anomalous"]
    assert table.raw_threshold.tolist() == pytest.approx([0.35] * 4)


class OwnCallbacks(Brightness):
    """A model that brings its own table, before anomalib's components."""

    def configure_callbacks(self):
        return [Predictions(), *super().configure_callbacks()]


def test_the_order_of_callbacks_does_not_matter(images, tmp_path):
    model = OwnCallbacks(visualizer=False, post_processor=fitted(_image_threshold=0.35))
    engine = engine_in(tmp_path / "results")
    for _ in range(2):  # the second run's callbacks take the place of the first's
        engine.predict(model, dataset=FolderImages(images))
        table = read_predictions(Path(engine.trainer.default_root_dir) / PREDICTIONS_FILE)
        assert table.raw_score.tolist() == pytest.approx([0.2, 0.3, 0.4, 0.9], abs=0.002)
        assert table.score.tolist() == pytest.approx([0.35, 0.45, 0.55, 1.0], abs=0.002)


def test_without_post_processor_there_are_scores_alone(images, tmp_path, capsys):
    _, table = predict(images, tmp_path / "results", Brightness(visualizer=False, post_processor=False))
    assert table.score.tolist() == table.raw_score.tolist()
    assert (table.label == "").all()
    assert table.threshold.isna().all()
    assert "nothing decides which are anomalous" in capsys.readouterr().out


def test_a_test_has_true_labels_and_the_category(tmp_path, capsys):
    for number in range(3):
        write_image(tmp_path / "parts" / "good" / f"{number}.png", 0.6 if number == 2 else None)
        write_image(tmp_path / "parts" / "bad" / f"{number}.png", 0.4 if number == 0 else 0.9)
    good, bad = tmp_path / "parts" / "good", tmp_path / "parts" / "bad"
    datamodule = Folder("parts", good, abnormal_dir=bad, normal_test_dir=good, val_split_mode="none", num_workers=0)
    datamodule.category = "washer"
    engine = engine_in(tmp_path / "results", Predictions())
    engine.test(Brightness(visualizer=False), datamodule=datamodule)
    table = read_predictions(Path(engine.trainer.default_root_dir) / PREDICTIONS_FILE)
    assert len(table) == len(datamodule.test_data)
    assert set(table.category) == {"washer"}
    truth = ["anomalous" if "bad" in path else "normal" for path in table.image_path]
    assert table.gt_label.tolist() == truth
    sentence = "Of 3 good images 1 are false alarms. Of 3 bad images 1 are missed."
    assert sentence in " ".join(capsys.readouterr().out.split())


def test_the_end_says_how_many_at_which_threshold_and_which(images, tmp_path, capsys):
    write_image(images / "[bold]7[/bold].png", 0.8)
    post_processor = fitted(_image_threshold=0.35)
    post_processor.provenance = {
        "method": "false alarm rate",
        "false_alarm_rate": 0.01,
        "normal_images": 1200,
        "anomalous_images": 0,
        "categories": ["drill"],
        "date": "2026-11-24T09:53:45+00:00",
    }
    predict(images, tmp_path / "results", Brightness(visualizer=False, post_processor=post_processor), worst=2)
    text = capsys.readouterr().out
    flat = " ".join(text.split())
    assert "3 of 5 images are anomalous: their score is above 0.500." in flat
    assert "raw score 0.35, false alarm rate of 0.01 on 1200 normal images of drill, 2026-11-24." in flat
    assert "[bold]7[/bold].png" in text.replace("\n", "")
    assert text.index("3.png") < text.index("[bold]7")
    assert "2.png" not in text


def test_unreadable_images_are_rows_with_a_reason(images, tmp_path, capsys):
    (images / "1.png").write_bytes(b"")
    callback = Predictions()
    engine = engine_in(tmp_path / "results", callback)
    engine.predict(Brightness(visualizer=HeatmapVisualizer()), dataset=FolderImages(images))
    folder = Path(engine.trainer.default_root_dir)
    table = read_predictions(folder / PREDICTIONS_FILE)
    assert table.problem.tolist() == ["", "the file is empty", "", ""]
    assert table.score.isna().tolist() == [False, True, False, False]
    assert table.label.tolist() == ["normal", "", "normal", "anomalous"]
    assert len(list((folder / "images").rglob("*.png"))) == 3
    assert callback.unreadable == RunRecord.read(folder).unreadable == 1
    assert f"{images / '1.png'}: the file is empty" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize("option", ["fast_dev_run", "barebones"])
def test_a_run_that_is_only_tried_out_writes_nothing(option, images, tmp_path):
    barebones = {"enable_checkpointing": False, "enable_model_summary": False} if option == "barebones" else {}
    engine = engine_in(tmp_path / "results", Predictions(), **{option: True}, **barebones)
    engine.predict(Brightness(visualizer=HeatmapVisualizer()), dataset=FolderImages(images))
    assert not [path for path in (tmp_path / "results").rglob("*") if path.is_file()]


def test_parquet_holds_the_same_table(images, tmp_path):
    folder, table = predict(images, tmp_path / "results", parquet=True)
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "predictions.parquet"), table)


def test_what_was_loaded_is_known_by_its_content(images, tmp_path):
    weights, checkpoint = tmp_path / "learned.safetensors", tmp_path / "model.ckpt"
    weights.write_bytes(b"learned")
    model = Brightness(visualizer=False)
    model.hparams["weights"] = str(weights)
    folder, _ = predict(images, tmp_path / "results", model)
    digest = hashlib.sha256(b"learned").hexdigest()
    assert RunRecord.read(folder).weights == {str(weights): digest}
    engine = engine_in(tmp_path / "results", Predictions())
    engine.predict(model, dataset=FolderImages(images))
    engine.trainer.save_checkpoint(checkpoint)
    engine.predict(model, dataset=FolderImages(images), ckpt_path=checkpoint)
    assert list(RunRecord.read(folder).weights) == [str(weights), str(checkpoint)]


def test_an_earlier_table_is_kept(images, tmp_path):
    folder, first = predict(images, tmp_path / "results")
    (folder / "metrics.csv").write_text("of a test")
    write_image(images / "4.png", 0.7)
    _, second = predict(images, tmp_path / "results")
    assert len(second) == len(first) + 1
    (kept,) = (folder / "earlier").glob(f"*/{PREDICTIONS_FILE}")
    pd.testing.assert_frame_equal(read_predictions(kept), first)
    assert (kept.parent / "metrics.csv").read_text() == "of a test"
    assert not (folder / "metrics.csv").exists()
    assert RunRecord.read(kept.parent).images == len(first)
    predict(images, tmp_path / "results")
    assert len(list((folder / "earlier").iterdir())) == 2


def test_maps_of_another_size_and_cut_off_maps(images, tmp_path):
    model = Brightness(visualizer=False, pre_processor=PreProcessor(Resize((20, 24))))
    _, table = predict(images, tmp_path / "resized", model)
    (region,) = json.loads(table.regions[3])
    x, y, width, height = SQUARE
    assert abs(region["x"] - x) <= 4
    assert abs(region["y"] - y) <= 2
    assert abs(region["area"] - width * height) <= 16
    cropped = Brightness(visualizer=False, pre_processor=PreProcessor(Compose([Resize((40, 96)), CenterCrop(32)])))
    _, table = predict(images, tmp_path / "cropped", cropped)
    assert table.score.notna().all()
    assert table.peak_x.isna().all()
    assert (table.regions == "").all()


@pytest.mark.parametrize("visualizer", [HeatmapVisualizer(), ImageVisualizer()], ids=["own", "anomalib"])
def test_the_table_leads_to_the_pictures(visualizer, images, tmp_path):
    folder, table = predict(images, tmp_path / "results", Brightness(visualizer=visualizer), dataset=PredictDataset)
    assert all((folder / path).is_file() for path in table.heatmap)
    left, top, width, height = RunRecord.read(folder).heatmap_tile
    assert (left, width, height) == (512, 256, 256)
    assert top == (HEADER if isinstance(visualizer, HeatmapVisualizer) else 0)


@pytest.mark.parametrize("visualizer", [HeatmapVisualizer(), ImageVisualizer()], ids=["own", "anomalib"])
def test_equal_names_in_equal_folders_have_pictures_of_their_own(visualizer, tmp_path):
    for day in ("mon", "tue"):
        write_image(tmp_path / "photos" / day / "cam1" / "1.png")
    model = Brightness(visualizer=visualizer)
    folder, table = predict(tmp_path / "photos", tmp_path / "results", model, dataset=PredictDataset)
    assert all((folder / path).is_file() for path in table.heatmap)
    assert table.heatmap.nunique() == 2


def test_maps_with_a_channel_scores_with_two_dimensions_and_half_precision(images, tmp_path):
    class Shapes(Brightness):
        def test_step(self, batch, *args, **kwargs):
            batch = super().test_step(batch)
            batch.anomaly_map = batch.anomaly_map[:, None].half()
            batch.pred_score = batch.pred_score[:, None].bfloat16()
            return batch

        predict_step = test_step

    _, table = predict(images, tmp_path / "results", Shapes(visualizer=False))
    assert table.label.tolist() == ["normal"] * 3 + ["anomalous"]
    assert table.region_count.tolist() == [0, 0, 0, 1]


def test_rows_are_there_when_their_batch_is_done(images, tmp_path):
    seen = []

    class Watching(Brightness):
        def predict_step(self, batch, *args, **kwargs):
            path = Path(self.trainer.default_root_dir) / PREDICTIONS_FILE
            seen.append(len(read_predictions(path)))
            return super().predict_step(batch)

    dataset = FolderImages(images)
    engine = engine_in(tmp_path / "results", Predictions())
    engine.predict(Watching(visualizer=False), dataloaders=DataLoader(dataset, 3, collate_fn=dataset.collate_fn))
    assert seen == [0, 3]


def test_a_run_that_fails_leaves_its_rows(images, tmp_path):
    class Failing(Brightness):
        def predict_step(self, batch, batch_idx, *args, **kwargs):
            if batch_idx == 2:
                raise RuntimeError("out of luck")
            return super().predict_step(batch)

    engine = engine_in(tmp_path / "results", Predictions())
    with pytest.raises(RuntimeError, match="out of luck"):
        engine.predict(Failing(visualizer=False), dataset=FolderImages(images))
    folder = Path(engine.trainer.default_root_dir)
    assert len(read_predictions(folder / PREDICTIONS_FILE)) == 2
    assert RunRecord.read(folder).finished is None


def test_rows_of_several_processes_end_in_one_table(tmp_path):
    for name, paths in ((PREDICTIONS_FILE, "ad"), ("predictions.rank1.csv", "be"), ("predictions.rank2.csv", "ca")):
        table = TableFile(tmp_path / name, COLUMNS)
        table.append([{"image_path": path, "score": 0.5} for path in paths])
        table.close()
    _join(tmp_path, 3)
    assert read_predictions(tmp_path / PREDICTIONS_FILE).image_path.tolist() == list("adbec")
    assert [path.name for path in tmp_path.iterdir()] == [PREDICTIONS_FILE]


RUN = """
import sys, time
from tests.unit.results.brightness import Brightness, engine_in
from anomalib_clipzoo.results.folder_images import FolderImages
from anomalib_clipzoo.results.predictions import Predictions
devices, pause, images, results = int(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:]

class Slow(Brightness):
    def predict_step(self, batch, *args, **kwargs):
        time.sleep(pause)
        return super().predict_step(batch)

engine = engine_in(results, Predictions(), devices=devices, strategy="ddp" if devices > 1 else "auto")
engine.predict(Slow(visualizer=False), dataset=FolderImages(images), return_predictions=False)
"""


def start(tmp_path: Path, devices: int, pause: float, images: Path) -> subprocess.Popen:
    """Start a run in processes of its own."""
    script = tmp_path / "run.py"
    script.write_text(RUN)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(devices), str(pause), str(images), str(tmp_path / "results")]
    return subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_a_killed_run_leaves_the_rows_of_finished_batches(tmp_path):
    images = tmp_path / "images"
    for number in range(200):
        write_image(images / f"{number:03}.png", number / 200)
    run = start(tmp_path, 1, 0.05, images)
    table = tmp_path / "results" / "Slow" / "latest" / PREDICTIONS_FILE
    deadline = time.monotonic() + 120
    while not (table.exists() and table.read_bytes().count(b"\n") > 20):
        assert run.poll() is None, run.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    left = read_predictions(table)
    assert 20 <= len(left) < 200
    assert left.image_path.tolist() == [str(images / f"{number:03}.png") for number in range(len(left))]
    assert left.score.notna().all()
    assert RunRecord.read(table.parent).finished is None


@pytest.mark.slow
def test_two_processes_write_one_table(tmp_path):
    images = tmp_path / "images"
    for number in range(7):
        write_image(images / f"{number}.png", number / 8)
    run = start(tmp_path, 2, 0, images)
    _, error = run.communicate(timeout=300)
    assert run.returncode == 0, error.decode()
    folder = tmp_path / "results" / "Slow" / "latest"
    table = read_predictions(folder / PREDICTIONS_FILE)
    assert sorted(table.image_path) == [str(images / f"{number}.png") for number in range(7)]
    assert not list(folder.glob("*rank*"))
    assert RunRecord.read(folder).images == 7
