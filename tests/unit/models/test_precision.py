# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Half precision ends where features are compared: scores and maps of every model are in single precision."""

import pytest
import torch
from anomalib.data import ImageBatch

from anomalib_clipzoo.anomaly.losses import dice_loss, focal_loss, map_loss
from anomalib_clipzoo.anomaly.maps import GaussianSmoothing
from anomalib_clipzoo.anomaly.references import Reference
from anomalib_clipzoo.anomaly.text_cache import TextCache, is_exporting
from anomalib_clipzoo.clip import Backbone
from anomalib_clipzoo.models.april_gan import AprilGanModel
from anomalib_clipzoo.models.components.pre_processor import ClipTransform
from anomalib_clipzoo.models.musc import MuScModel
from anomalib_clipzoo.models.win_clip_plus import WinClipPlus
from anomalib_clipzoo.models.win_clip_plus.scores import VARIANTS
from tests.tiny import write_tiny_clip
from tests.unit.models.test_arguments import LEARNING, MODELS, build

AROUND = {
    "bf16-mixed": lambda model: torch.autocast("cpu", torch.bfloat16),
    "16-mixed": lambda model: torch.autocast("cpu", torch.float16),
    "bf16-true": lambda model: model.bfloat16() and torch.autocast("cpu", enabled=False),
    "16-true": lambda model: model.half() and torch.autocast("cpu", enabled=False),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


def images(count: int = 6) -> torch.Tensor:
    return torch.randn(count, 3, 48, 48, generator=torch.Generator().manual_seed(2))


def few_shot(model) -> None:
    model.model.remember(images(11)[6:], [Reference(None, f"{number}.png") for number in range(5)])


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("model_class", MODELS, ids=lambda model: model.__name__)
@pytest.mark.parametrize("k", [0, 1])
@torch.no_grad()
def test_scores_and_maps_leave_in_single_precision(model_class, around, k, tiny):
    torch.manual_seed(0)
    model = build(model_class, tiny, image_size=48)
    if k and not hasattr(model.model, "remember"):
        pytest.skip("a zero-shot model")
    if k:
        few_shot(model)
    exact = model.model(images())
    with AROUND[around](model):
        given = model.model(images())
    for name in ("pred_score", "anomaly_map"):
        values, expected = getattr(given, name), getattr(exact, name)
        assert values.dtype is torch.float32
        assert values.isfinite().all()
        assert (values - expected).abs().max() < 0.1
    steps = given.anomaly_map.unique().numel() / exact.anomaly_map.unique().numel()
    assert steps > 0.9  # no steps that single precision would not have


@pytest.mark.parametrize("around", AROUND)
@torch.no_grad()
def test_blocks_add_up_in_single_precision(around, tiny):
    """What a block adds is not lost where it is less than half precision's step from one token's value to the next."""
    vision = Backbone(tiny, None, image_size=48).vision
    for block in vision.blocks:
        for layer in (block.attn.out_proj, block.mlp.c_proj):
            for value in layer.parameters():
                value.mul_(1e-4)
    exact = vision(images(), (1, vision.depth)).tokens
    with AROUND[around](vision):
        given = vision(images(), (1, vision.depth)).tokens
    added, expected = (last - first for first, last in (given, exact))
    assert added.dtype is torch.float32
    assert expected.abs().max() < 2**-12 * exact[0].abs().mean()
    torch.testing.assert_close(added, expected, atol=0.05 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("around", ["bf16-true", "16-true"])
@torch.no_grad()
def test_texts_are_encoded_in_single_precision(around, tiny):
    clip = Backbone(tiny, None)
    ids = clip.text.tokenize(["a photo of a gear", "a photo of a torn gear"])
    exact = clip.text(ids)
    AROUND[around](clip)
    assert clip.vision.projection.dtype is not torch.float32
    assert torch.equal(clip.text(ids), exact)


@pytest.mark.parametrize("around", ["bf16-true", "16-true"])
def test_thresholds_keep_their_precision(around, tiny):
    model = build(WinClipPlus, tiny)
    model.post_processor._pixel_threshold.fill_(0.0003)
    scores = torch.tensor([0.00029, 0.0003, 0.00031])
    before = model.post_processor.bend_map(scores)
    AROUND[around](model)
    assert torch.equal(model.post_processor.bend_map(scores), before)
    assert before[0] < 0.5 < before[2]


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_images_are_normalized_in_single_precision(half):
    levels = torch.arange(256).expand(1, 3, 256, 256) / 255
    transform = ClipTransform((64, 64))
    torch.testing.assert_close(transform(levels.to(half)), transform(levels), atol=1e-6, rtol=0)


@pytest.mark.parametrize("model_class", LEARNING, ids=lambda model: model.__name__)
def test_losses_are_in_single_precision(model_class, tiny):
    model = build(model_class, tiny, image_size=48).train()
    model.log = lambda *_, **__: None
    batch = ImageBatch(image=images(2), gt_mask=torch.ones(2, 48, 48).bool(), gt_label=torch.ones(2).bool())
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.training_step(batch)
    assert loss.dtype is torch.float32
    loss.backward()
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)


@pytest.mark.parametrize("size", [(64, 48), (70, 70), (96, 130)], ids=str)
@pytest.mark.parametrize("sigma", [0.7, 3.7, 8.0])
def test_a_saturated_map_stays_within_its_range(size, sigma):
    maps = GaussianSmoothing(size, sigma)(torch.ones(2, *size))
    assert maps.max() <= 1
    assert maps.min() > 1 - 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("k", [0, 1])
@torch.no_grad()
def test_windows_that_are_sure_make_a_map_within_its_range(tiny, monkeypatch, variant, value, k):
    """The mean of the inverses of sixteen ones, each a sixteenth, is less than one."""
    model = build(WinClipPlus, tiny, variant=variant, image_size=96, scales=[4]).model
    sure = torch.full_like
    monkeypatch.setattr(model, "probabilities", lambda features, _: sure(features[..., 0], value))
    monkeypatch.setattr(model.references, "distances", lambda _kind, features, _: sure(features[..., 0], value))
    if k:
        model.remember(torch.randn(1, 3, 96, 96), [Reference(None, "good.png")])
    output = model(torch.randn(2, 3, 96, 96))
    for values in output.pred_score, output.anomaly_map:
        assert values.min() >= 0
        assert values.max() <= 1
        torch.testing.assert_close(values, sure(values, value), atol=1e-5, rtol=0)


@torch.no_grad()
def test_patches_that_are_sure_make_a_map_within_its_range(tiny, monkeypatch):
    """Bilinear weights may add up to more than one."""
    clip = Backbone(tiny, None)
    assert MuScModel(clip).maps(torch.ones(1, 16)).max() <= 1
    model = AprilGanModel(clip, layers=[2, 4], reference_weight=1.0)
    model.remember(torch.randn(1, 3, 32, 32), [Reference(None, "good.png")])
    monkeypatch.setattr(model.references, "layer_distances", lambda *_: torch.ones(2, 2, 16))
    output = model(torch.randn(2, 3, 32, 32))
    assert output.anomaly_map.max() == 1
    assert output.pred_score.max() <= 1


@pytest.mark.parametrize("loss", [focal_loss, dice_loss, map_loss])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_take_half_precision_and_give_single(loss, dtype):
    maps = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    masks = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)) > 0.9
    with torch.autocast("cpu", torch.bfloat16):
        given = loss(maps, masks)
    assert torch.equal(given, loss(maps.float(), masks))


