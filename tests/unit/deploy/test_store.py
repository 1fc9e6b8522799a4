# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The table of a store of images: complete, without doubles, whatever stopped a run before."""

import json

import numpy as np
import pandas as pd
import pytest

from anomalib_clipzoo.command import main
from anomalib_clipzoo.deploy import engines
from anomalib_clipzoo.deploy.model_file import ModelFile
from anomalib_clipzoo.deploy.scorer import Scorer
from anomalib_clipzoo.results.rows import Thresholds

from .hostile import encoded, turned
from .pictures import draw_pictures

pytest.importorskip("pyarrow")
COUNT = 21
READABLE = 18


def brightness(images: np.ndarray) -> dict[str, np.ndarray]:
    """Take bright images for anomalous ones."""
    maps = images.mean(axis=1)
    return {"pred_score": maps.mean(axis=(1, 2)), "anomaly_map": maps, "pred_mask": maps > 0.5}


brightness.image_size = (16, 24)


@pytest.fixture
def scored(monkeypatch):
    """Put the brightness in the place of a model; return how many images it was run on."""
    seen = []

    def count(images):
        seen.append(len(images))
        return brightness(images)

    count.image_size = brightness.image_size
    scorer = Scorer(count, model="Brightness", thresholds=Thresholds(0.5, 0.5))
    scorer.threshold = 0.5
    monkeypatch.setattr(ModelFile, "load", lambda self: scorer)
    monkeypatch.setattr(ModelFile, "record", lambda self: {"model": "Brightness", "threshold": self.threshold})
    return lambda: sum(seen)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "Prüf bilder #1"
    (folder / "sub").mkdir(parents=True)
    for number, picture in enumerate(draw_pictures(READABLE, (40, 30))):
        picture.save(folder / ("sub" if number % 2 else "") / f"{number} 100%.png")
    (folder / "cut.png").write_bytes(encoded(draw_pictures(1)[0])[:200])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "turned.jpg").write_bytes(turned())
    (folder / "notes.txt").write_text("not looked at")
    return folder


def run(images, output, *options) -> int:
    return main(["score", "model.ckpt", str(images), str(output), "--workers", "0", "--batch_size", "4", *options])


def read(output) -> pd.DataFrame:
    return pd.read_parquet(output)


def test_every_image_has_one_row(scored, images, tmp_path, capsys):
    assert run(images, tmp_path / "out", "--rows_per_part", "5") == 3
    table = read(tmp_path / "out").set_index("image_path")
    assert len(table) == COUNT
    assert table.index.is_unique
    assert set(table.index) == {str(path) for path in images.rglob("*.*g")}
    assert {name.rpartition("/")[2] for name in table.index[table["problem"] != ""]} == {
        *("cut.png", "empty.jpg", "turned.jpg")
    }
    good = table[table["problem"] == ""]
    assert (good["label"] == np.where(good["score"] > 0.5, "anomalous", "normal")).all()
    assert set(good["label"]) == {"normal", "anomalous"}
    assert (good[["width", "height"]] == (40, 30)).all(axis=None)
    assert [len(json.loads(regions)) for regions in good["regions"]] == list(good["region_count"])
    assert "21 images: " in (text := capsys.readouterr().out)
    assert "3 could not be read" in text


def test_a_stopped_run_goes_on(scored, images, tmp_path, monkeypatch):
    rows, scored_before = engines.score_images, scored()

    def stop(*arguments):
        if scored() - scored_before >= 12:
            raise KeyboardInterrupt
        return rows(*arguments)

    monkeypatch.setattr(engines, "score_images", stop)
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "out", "--rows_per_part", "4")
    kept, before = len(read(tmp_path / "out")), scored()
    assert 8 <= kept < COUNT
    (tmp_path / "out" / "half.parquet").write_bytes(b"PAR1 and no end")
    monkeypatch.setattr(engines, "score_images", rows)
    assert run(images, tmp_path / "out", "--rows_per_part", "4") == 3
    assert run(images, tmp_path / "whole") == 3
    assert scored() - before <= COUNT - kept + READABLE
    pd.testing.assert_frame_equal(
        *(read(tmp_path / name).sort_values("image_path", ignore_index=True) for name in ("out", "whole"))
    )
    assert not list((tmp_path / "out").glob(".*"))


def test_a_finished_table_takes_new_images_alone(scored, images, tmp_path):
    run(images, tmp_path / "out")
    before = scored()
    draw_pictures(1, (40, 30), seed=5)[0].save(images / "new.png")
    run(images, tmp_path / "out")
    assert scored() == before + 1
    assert len(read(tmp_path / "out")) == COUNT + 1


def test_stores_elsewhere_are_reached_through_fsspec(scored, images):
    import fsspec

    files = fsspec.filesystem("memory")
    for path in images.rglob("*.*g"):
        files.pipe_file(f"/store/{path.name}", path.read_bytes())
    assert run("memory://store", "memory://table") == 3
    (part,) = files.glob("/table/*.parquet")
    with files.open(part) as file:
        table = pd.read_parquet(file)
    assert set(table["image_path"]) == {f"memory:///store/{path.name}" for path in images.rglob("*.*g")}


def test_what_does_not_belong_together_is_refused(scored, images, tmp_path, capsys):
    run(images, tmp_path / "out")
    assert run(images, tmp_path / "out", "--threshold", "0.3") == 1
    assert "was begun with another threshold: give another folder" in capsys.readouterr().err
    assert run(images, images) == 1
    assert "holds something else" in capsys.readouterr().err
    assert run(tmp_path / "nowhere", tmp_path / "other") == 1
    assert "There are no images" in capsys.readouterr().err


def test_two_rows_of_an_image_are_said(scored, images, tmp_path, capsys):
    run(images, tmp_path / "out")
    (part,) = (tmp_path / "out").glob("*.parquet")
    (tmp_path / "out" / "again.parquet").write_bytes(part.read_bytes())
    assert run(images, tmp_path / "out") == 1
    assert "21 images have no row or several" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "missing", "extra"),
    [
        (["score", "m.ckpt", "i", "o", "--engine", "ray"], "ray", "ray"),
        (["score", "m.ckpt", "i", "o"], "pyarrow", "parquet"),
        (["serve", "FILE", "--port", "PORT"], "litserve", "serve"),
        (["app", "--port", "PORT"], "gradio", "app"),
    ],
    ids=["ray", "parquet", "serve", "app"],
)
def test_a_missing_extra_says_what_to_install(command, missing, extra, tmp_path, monkeypatch, capsys):
    import socket
    import sys

    for name in [name for name in sys.modules if name.startswith("anomalib_clipzoo.deploy.")]:
        if name.rpartition(".")[2] in {"service", "page", "gate", "engines", "store"}:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    (tmp_path / "model.ckpt").touch()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    values = {"FILE": str(tmp_path / "model.ckpt"), "PORT": str(port)}
    assert main([values.get(part, part) for part in command]) == 1
    assert f"pip install 'anomalib-clipzoo[{extra}]'" in capsys.readouterr().err
