# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""References of normal images, for every model that takes some: what they change, what is kept, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from PIL import Image

from anomalib_clipzoo.anomaly.coreset import coreset
from anomalib_clipzoo.anomaly.patch_references import PatchReferences
from anomalib_clipzoo.anomaly.references import Reference
from anomalib_clipzoo.models.components.few_shot import FewShotModule
from anomalib_clipzoo.models.win_clip_plus import WinClipPlus
from anomalib_clipzoo.results.run_record import RunRecord, describe_references
from tests.tiny import write_tiny_clip
from tests.unit.models.test_arguments import MODELS, build, checkpoint_of

FEW_SHOT = [model for model in MODELS if issubclass(model, FewShotModule)]
WITH_PATCHES = [model for model in FEW_SHOT if model is not WinClipPlus]
EXACT = 1e-4  # distance of an image to itself: references are kept in half precision


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(params=FEW_SHOT, ids=lambda model: model.__name__)
def model_class(request):
    return request.param


@pytest.fixture(params=WITH_PATCHES, ids=lambda model: model.__name__)
def patch_class(request):
    return request.param


@pytest.fixture
def engine(tmp_path):
    return Engine(default_root_dir=tmp_path / "results", accelerator="cpu", devices=1, logger=False)


def images(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def remember(module, count: int = 2, category: str | None = None) -> None:
    module.model.remember(images(count, seed=9), [Reference(category, f"{number}.png") for number in range(count)])


def draw(folder: Path, count: int, seed: int, mode: str = "RGB", size: tuple[int, int] = (48, 40)) -> Path:
    folder.mkdir(parents=True)
    for index in range(count):
        coarse = np.random.default_rng([seed, index]).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        picture.convert(mode).save(folder / f"{index:03}.png")
    return folder


@pytest.fixture
def data(tmp_path):
    """A datamodule whose test images are in ``good`` and ``bad``."""
    draw(tmp_path / "own" / "train", 3, seed=1)
    draw(tmp_path / "own" / "good", 2, seed=2)
    draw(tmp_path / "own" / "bad", 2, seed=3)
    return Folder(
        name="own",
        root=tmp_path / "own",
        normal_dir="train",
        abnormal_dir="bad",
        normal_test_dir="good",
        val_split_mode="same_as_test",
        num_workers=0,
    )


# ---- what they change ----


@torch.no_grad()
def test_without_references_nothing_changes(model_class, tiny):
    module = build(model_class, tiny)
    before = module.model(images())
    remember(module)
    assert not torch.equal(module.model(images()).anomaly_map, before.anomaly_map)
    module.model.references.forget([None])
    after = module.model(images())
    assert torch.equal(after.anomaly_map, before.anomaly_map)
    assert torch.equal(after.pred_score, before.pred_score)


def test_what_is_kept_in_a_run_is_plain(model_class, tiny):
    module = build(model_class, tiny)
    with torch.inference_mode():  # as runs are
        remember(module, category="screw")
        remember(module, category="nut")
        module.model.references.forget(["nut"])
    assert not any(kept.is_inference() or kept.requires_grad for kept in module.model.references.buffers())


@torch.no_grad()
def test_alone_they_tell_known_from_unknown_images(model_class, tiny):
    module = build(model_class, tiny, reference_weight=1.0)
    remember(module)
    known = module.model(images(seed=9))
    assert known.anomaly_map.max() < EXACT
    if model_class.__name__ != "AprilGan":  # whose score is always the mean of the texts' and the map's maximum
        assert known.pred_score.max() < EXACT
    assert module.model(images(seed=4)).anomaly_map.max() > 10 * EXACT


@torch.no_grad()
def test_the_weight_goes_from_the_texts_to_the_references(model_class, tiny):
    torch.manual_seed(3)
    module = build(model_class, tiny, sigma=2.0) if model_class is not WinClipPlus else build(model_class, tiny)
    holder = module.model if model_class is WinClipPlus else module.model.references
    name = "reference_weight" if model_class is WinClipPlus else "weight"
    alone = module.model(images())
    remember(module)
    outputs = {}
    for weight in (0.0, 0.3, 1.0):
        setattr(holder, name, weight)
        outputs[weight] = module.model(images())
    torch.testing.assert_close(outputs[0.0].anomaly_map, alone.anomaly_map)
    expected = 0.7 * outputs[0.0].anomaly_map + 0.3 * outputs[1.0].anomaly_map
    torch.testing.assert_close(outputs[0.3].anomaly_map, expected, atol=1e-6, rtol=1e-5)
    if model_class.__name__ != "AprilGan":
        expected = 0.7 * alone.pred_score + 0.3 * outputs[1.0].pred_score
        torch.testing.assert_close(outputs[0.3].pred_score, expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_an_even_weight_is_the_papers_plain_mean(tiny):
    module = build(WinClipPlus, tiny)
    for fusion in ("arithmetic", "harmonic"):
        model = build(WinClipPlus, tiny, fusion=fusion).model
        text, references = torch.rand(2, 3, 16, generator=torch.Generator().manual_seed(0))
        stacked = torch.stack([text, references])
        expected = stacked.mean(dim=0) if fusion == "arithmetic" else 1 / (1 / stacked).mean(dim=0)
        assert torch.equal(model.fuse(text, references), expected)
    assert module.hparams["reference_weight"] == 0.5


@torch.no_grad()
def test_patches_are_those_of_the_frozen_clip(patch_class, tiny):
    """What training changes does not make them stale."""
    module = build(patch_class, tiny, reference_layers=[1, 4])
    remember(module)
    before = {name: value.clone() for name, value in module.model.references.named_buffers()}
    tokens = module.model.backbone.vision(images(2, seed=9), (1, 4)).tokens
    for layer, each in zip((1, 4), tokens, strict=True):
        expected = torch.nn.functional.normalize(each[:, 1:], dim=-1)
        torch.testing.assert_close(before[f"layer_{layer}"].float(), expected, atol=5e-4, rtol=0)
    for parameter in module.model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter))
    remember(module)
    for name, value in module.model.references.named_buffers():
        assert torch.equal(value, before[name])
    assert module.model(images(seed=9)).anomaly_map.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("branch", ["VL", "L", ""])