@pytest.mark.parametrize("around", ["bf16-true", "16-true"])
def test_references_keep_their_precision(around, tiny):
    model = build(WinClipPlus, tiny, image_size=48)
    few_shot(model)
    before = {name: value.clone() for name, value in model.model.references.named_buffers()}
    AROUND[around](model)
    assert all(torch.equal(value, before[name]) for name, value in model.model.references.named_buffers())


@pytest.mark.parametrize("model_class", MODELS, ids=lambda model: model.__name__)
def test_predictions_carry_no_gradients(model_class, tiny):
    output = build(model_class, tiny)(torch.rand(6, 3, 40, 50))
    assert not output.pred_score.requires_grad
    assert not output.anomaly_map.requires_grad


# ---- texts ----


@pytest.mark.parametrize("model_class", MODELS, ids=lambda model: model.__name__)
@torch.no_grad()
def test_texts_are_never_stale(model_class, tiny):
    """After loading, after a change in place and after a change of precision a model is what a fresh one would be."""
    torch.manual_seed(1)
    model, other = build(model_class, tiny, image_size=48), build(model_class, tiny, image_size=48)
    model.model(images())
    for value in other.model.parameters():
        if value.requires_grad:
            value.add_(0.1)
    other.model.backbone.text.projection.mul_(-1)
    model.load_state_dict(other.state_dict())
    model.model.backbone.text.projection.mul_(-1)
    assert torch.equal(model.model(images()).anomaly_map, other.model(images()).anomaly_map)
    model.double().float()
    assert torch.equal(model.model(images()).anomaly_map, other.model(images()).anomaly_map)


