# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Half precision ends where features are compared: scores and maps of every model are in single precision."""

import pytest
import torch
from anomalib.data import ImageBatch

from anomalib_clipzoo.anomaly.maps import GaussianSmoothing
from anomalib_clipzoo.anomaly.references import Reference
from anomalib_clipzoo.anomaly.text_cache import TextCache
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


def test_a_saturated_map_stays_within_its_range():
    maps = GaussianSmoothing((64, 48), 3.7)(torch.ones(2, 64, 48))
    assert maps.max() <= 1
    assert maps.min() > 1 - 1e-5


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