@pytest.mark.parametrize("kind", ["SD", "S"])
def test_whatever_adaclip_prompts_an_image_finds_itself(tiny, branch, kind):
    (model_class,) = (model for model in FEW_SHOT if model.__name__ == "AdaClip")
    module = build(model_class, tiny, prompting_branch=branch, prompting_type=kind, reference_weight=1.0)
    remember(module)
    assert module.model(images(seed=9)).anomaly_map.max() < EXACT


@torch.no_grad()
def test_the_block_changes_nothing_but_the_memory(model_class, tiny):
    outputs = []
    torch.manual_seed(0)
    module = build(model_class, tiny)
    remember(module)
    for block in (2048, 5):
        module.model.references.block = block
        outputs.append(module.model(images()).anomaly_map)
    torch.testing.assert_close(*outputs, atol=1e-6, rtol=0)


# ---- what is kept ----


@torch.no_grad()
@pytest.mark.parametrize("way", ["weights", "checkpoint"])
def test_half_precision_references_come_back(model_class, way, tiny, tmp_path):
    module = build(model_class, tiny, reference_weight=0.7)
    remember(module, category="screw")
    assert all(
        module.model.references.get_buffer(kind).dtype is torch.float16 for kind in module.model.references.kinds
    )
    if way == "weights":
        again = model_class(weights=module.save_weights(tmp_path / "w.safetensors"), visualizer=False).eval()
    else:
        checkpoint = checkpoint_of(module)
        again = build(model_class, tiny)
        again.on_load_checkpoint(checkpoint)
        again.load_state_dict(checkpoint["state_dict"])
    assert again.model.references.images == module.model.references.images
    pixels = torch.rand(2, 3, 40, 50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again.eval()(pixels).anomaly_map, module(pixels).anomaly_map)


def test_a_megabyte_is_what_a_file_grows_by(patch_class, tiny, tmp_path):
    module = build(patch_class, tiny)
    sizes = []
    for count in (1, 41):
        remember(module, count)
        path = module.save_weights(tmp_path / f"{count}.safetensors")
        sizes.append((path.stat().st_size / 1e6, module.model.references.megabytes))
    (small, few), (large, many) = sizes
    layers = len(module.model.references.layers)
    assert many - few == pytest.approx(40 * 16 * 32 * layers * 2 / 1e6, rel=0.05)  # patches, width, two bytes
    assert large - small == pytest.approx(many - few, rel=0.05)


# ---- coresets and turns ----


