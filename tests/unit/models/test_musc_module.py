# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""MuSc as anomalib runs it: sets that are known before the first batch, pools, what is kept, bad input."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import MVTecAD, PredictDataset
from anomalib.data.utils import read_image
from anomalib.engine import Engine
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from anomalib_clipzoo.data import MultiCategory
from anomalib_clipzoo.models.musc import MuSc, whole_set
from tests.tiny import write_tiny_clip

GOOD, BAD = 7, 4


def draw(path: Path, count: int, seed: int, size: tuple[int, int] = (48, 40)) -> None:
    path.mkdir(parents=True)
    for index in range(count):
        coarse = np.random.default_rng([seed, index]).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path / f"{index:03}.png")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Categories screw and nut in the layout of MVTec AD."""
    root = tmp_path_factory.mktemp("data")
    for seed, category in enumerate(("screw", "nut")):
        draw(root / category / "train" / "good", 9, 10 * seed)
        draw(root / category / "test" / "good", GOOD, 10 * seed + 1)
        draw(root / category / "test" / "bad", BAD, 10 * seed + 2)
        draw(root / category / "ground_truth" / "bad", BAD, 10 * seed + 3)
        for mask in (root / category / "ground_truth" / "bad").iterdir():
            mask.rename(mask.with_stem(f"{mask.stem}_mask"))
    return root


@pytest.fixture
def folder(root, tmp_path):
    """A user's own folder: ten images of two sizes."""
    draw(tmp_path / "photos", 6, seed=50)
    draw(tmp_path / "photos" / "large", 4, seed=51, size=(90, 100))
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def build(tiny):
    def build(**arguments) -> MuSc:
        settings = {"backbone": tiny, "pretrained": None, "visualizer": False, "predictions": False, **arguments}
        return MuSc(**settings).eval()

    return build


@pytest.fixture
def engine(tmp_path):
    return Engine(default_root_dir=tmp_path / "results", accelerator="cpu", devices=1, logger=False)


def screws(root: Path, category: str = "screw", **arguments) -> MVTecAD:
    return MVTecAD(root=root, category=category, eval_batch_size=3, num_workers=0, **arguments)


def of_files(model: MuSc, files) -> torch.Tensor:
    """Score files as one set, all at once."""
    images = [model.pre_process(torch.as_tensor(read_image(file, as_tensor=True))[None]) for file in files]
    with torch.no_grad():
        return model.model(torch.cat(images)).pred_score


def by_file(predictions) -> dict[str, torch.Tensor]:
    return {
        path: score for batch in predictions for path, score in zip(batch.image_path, batch.pred_score, strict=True)
    }