def test_a_cache_encodes_each_name_once_and_forgets_what_no_longer_holds():
    layer, calls = torch.nn.Linear(2, 2), []

    def encode(names):
        calls.append(names)
        return [layer.weight.sum() * len(name) for name in names]

    cache = TextCache()
    first = cache.lookup(["a", "bb", "a"], [layer], encode)
    assert first[0] is first[2]
    assert not first[0].requires_grad
    cache.lookup(["bb", "ccc"], [layer], encode)
    assert calls == [["a", "bb"], ["ccc"]]
    with torch.no_grad():
        layer.weight.add_(1)
    cache.lookup(["a"], [layer], encode)
    assert calls[2:] == [["a"]]


class Halving(torch.nn.Module):
    """What a cache keeps: a value that a layer makes of a name, whatever the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.cache, self.calls = torch.nn.Linear(2, 2), TextCache(), []

    def encode(self, names: list[str]) -> list[torch.Tensor]:
        self.calls.extend(names)
        return [self.layer(torch.ones(2, dtype=self.layer.weight.dtype)) for _ in names]

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values + self.cache.lookup(["name"], [self.layer], self.encode)[0]


def test_a_cache_is_made_in_no_mode_and_serves_every_mode():
    model = Halving()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        model(torch.ones(2))
    (kept,) = model.cache.lookup(["name"], [model.layer], model.encode)
    assert model.calls == ["name"]
    assert kept.dtype is torch.float32
    assert not kept.is_inference()
    model(torch.ones(2, requires_grad=True)).sum().backward()


def test_a_cache_forgets_over_a_change_of_precision_and_back():
    model = Halving()
    before = model(torch.zeros(2))
    model.bfloat16().float()
    given = model(torch.zeros(2))
    assert model.calls == ["name", "name"]
    assert not torch.equal(given, before)


def test_a_cache_follows_changes_that_leave_no_trace():
    model = Halving()
    before = model(torch.zeros(2))
    model.layer.weight.data.mul_(2)
    assert not torch.equal(model(torch.zeros(2)), before)
    compiled = torch.compile(model, backend="eager")
    compiled(torch.zeros(2))
    model.layer.weight.data.mul_(2)
    assert torch.equal(compiled(torch.zeros(2)), model(torch.zeros(2)))


def test_export_is_told_from_compiling_and_from_running():
    class Asks(torch.nn.Module):
        def forward(self, values):
            return values + is_exporting()

    zero, asks = torch.zeros(1), Asks()
    assert asks(zero) == 0
    assert torch.compile(asks, backend="eager", fullgraph=True)(zero) == 0
    assert torch.export.export(asks, (zero,), strict=False).module()(zero) == 1


def test_exported_texts_are_constants_that_were_encoded_before():
    model = Halving().eval()
    with pytest.raises(RuntimeError, match=r"Texts about 'name' are to be constants .* run the model once"):
        torch.export.export(model, (torch.ones(2),), strict=False)
    expected = model(torch.ones(2))
    program = torch.export.export(model, (torch.ones(2),), strict=False)
    assert not [node for node in program.graph.nodes if "linear" in str(node.target)]
    torch.testing.assert_close(program.module()(torch.ones(2)), expected)
    assert torch.equal(model(torch.ones(2)), expected)  # nothing of the graph is left in the cache
    with torch.no_grad():
        model.train().layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match="run the model once"):  # texts of before the training
        torch.export.export(model.eval(), (torch.ones(2),), strict=False)