def test_a_coreset_covers_what_it_stands_for():
    generator = torch.Generator().manual_seed(0)
    clusters = torch.randn(6, 16, generator=generator)
    features = clusters.repeat(4, 20, 1) + 0.01 * torch.randn(4, 120, 16, generator=generator)
    before = torch.get_rng_state()
    chosen = coreset(features, 0.05)
    assert torch.equal(torch.get_rng_state(), before)
    assert chosen.shape == (4, 6, 16)
    assert torch.cdist(features.flatten(0, 1), chosen.flatten(0, 1)).amin(dim=1).max() < 0.2  # every cluster has one
    assert torch.equal(coreset(features, 0.05), chosen)


@torch.no_grad()
def test_a_coreset_comes_back_with_weights(model_class, tiny, tmp_path):
    module = build(model_class, tiny, coreset_ratio=0.3)
    remember(module, 3, "screw")
    whole = build(model_class, tiny)
    remember(whole, 3, "screw")
    assert module.model.references.megabytes < 0.5 * whole.model.references.megabytes
    path = module.save_weights(tmp_path / "w.safetensors")
    again = model_class(weights=path, visualizer=False).eval()
    assert again.hparams["coreset_ratio"] == 0.3
    pixels = torch.rand(2, 3, 40, 50)
    assert torch.equal(again(pixels).anomaly_map, module.eval()(pixels).anomaly_map)
    with pytest.raises(ValueError, match="does not fit"):
        model_class(weights=path, coreset_ratio=1.0, visualizer=False)


def test_turned_references_find_turned_parts(patch_class, tiny, engine, tmp_path):
    good = draw(tmp_path / "good", 2, seed=1, size=(32, 32))
    settings = {"k_shot": 2, "few_shot_source": good, "reference_weight": 1.0, "post_processor": False}
    upside_down = tmp_path / "turned"
    upside_down.mkdir()
    for path in good.iterdir():
        Image.open(path).rotate(90).save(upside_down / path.name)
    highest = {}
    for turns in (False, True):
        module = build(patch_class, tiny, rotate_references=turns, **settings)
        predictions = engine.predict(module, data_path=upside_down)
        highest[turns] = max(float(batch.anomaly_map.max()) for batch in predictions)
        assert len(module.model.references) == (8 if turns else 2)
        assert len(module.model.references.paths(None)) == 2
    assert highest[True] < EXACT < highest[False]


# ---- which images ----


def test_weights_without_references_take_a_source(model_class, tiny, engine, tmp_path, caplog):
    caplog.set_level("INFO")
    weights = build(model_class, tiny).save_weights(tmp_path / "w.safetensors")
    good = draw(tmp_path / "good", 3, seed=1)
    settings = {"reference_layers": [2]} if model_class is not WinClipPlus else {"scales": [2]}
    module = model_class(weights=weights, k_shot=2, few_shot_source=good, visualizer=False, **settings)
    engine.predict(module, data_path=draw(tmp_path / "new", 2, seed=2))
    assert len(module.model.references) == 2
    (record,) = (RunRecord.read(path.parent) for path in tmp_path.rglob("run.json"))
    size = module.model.references.megabytes
    assert record.references == {"images": 2, "categories": [], "megabytes": round(size, 3)}
    assert describe_references(record.references) == f"2 images, {round(size, 3):.3g} MB"
    assert f"{size:.1f} MB in memory and in files" in caplog.text


def test_references_of_other_layers_are_refused_or_drawn_anew(patch_class, tiny, engine, tmp_path):
    module = build(patch_class, tiny, reference_layers=[2])
    remember(module)
    weights = module.save_weights(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"does not fit.* lacks model\.references\.layer_3"):
        patch_class(weights=weights, reference_layers=[3], visualizer=False)
    settings = {"k_shot": 1, "few_shot_source": draw(tmp_path / "good", 1, seed=1), "visualizer": False}
    module = patch_class(weights=weights, reference_layers=[3], **settings)
    engine.predict(module, data_path=tmp_path / "good")
    assert module.model.references.paths(None) == [str(tmp_path / "good" / "000.png")]


def test_references_of_another_clip_are_refused(patch_class, tiny, tmp_path):
    module = build(patch_class, tiny)
    remember(module)
    weights = module.save_weights(tmp_path / "w.safetensors")
    other = write_tiny_clip(tmp_path, layers=5)
    with pytest.raises(ValueError, match="give it the same CLIP"):
        patch_class(weights=weights, backbone=other, pretrained=None, visualizer=False)