def close(given: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(given, expected, atol=atol, rtol=0)


# ---- a set ----


def test_the_images_of_a_test_set_score_each_other(build, engine, root):
    model = build(evaluator=False, post_processor=False)
    scores = by_file(engine.predict(model, datamodule=screws(root)))
    assert len(scores) == GOOD + BAD
    close(torch.stack(list(scores.values())), of_files(model, scores))


def test_a_test_has_metrics_of_the_same_scores(build, engine, root):
    result = engine.test(build(), datamodule=screws(root), verbose=False)[0]
    assert 0 <= result["image_AUROC"] <= 1
    assert 0 <= result["pixel_AUROC"] <= 1


def test_the_maps_are_those_of_the_images(build, engine, folder):
    model = build(evaluator=False, post_processor=False)
    for batch in engine.predict(model, data_path=folder):
        close(batch.anomaly_map.amax(dim=(1, 2)), batch.pred_score, atol=0.2)
    whole = build(rescore_windows=[], evaluator=False, post_processor=False)
    for batch in engine.predict(whole, data_path=folder):
        close(batch.anomaly_map.amax(dim=(1, 2)), batch.pred_score)


def test_batches_workers_and_limits_do_not_matter(build, engine, folder, tmp_path):
    plain = {"evaluator": False, "post_processor": False}
    alone = by_file(engine.predict(build(**plain), data_path=folder))
    dataset = PredictDataset(folder)  # of two sizes: a batch would stretch the smaller images
    loader = DataLoader(dataset, batch_size=1, num_workers=1, collate_fn=dataset.collate_fn)
    limited = Engine(default_root_dir=tmp_path / "other", accelerator="cpu", logger=False, limit_predict_batches=3)
    some = by_file(limited.predict(build(**plain), dataloaders=[loader]))
    assert len(some) == 3
    for path, score in some.items():
        close(score, alone[path])


def test_a_score_depends_on_the_set(build, engine, folder):
    model = build(evaluator=False, post_processor=False)
    both = by_file(engine.predict(model, data_path=folder))
    for path in sorted(folder.glob("large/*"))[:3]:
        path.unlink()
    fewer = by_file(engine.predict(model, data_path=folder))
    assert max(abs(float(both[path] - score)) for path, score in fewer.items()) > 1e-3


def test_categories_are_scored_apart(build, engine, root):
    model = build(evaluator=False, post_processor=False)
    together = by_file(engine.predict(model, datamodule=MultiCategory(screws(root))))
    assert len(together) == 2 * (GOOD + BAD)
    for category in ("screw", "nut"):
        files = [path for path in together if f"/{category}/" in path]
        close(torch.stack([together[path] for path in files]), of_files(model, files))


def test_a_set_may_be_divided(build, engine, root, caplog):
    model = build(set_size=6, divide_by_folder=True, evaluator=False, post_processor=False, rescore_windows=[])
    scores = by_file(engine.predict(model, datamodule=screws(root)))
    files = list(scores)
    kinds = [Path(path).parent.name for path in files]
    from anomalib_clipzoo.models.musc.sets import divide

    for part in divide(kinds, 6, seed=0):
        assert sum(kinds[number] == "bad" for number in part) == BAD / 2
        members = [files[number] for number in part]
        close(torch.stack([scores[path] for path in members]), of_files(model, members))


def test_a_set_is_scored_once_where_validation_and_test_share_it(build, engine, root):
    model = build()
    passes = []
    model.model.backbone.vision.register_forward_hook(lambda _module, inputs, _output: passes.append(len(inputs[0])))
    engine.train(model, datamodule=screws(root))
    assert sum(passes) == GOOD + BAD
    engine.train(build(), datamodule=screws(root, "nut"))


def test_only_the_tower_runs_in_half_precision(build, folder, tmp_path):
    plain = {"evaluator": False, "post_processor": False}
    run = {"default_root_dir": tmp_path / "half", "accelerator": "cpu", "logger": False}
    exact = by_file(Engine(**run).predict(build(**plain), data_path=folder))
    for precision in ("bf16-mixed", "bf16-true"):
        half = by_file(Engine(**run, precision=precision).predict(build(**plain), data_path=folder))
        for path, score in half.items():
            assert score.dtype == torch.float32
            close(score, exact[path], atol=0.02)
        assert len({round(float(score), 6) for score in half.values()}) == len(exact)


def test_an_image_that_cannot_be_read_is_left_out(build, engine, folder, caplog):
    model = build(evaluator=False, post_processor=False)
    expected = by_file(engine.predict(model, data_path=folder))
    (folder / "broken.png").write_bytes(b"no image")
    from anomalib_clipzoo.results.folder_images import FolderImages

    dataset = FolderImages(folder)
    loader = DataLoader(dataset, collate_fn=dataset.collate_fn)
    scores = by_file(engine.predict(model, dataloaders=[loader]))
    assert "broken.png has no score and vouches for no other image" in caplog.text
    for path, score in expected.items():
        close(scores[path], score)


def test_an_image_that_is_not_finite_ends_the_run_by_its_name(build, engine, folder):
    class Broken(PredictDataset):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            if index == 2:
                item.image = torch.full_like(item.image, float("nan"))
            return item

    dataset = Broken(folder)
    with pytest.raises(ValueError, match=r"002\.png holds values that are not finite"):
        engine.predict(build(), dataloaders=[DataLoader(dataset, collate_fn=dataset.collate_fn)])


def test_doubtful_sets_are_told(build, engine, folder, caplog):
    for path in sorted(folder.glob("large/*"))[:2]:
        path.unlink()
    (folder / "twin.png").write_bytes((folder / "003.png").read_bytes())
    engine.predict(build(rescore_windows=[1, 20]), data_path=folder)
    assert "Only 9 images score each other: their scores are better with at least 10" in caplog.text
    assert "rescore_windows [1, 20] are cut to the 9 images" in caplog.text
    twins = next(line for line in caplog.text.splitlines() if "vouch for their own defects" in line)
    assert "003.png" in twins
    assert "twin.png" in twins
    assert "There are no thresholds from validation data" in caplog.text


def test_too_few_images_are_told_before_any_is_read(build, engine, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(whole_set.WholeSet, "load", lambda *_: pytest.fail("reads"))
    with pytest.raises(ValueError, match=r"at least 5 images that score each other, and has 1 .* or a pool"):
        engine.predict(build(), data_path=folder / "000.png")
    draw(tmp_path / "few", 4, seed=3)
    with pytest.raises(ValueError, match=r"at least 5 images .* and has 4"):
        engine.predict(build(), data_path=tmp_path / "few")


def test_images_without_files_are_refused(build, engine):
    loader = DataLoader(TensorDataset(torch.rand(6, 3, 32, 32)))
    with pytest.raises(TypeError, match="TensorDataset does not say which files they are"):
        engine.predict(build(), dataloaders=[loader])


# ---- a pool ----


@pytest.fixture
def pool(root):
    return root / "screw" / "train" / "good"


def test_single_images_are_compared_with_a_pool(build, engine, folder, pool):
    plain = {"evaluator": False, "post_processor": False}
    model = build(pool_source=pool, **plain)
    scores = by_file(engine.predict(model, data_path=folder))
    assert len(model.memory) == 9
    alone = by_file(engine.predict(model, data_path=folder / "000.png"))
    ((path, score),) = alone.items()
    close(score, scores[path])


def test_a_pool_is_drawn_by_its_seed(build, engine, folder, pool):
    chosen = []
    for seed in (0, 0, 1):
        model = build(pool_source=pool, pool_size=6, seed=seed)
        engine.predict(model, data_path=folder / "000.png")
        chosen.append(model.memory.paths(None))
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 6


def test_an_image_of_the_pool_is_not_compared_with_itself(build, engine, folder):
    plain = {"evaluator": False, "post_processor": False}
    as_set = by_file(engine.predict(build(**plain), data_path=folder))
    against_itself = by_file(engine.predict(build(pool_source=folder, **plain), data_path=folder))
    for path, score in as_set.items():
        close(against_itself[path], score)


@pytest.mark.parametrize("way", ["weights", "checkpoint"])
def test_a_pool_stays(build, engine, root, folder, pool, tmp_path, way):
    model = build(pool_source=pool, pool_size=6, r_list=[1, 3], interval=[0, 2])
    engine.train(model, datamodule=screws(root))
    expected = by_file(engine.predict(model, data_path=folder))
    if way == "weights":
        weights = next((tmp_path / "results").rglob("learned.safetensors"))
        again = MuSc(weights=weights, visualizer=False, predictions=False).eval()
    else:
        engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
        again = MuSc.load_from_checkpoint(tmp_path / "model.ckpt", visualizer=False).eval()
    assert again.memory.images == model.memory.images
    assert again.hparams.interval == [0, 2]
    assert again.post_processor.image_threshold == model.post_processor.image_threshold
    for path, score in by_file(engine.predict(again, data_path=folder)).items():
        close(score, expected[path])


def test_a_pool_takes_half_the_room_where_it_is_asked_to(build, engine, folder, pool, tmp_path):
    sizes = []
    for precision in ("float32", "float16"):
        model = build(pool_source=pool, distance_precision=precision, evaluator=False, post_processor=False)
        scores = by_file(engine.predict(model, data_path=folder))
        path = model.save_weights(tmp_path / f"{precision}.safetensors")
        again = by_file(engine.predict(build(weights=path, evaluator=False, post_processor=False), data_path=folder))
        assert {name: float(score) for name, score in again.items()} == {n: float(s) for n, s in scores.items()}
        sizes.append(sum(again_buffer.nbytes for again_buffer in model.memory.state_dict().values()))
    assert sizes[1] < 0.55 * sizes[0]


def test_pools_of_several_categories(build, engine, root, tmp_path):
    source = tmp_path / "pools"
    source.mkdir()
    for category in ("screw", "nut"):
        (source / category).symlink_to(root / category / "train" / "good")
    model = build(pool_source=source, evaluator=False, post_processor=False)
    together = by_file(engine.predict(model, datamodule=MultiCategory(screws(root))))
    assert set(model.memory.categories) == {"screw", "nut"}
    alone = build(pool_source=source / "nut", evaluator=False, post_processor=False)
    for path, score in by_file(engine.predict(alone, datamodule=screws(root, "nut"))).items():
        close(score, together[path])
    again = build(weights=model.save_weights(tmp_path / "weights.safetensors"))
    fresh = Engine(default_root_dir=tmp_path / "fresh", accelerator="cpu", logger=False)
    with pytest.raises(ValueError, match="no reference images for an image of unknown category"):
        fresh.predict(again, data_path=root / "nut" / "test" / "bad")


@torch.no_grad()
def test_export_to_torch(build, pool, tmp_path):
    model = build(pool_source=pool)
    exported = torch.load(model.to_torch(tmp_path), weights_only=False)["model"].eval()
    photographs = torch.rand(2, 3, 50, 60)
    close(exported(photographs).anomaly_map, model(photographs).anomaly_map)


def test_a_model_without_a_pool_is_not_exported(build, engine, folder, pool, tmp_path):
    model = build()
    engine.predict(model, data_path=folder)
    for export in (model.to_torch, model.to_onnx, model.to_openvino):
        with pytest.raises(ValueError, match="a single image has no score without others: give pool_source"):
            export(tmp_path)


def test_unfit_pools(build, engine, folder, pool, tmp_path):
    one = folder / "000.png"
    with pytest.raises(FileNotFoundError, match="no folder of reference images"):
        engine.predict(build(pool_source=tmp_path / "nowhere"), data_path=one)
    draw(tmp_path / "few", 4, seed=3)
    with pytest.raises(ValueError, match="at least 5 images that score each other, and has 4"):
        engine.predict(build(pool_source=tmp_path / "few"), data_path=one)
    model = build(pool_source=pool)
    engine.predict(model, data_path=one)
    weights = model.save_weights(tmp_path / "weights.safetensors")
    for other, message in (
        ({"layers": [1, 2]}, r"pool was made with layers \[1, 2, 3, 4\]: leave these arguments out"),
        ({"interval": [0, 2], "r_list": [1]}, r"made with r_list \[1, 3, 5\], interval \[0.0, 0.3\]: leave"),
        ({"image_size": 64}, "does not fit this model"),
        ({"quick_gelu": True}, "give it the same CLIP"),
        ({"backbone": write_tiny_clip(tmp_path, layers=5)}, "give it the same CLIP"),
    ):
        with pytest.raises(ValueError, match=message):
            build(weights=weights, **other)


# ---- what a user sees ----


def test_predictions_are_written(build, engine, folder):
    engine.predict(build(predictions=True), data_path=folder)
    (table,) = Path(engine.trainer.default_root_dir).rglob("predictions.csv")
    rows = pd.read_csv(table)
    assert len(rows) == 10
    assert rows["score"].nunique() == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interval": [0, 1.5]}, "two different bounds"),
        ({"interval": [0.3, 0.3]}, "two different bounds"),
        ({"interval": [-1, 0.3]}, "interval=.* is not what MuSc takes"),
        ({"r_list": [2]}, "odd sides"),
        ({"r_list": [1.5]}, "r_list=.* is not what MuSc takes"),
        ({"rescore_windows": [0]}, "rescore_windows=.* is not what MuSc takes"),
        ({"set_size": 1}, "set_size 1 must be at least 2"),
        ({"pool_size": 0}, "pool_size=0 is not what MuSc takes"),
        ({"distance_precision": "bfloat16"}, "distance_precision='bfloat16' is not what MuSc takes: 'float32' or"),
        ({"release": "paper"}, "release='paper' is not what MuSc takes: 'current' or 'first'"),
    ],
    ids=str,
)
def test_unfit_arguments(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)
