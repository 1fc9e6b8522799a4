# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""WinClipPlus beyond its figures: sixteen things that anomalib's WinClip gets wrong, exports, bad input."""

import copy
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.data import Folder, ImageBatch, MVTecAD
from anomalib.engine import Engine
from PIL import Image

from anomalib_clipzoo.anomaly.references import Reference, ReferenceMemory, choose_references
from anomalib_clipzoo.data import CategoryBatch, MultiCategory
from anomalib_clipzoo.models.win_clip_plus import WinClipPlus
from anomalib_clipzoo.models.win_clip_plus.scores import VARIANTS
from anomalib_clipzoo.models.win_clip_plus.windows import WindowPooling, window_patches
from tests.tiny import write_tiny_clip

TRAIN_IMAGES = 6
SIDE = 32
WORDS = {"normal_states": ["{}"], "abnormal_states": ["damaged {}"], "templates": ["a photo of a {}."]}


def draw(path: Path, count: int, seed: int, size: tuple[int, int] = (48, 40)) -> None:
    """Write images of another size than the model's, smooth enough to survive being resized."""
    path.mkdir(parents=True)
    for index in range(count):
        coarse = np.random.default_rng([seed, index]).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path / f"{index:03}.png")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Categories screw and metal_nut in the layout of MVTec AD."""
    root = tmp_path_factory.mktemp("data")
    for seed, category in enumerate(("screw", "metal_nut")):
        draw(root / category / "train" / "good", TRAIN_IMAGES, 10 * seed)
        draw(root / category / "test" / "good", 2, 10 * seed + 1)
        draw(root / category / "test" / "bad", 2, 10 * seed + 2)
        draw(root / category / "ground_truth" / "bad", 2, 10 * seed + 3)
        for mask in (root / category / "ground_truth" / "bad").iterdir():
            mask.rename(mask.with_stem(f"{mask.stem}_mask"))
    return root


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def build(tiny):
    def build(**arguments) -> WinClipPlus:
        settings = {"backbone": tiny, "pretrained": None, **WORDS, "visualizer": False, **arguments}
        return WinClipPlus(**settings).eval()

    return build


@pytest.fixture
def engine(tmp_path):
    return Engine(default_root_dir=tmp_path / "results", accelerator="cpu", devices=1, logger=False)


def screws(root: Path, category: str = "screw") -> MVTecAD:
    return MVTecAD(root=root, category=category, eval_batch_size=3, num_workers=0)


def folder(root: Path) -> Folder:
    return Folder(
        name="own",
        root=root / "screw",
        normal_dir="train/good",
        abnormal_dir="test/bad",
        normal_test_dir="test/good",
        num_workers=0,
    )


def images(count: int = 2, size: tuple[int, int] = (SIDE, SIDE), seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def remember(model: WinClipPlus, count: int, category: str | None, seed: int = 9) -> None:
    size = model.model.backbone.vision.image_size
    model.model.remember(images(count, size, seed), [Reference(category, f"{index}.png") for index in range(count)])


def scores(predictions: list[ImageBatch]) -> torch.Tensor:
    return torch.cat([batch.pred_score for batch in predictions])


def close(given: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(given, expected, atol=atol, rtol=0)


# ---- the sixteen ----


@torch.no_grad()
def test_1_windows_see_the_image_whatever_open_clip_does(build):
    model = build(image_term=False)
    values = model.model.encode(images(), with_patches=False).windows[0]
    assert values.std(dim=1).mean() > 0.01
    vision = model.model.backbone.vision
    for window in (0, 5):  # row by row: a window by the book, its patches and the class token through all blocks
        tokens = torch.cat([torch.tensor([0]), window_patches((4, 4), 2)[window] + 1])
        expected = vision.embed(images())[:, tokens]
        for block in vision.blocks:
            attention, normed = block.attn, block.ln_1(expected)
            if not attention.batch_first:  # older open_clip
                normed = normed.transpose(0, 1)
            attended = attention(normed, normed, normed, need_weights=False)[0]
            expected = expected + (attended if attention.batch_first else attended.transpose(0, 1))
            expected = expected + block.mlp(block.ln_2(expected))
        close(values[:, window], vision.project(expected[:, 0]))


def test_2_references_are_prepared_like_test_images(build, engine, root):
    model = build(k_shot=TRAIN_IMAGES)
    engine.test(model, datamodule=screws(root), verbose=False)
    batch = model.pre_processor.transform(torch.stack([_read(path) for path in model.model.references.paths("screw")]))
    features = model.model.encode(batch, with_patches=True)
    expected = torch.nn.functional.normalize(features.patches, dim=-1)
    close(model.model.references.patches.float(), expected, atol=5e-4)  # they are kept in half precision
    assert model.model.reference_map(features, ["screw"]).abs().max() < 1e-4  # every image finds itself


def test_3_references_from_a_folder(build, engine, root):
    source = root / "screw" / "train" / "good"
    model = build(k_shot=2, few_shot_source=source)
    engine.test(model, datamodule=screws(root), verbose=False)
    assert {Path(path).parent for path in model.model.references.paths(None)} == {source}
    engine.predict(build(k_shot=2, few_shot_source=str(source)), data_path=root / "screw" / "test" / "bad")


def test_4_few_shot_prediction_of_a_folder_needs_no_datamodule(build, engine, root, tmp_path):
    model = build(k_shot=2)
    engine.test(model, datamodule=screws(root), verbose=False)
    weights = model.save_weights(tmp_path / "weights.safetensors")
    reloaded = build(weights=weights)
    data = root / "screw" / "test" / "bad"
    given, expected = (scores(engine.predict(each, data_path=data)) for each in (reloaded, model))
    close(given, expected)


def test_5_zero_shot_prediction_of_a_folder_needs_nothing(build, engine, root):
    predictions = engine.predict(build(), data_path=root / "screw" / "test" / "bad")
    values = scores(predictions)
    assert len(values) == 2
    assert values.min() > 0
    assert values.max() < 1


def test_6_data_without_a_category_show_an_object(build, engine, root):
    model = build(k_shot=1)
    engine.test(model, datamodule=folder(root), verbose=False)
    assert model.model.texts.names == ["object"]
    assert model.model.references.categories == [None]


def test_7_another_category_has_its_own_words_and_references(build, engine, root):
    model = build(k_shot=1)
    results = [
        engine.test(model, datamodule=screws(root, category), verbose=False) for category in ("screw", "metal_nut")
    ]
    assert model.model.texts.names == ["screw", "metal_nut"]
    assert model.model.references.categories == ["screw", "metal_nut"]
    fresh = build(k_shot=1)
    expected = engine.test(fresh, datamodule=screws(root, "metal_nut"), verbose=False)
    assert results[1] == expected


@pytest.mark.parametrize("way", ["state_dict", "checkpoint", "weights"])
def test_8_few_shot_survives_reloading(build, engine, root, tmp_path, way, caplog):
    model = build(k_shot=2)
    engine.test(model, datamodule=screws(root), verbose=False)
    if way == "state_dict":
        reloaded = build()
        reloaded.load_state_dict(model.state_dict())
    elif way == "checkpoint":
        engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
        reloaded = WinClipPlus.load_from_checkpoint(tmp_path / "model.ckpt", visualizer=False).eval()
        assert reloaded.hparams.k_shot == 2
    else:
        reloaded = build(weights=model.save_weights(tmp_path / "weights.safetensors"))
    assert reloaded.learning_type is LearningType.FEW_SHOT
    assert reloaded.model.references.images == model.model.references.images
    with torch.no_grad():
        close(reloaded.model(images()).anomaly_map, model.model(images()).anomaly_map)


def test_8_a_checkpoints_references_are_kept_where_others_could_be_drawn(build, engine, root, tmp_path, caplog):
    engine.test(build(k_shot=2), datamodule=screws(root), verbose=False)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    kept = engine.model.model.references.paths("screw")
    other = build(k_shot=2, seed=5)
    caplog.set_level("INFO")
    engine.test(other, datamodule=screws(root), ckpt_path=tmp_path / "model.ckpt", verbose=False)
    assert other.model.references.paths("screw") == kept
    assert "Reference images" not in caplog.text
    anew = build(k_shot=2, seed=5)
    engine.test(anew, datamodule=screws(root), verbose=False)
    assert anew.model.references.paths("screw") != kept


@torch.no_grad()
def test_9_models_with_other_scales_do_not_meet(build):
    model = build(scales=(2, 3))
    remember(model, 2, None)
    before = model.model(images()).anomaly_map
    for scales in ((2,), (1, 2, 4)):
        other = build(scales=scales)
        remember(other, 1, None)
        other.model(images())
    assert torch.equal(model.model(images()).anomaly_map, before)


@pytest.mark.parametrize("image_size", [24, (32, 56), (64, 24)])
@torch.no_grad()
def test_10_any_backbone_and_image_size(build, tmp_path, image_size):
    for clip in (write_tiny_clip(tmp_path), write_tiny_clip(tmp_path, patch_size=4, layers=1)):
        model = build(backbone=clip, image_size=image_size)
        size = model.model.backbone.vision.image_size
        remember(model, 1, None)
        output = model.model(images(3, size))
        assert output.anomaly_map.shape == (3, *size)
        assert output.anomaly_map.flatten(1).std(dim=1).min() > 1e-4
        assert model.pre_processor.transform(torch.rand(1, 3, 50, 70)).shape[-2:] == size


def test_11_the_choice_of_references_depends_on_its_seed_alone(build, engine, root):
    paths = [f"{number}.png" for number in range(20)]
    torch.manual_seed(1)
    random.seed(1)
    before = torch.get_rng_state(), random.getstate()
    chosen = choose_references(paths, 4, seed=3)
    assert (torch.equal(torch.get_rng_state(), before[0]), random.getstate() == before[1]) == (True, True)
    assert choose_references(paths[::-1], 4, seed=3) == chosen
    assert choose_references(paths, 2, seed=3) == chosen[:2]
    assert choose_references(paths, 4, seed=4) != chosen
    assert chosen != paths[:4]
    with pytest.raises(ValueError, match=r"16 reference images .* category 'screw' there are only 6 normal images"):
        engine.test(build(k_shot=16), datamodule=screws(root), verbose=False)


def test_12_one_run_over_all_categories(build, engine, root, caplog):
    caplog.set_level("INFO")
    plain = {"k_shot": 2, "post_processor": False, "evaluator": False}
    model = build(**plain)
    together = scores(engine.predict(model, datamodule=MultiCategory(screws(root))))
    for category in ("screw", "metal_nut"):
        paths = model.model.references.paths(category)
        assert len(paths) == 2
        assert all(path in caplog.text and f"/{category}/train/good/" in path for path in paths)
    apart = [
        scores(engine.predict(build(**plain), datamodule=screws(root, category))) for category in ("metal_nut", "screw")
    ]
    close(together.sort().values, torch.cat(apart).sort().values)


@torch.no_grad()
def test_12_a_batch_may_mix_categories(build):
    model = build()
    remember(model, 1, "screw", seed=1)
    remember(model, 2, "metal_nut", seed=2)
    batch = CategoryBatch(image=images(3), category=["screw", "metal_nut", "screw"])
    mixed = model.validation_step(batch).anomaly_map
    for row, category in enumerate(("screw", "metal_nut", "screw")):
        close(mixed[row], model.model(images(3)[row : row + 1], [category], [category]).anomaly_map[0])
    assert not torch.allclose(mixed[1], model.model(images(3)[1:2], ["screw"], ["screw"]).anomaly_map[0], atol=1e-4)


def test_13_tidy_words_on_request(build):
    as_listed = build(normal_states=None, abnormal_states=None, templates=None).model.prompts
    tidy = build(normal_states=None, abnormal_states=None, templates=None, tidy=True).model.prompts
    assert [len(side) for side in as_listed.sentences("metal_nut")] == [147, 84]
    assert [len(side) for side in tidy.sentences("metal_nut")] == [140, 80]
    assert all("metal nut" in sentence for side in tidy.sentences("metal_nut") for sentence in side)


def test_14_no_loop_over_windows(build, tmp_path):
    nodes = []
    clip = write_tiny_clip(tmp_path, layers=2)
    for image_size in (SIDE, 2 * SIDE):  # 9 and 49 windows of scale 2
        model = build(backbone=clip, image_size=image_size).model
        model.text_features(["object"])
        exported = torch.export.export(model, (images(2, (image_size, image_size)),))
        nodes.append(len(exported.graph.nodes))
    assert nodes[0] == nodes[1]


@pytest.mark.parametrize("window_batch", [1, 8, 1000])
@torch.no_grad()
def test_14_window_batch_bounds_what_goes_through_at_once(build, window_batch):
    model = build(window_batch=window_batch).model
    rows = []
    for block in model.backbone.vision.blocks:
        block.ln_2.register_forward_hook(lambda _module, inputs, _output: rows.append(len(inputs[0])))
    output = model(images(2))
    assert max(rows) <= max(2, window_batch)  # one window of each image at least
    close(output.anomaly_map, build().model(images(2)).anomaly_map, atol=1e-6)


@torch.no_grad()
def test_15_exports_prepare_images_as_tests_do(build):
    model = build(post_processor=False)
    photograph = torch.rand(1, 3, 200, 300)
    expected = model.model(model.pre_processor.transform(photograph))
    given = model(photograph)
    assert torch.equal(given.anomaly_map, expected.anomaly_map)
    assert torch.equal(model.pre_processor.export_transform(photograph), model.pre_processor.transform(photograph))


def test_16_checkpoints_hold_no_clip(build, engine, root, tmp_path):
    model = build(k_shot=2)
    engine.test(model, datamodule=screws(root), verbose=False)
    engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
    kept = torch.load(tmp_path / "model.ckpt", weights_only=True)["state_dict"]
    assert not [key for key in kept if "backbone" in key]
    features = sum(value.numel() * 4 for value in model.model.references.state_dict().values())
    assert (tmp_path / "model.ckpt").stat().st_size < features + 50_000


# ---- scores ----


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("k", [0, 2])
@torch.no_grad()
def test_scores_and_maps_are_within_0_and_1(build, variant, k):
    model = build(variant=variant, stride=2)
    if k:
        remember(model, k, None)
    output = model.model(images(3))
    for values in output.pred_score, output.anomaly_map:
        assert values.min() >= 0
        assert values.max() <= 1
        assert values.std() > 0
    close(model.model(images(3)[1:2]).anomaly_map, output.anomaly_map[1:2])


@torch.no_grad()
def test_an_image_that_is_a_reference_has_no_distance(build):
    model = build()
    model.model.remember(images(), [Reference(None, "a.png"), Reference(None, "b.png")])
    features = model.model.encode(images(), with_patches=True)
    distances = model.model.reference_map(features, [None])
    assert distances.abs().max() < 1e-4  # references are kept in half precision
    assert model.model(images()).anomaly_map.isfinite().all()


def test_harmonic_mean_over_windows():
    pooling = WindowPooling(window_patches((2, 3), 2), 6)
    assert torch.equal(window_patches((2, 3), 2), torch.tensor([[0, 1, 3, 4], [1, 2, 4, 5]]))
    close(pooling.harmonic_mean(torch.tensor([[0.2, 0.6]])), torch.tensor([[0.2, 0.3, 0.6] * 2]))
    close(pooling.harmonic_mean(torch.tensor([[0.0, 0.6]])), torch.tensor([[0.0, 0.0, 0.6] * 2]))
    close(pooling.harmonic_mean(torch.tensor([[-1e-7, 0.6]])), torch.tensor([[0.0, 0.0, 0.6] * 2]))
    close(pooling.mean(torch.tensor([[0.2, 0.6]])), torch.tensor([[0.2, 0.4, 0.6] * 2]))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_windows_cover_every_patch_whatever_the_stride(stride):
    patches = window_patches((5, 8), 3, stride)
    assert set(patches.flatten().tolist()) == set(range(40))
    assert len(patches) == {1: 18, 2: 8, 3: 6}[stride]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@torch.no_grad()
def test_low_precision_says_nearly_the_same(build, precision, tmp_path):
    model, exact = build(precision=precision), build()
    remember(model, 2, None)
    remember(exact, 2, None)
    output = model.model(images())
    assert output.anomaly_map.dtype is torch.float32
    close(output.anomaly_map, exact.model(images()).anomaly_map, atol=5e-3)
    weights = exact.save_weights(tmp_path / "weights.safetensors")
    assert len(build(precision=precision, weights=weights).model.references) == 2  # the same CLIP


def test_text_is_encoded_once_a_class(build):
    model = build().model
    calls = []
    model.backbone.text.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        model(images(2), ["screw", "metal_nut"])
    assert len(calls) == 4  # a normal and an abnormal side of each


# ---- what a run leaves behind ----


def test_training_learns_nothing_and_leaves_references_and_thresholds(build, engine, root):
    model = build(k_shot=2)
    result = engine.train(model, datamodule=screws(root))
    assert 0 <= result[0]["image_AUROC"] <= 1
    weights = Path(engine.trainer.default_root_dir) / "weights" / "learned.safetensors"
    reloaded = build(weights=weights)
    assert reloaded.model.references.images == model.model.references.images
    assert reloaded.post_processor.image_threshold == model.post_processor.image_threshold


def test_arguments_that_references_depend_on_come_with_weights(build, tmp_path):
    model = build(scales=(1, 2), image_size=(40, 48), variant="anomalib")
    remember(model, 1, "screw")
    first = build(weights=model.save_weights(tmp_path / "first.safetensors"))
    second = build(weights=first.save_weights(tmp_path / "second.safetensors"))
    for reloaded in (first, second):
        assert reloaded.model.encoder.scales == (1, 2)
        assert reloaded.model.backbone.vision.image_size == (40, 48)
        assert reloaded.model.variant.patch_term == "normalized"
        assert len(reloaded.model.references) == 1


def test_one_known_category_goes_for_images_of_which_nothing_is_known(build):
    model = build().model
    model.remember(images(1), [Reference("screw", "a.png")])
    assert torch.equal(model(images()).anomaly_map, model(images(), categories=["screw", "screw"]).anomaly_map)


# ---- exports ----


@pytest.fixture
def few_shot(build, root, tmp_path):
    source = root / "screw" / "train" / "good"
    model = build(backbone=write_tiny_clip(tmp_path, layers=2), scales=(2,), k_shot=2, few_shot_source=source)
    model.prepare(None)
    return model


@pytest.mark.parametrize("k", [0, 2])
@torch.no_grad()
def test_export_to_torch(build, few_shot, tmp_path, k):
    model = few_shot if k else build(class_name="screw")
    path = model.to_torch(tmp_path)
    photographs = torch.rand(2, 3, 50, 60)
    exported = torch.load(path, weights_only=False)["model"].eval()
    close(exported(photographs).anomaly_map, model(photographs).anomaly_map)


def test_export_draws_its_references_from_a_folder(build, root, tmp_path):
    model = build(k_shot=2, few_shot_source=root / "screw" / "train" / "good")
    model.to_torch(tmp_path)
    assert len(model.model.references) == 2
    with pytest.raises(ValueError, match="k_shot=2 needs reference images"):
        build(k_shot=2).to_torch(tmp_path)


@pytest.mark.slow
@torch.no_grad()
def test_export_to_onnx(few_shot, tmp_path):
    import onnxruntime

    path = few_shot.to_onnx(tmp_path, input_size=(50, 60))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for batch in (1, 3):
        photographs = torch.rand(batch, 3, 50, 60)
        outputs = dict(zip(names, session.run(None, {"input": photographs.numpy()}), strict=True))
        expected = few_shot(photographs)
        close(torch.from_numpy(outputs["anomaly_map"]), expected.anomaly_map, atol=1e-3)
        close(torch.from_numpy(outputs["pred_score"]), expected.pred_score, atol=1e-3)


@pytest.mark.slow
@torch.no_grad()
def test_export_to_openvino(few_shot, tmp_path):
    import openvino

    path = few_shot.to_openvino(tmp_path, input_size=(50, 60))
    # Where the processor has bfloat16, OpenVINO takes it unless told otherwise.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    photographs = torch.rand(2, 3, 50, 60)
    outputs = compiled(photographs.numpy())
    close(torch.from_numpy(outputs["anomaly_map"].copy()), few_shot(photographs).anomaly_map, atol=1e-3)


# ---- bad input ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scales": (2, 5)}, r"window sides of 1 to 4 patches: an image has 4x4 patches"),
        ({"scales": ()}, "one or more window sides"),
        ({"stride": 3}, "at most the smallest scale, 2"),
        ({"normal_states": []}, "at least one state"),
        ({"abnormal_states": ["damaged"]}, "'damaged' must have exactly one {}"),
        ({"templates": ["a photo"]}, "'a photo' must have exactly one {}"),
        ({"temperature": 0.0}, "temperature"),
        ({"variant": "paper"}, "variant='paper' is not what WinClipPlus takes: 'zqhang' or"),
        ({"score": "mean"}, "score='mean' is not what WinClipPlus takes: 'image' or 'map'"),
        ({"precision": "int8"}, "precision='int8' is not what WinClipPlus takes"),
        ({"window_batch": 0}, "window_batch=0 is not what"),
        ({"k_shot": -1}, "k_shot=-1 is not what WinClipPlus takes: a whole number from 0"),
    ],
    ids=str,
)
def test_unfit_arguments(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_references_that_are_not_there(build, engine, root, tmp_path):
    bad = root / "screw" / "test" / "bad"
    with pytest.raises(ValueError, match="k_shot=2 needs reference images: give few_shot_source"):
        engine.predict(build(k_shot=2), data_path=bad)
    with pytest.raises(ValueError, match="k_shot=2 needs reference images"):
        build(k_shot=2)(torch.rand(1, 3, SIDE, SIDE))
    with pytest.raises(FileNotFoundError, match="no folder of reference images"):
        engine.predict(build(k_shot=2, few_shot_source=tmp_path / "nowhere"), data_path=bad)
    model = build()
    remember(model, 1, "screw")
    with pytest.raises(ValueError, match="no reference images for category 'metal_nut'; there are some for 'screw'"):
        engine.test(model, datamodule=screws(root, "metal_nut"), verbose=False)
    remember(model, 1, "metal_nut")
    with pytest.raises(ValueError, match="no reference images for an image of unknown category"):
        model.model(images())


def test_weights_of_other_windows_are_refused(build, tmp_path):
    model = build()
    remember(model, 1, "screw")
    weights = model.save_weights(tmp_path / "weights.safetensors")
    assert len(build(weights=weights, scales=(2,)).model.references) == 1  # what it needs is there
    with pytest.raises(ValueError, match=r"lacks model\.references\.windows_1"):
        build(weights=weights, scales=(1, 2))
    with pytest.raises(ValueError, match="does not fit"):
        build(weights=weights, image_size=64)


def test_references_replace_those_of_their_category_alone():
    memory = ReferenceMemory({"patches": (3, 4)})
    for category, value in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        features = torch.full((2, 3, 4), value)
        features[..., 0] = 0 if category == "a" else 1
        memory.remember([Reference(category, f"{value}"), Reference(category, "second")], {"patches": features})
    assert memory.categories == ["b", "a"]
    assert memory.paths("a") == ["3.0", "second"]
    assert memory.patches.shape == (4, 3, 4)
    twin = copy.deepcopy(memory)
    assert twin.images == memory.images
    close(memory.patches.float().norm(dim=-1), torch.ones(4, 3), atol=1e-3)


def _read(path: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1).float() / 255