@pytest.mark.parametrize(
    ("idle", "message"),
    [
        ({"few_shot_source": "good"}, "few_shot_source given, but k_shot is 0"),
        ({"rotate_references": True}, "rotate_references given, but k_shot is 0"),
    ],
    ids=["few_shot_source", "rotate_references"],
)
def test_what_has_no_effect_is_said(idle, message, model_class, tiny, engine, tmp_path, caplog):
    draw(tmp_path / "good", 2, seed=1)
    idle = {name: tmp_path / value if isinstance(value, str) else value for name, value in idle.items()}
    engine.predict(build(model_class, tiny, **idle), data_path=tmp_path / "good")
    assert message in caplog.text


def test_test_images_are_no_references_unless_they_may_be(tiny, engine, tmp_path, data):
    copies = tmp_path / "copies"
    copies.mkdir()
    for path in (tmp_path / "own" / "good").iterdir():  # the same content under another name
        (copies / f"copy_of_{path.name}").write_bytes(path.read_bytes())
    settings = {"k_shot": 1, "few_shot_source": copies}
    with pytest.raises(ValueError, match=r"2 images in few_shot_source are test images too.*allow_overlap=True"):
        engine.test(build(WITH_PATCHES[0], tiny, **settings), datamodule=data, verbose=False)
    engine.test(build(WITH_PATCHES[0], tiny, allow_overlap=True, **settings), datamodule=data, verbose=False)


def test_too_few_or_no_images(tiny, engine, tmp_path, data):
    with pytest.raises(ValueError, match="4 reference images are wanted, but there are only 3 normal images"):
        engine.test(build(WITH_PATCHES[0], tiny, k_shot=4), datamodule=data, verbose=False)
    (tmp_path / "nothing").mkdir()
    module = build(WITH_PATCHES[0], tiny, k_shot=1, few_shot_source=tmp_path / "nothing")
    with pytest.raises(ValueError, match="nothing"):
        engine.predict(module, data_path=tmp_path / "own" / "bad")


@pytest.mark.parametrize("content", [b"", b"no image at all"], ids=["empty", "text"])
def test_a_reference_that_cannot_be_read_is_named(content, tiny, engine, tmp_path):
    good = draw(tmp_path / "good", 1, seed=1)
    (good / "broken.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.png is to be in the references, but .* Replace it"):
        engine.predict(build(WITH_PATCHES[0], tiny, k_shot=2, few_shot_source=good), data_path=good)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_references_may_have_another_colour_mode_and_size(mode, tiny, engine, tmp_path):
    """They are read as the images of a folder are: grey becomes grey RGB, alpha goes, 16 bits are scaled."""
    good = draw(tmp_path / "good", 1, seed=1, size=(70, 50))
    other = tmp_path / "other"
    other.mkdir()
    picture = Image.open(good / "000.png")
    if mode == "I;16":
        grey = picture.convert("L")
        deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        deep.save(other / "000.png")
        picture = grey
    else:
        picture = picture.convert(mode)
        picture.save(other / "000.png")
    module = build(WITH_PATCHES[0], tiny, k_shot=1, few_shot_source=other, reference_weight=1.0)
    plain = tmp_path / "plain"
    plain.mkdir()
    picture.convert("RGB").save(plain / "000.png")
    (prediction,) = engine.predict(module, data_path=plain)
    assert float(prediction.anomaly_map.max()) < EXACT


def test_unknown_layers_are_refused(tiny):
    from anomalib_clipzoo.clip import Backbone

    with pytest.raises(ValueError, match="are not all within the image tower"):
        PatchReferences(Backbone(tiny, None).vision, [5])


def test_references_and_thresholds_come_back_together(model_class, tiny, engine, tmp_path, data, caplog):
    weights = build(model_class, tiny).save_weights(tmp_path / "w.safetensors")
    module = model_class(weights=weights, k_shot=2, visualizer=False)
    engine.train(module, datamodule=data)
    (left,) = (tmp_path / "results").rglob("learned.safetensors")
    again = model_class(weights=left, visualizer=False)
    assert again.model.references.images == module.model.references.images
    for name, value in module.post_processor.state_dict().items():
        torch.testing.assert_close(again.post_processor.state_dict()[name], value, rtol=0, atol=0, equal_nan=True)
    assert again.post_processor.image_threshold == module.post_processor.image_threshold
    new = tmp_path / "own" / "bad"
    first, second = (torch.cat([b.pred_score for b in engine.predict(m, data_path=new)]) for m in (module, again))
    assert torch.equal(first, second)
    late = "thresholds were fitted before these images were in the references"
    assert late not in caplog.text
    others = model_class(weights=left, k_shot=1, few_shot_source=tmp_path / "own" / "train", visualizer=False)
    engine.predict(others, data_path=new)
    assert caplog.text.count(late) == 1
