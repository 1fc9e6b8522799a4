# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""With ``compile`` the towers' blocks run as compiled functions; all else is as it is without."""

import copy
import pickle
from functools import cache

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from anomalib_clipzoo import AdaClip, AnomalyClip, AprilGan, WinClipPlus
from anomalib_clipzoo.clip import Backbone, compiling
from anomalib_clipzoo.models.components.weights import RECORD
from tests.tiny import write_tiny_clip
from tests.unit.models.test_arguments import MODELS, build, checkpoint_of, predict


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def graphs(monkeypatch):
    """Count the graphs of compiled functions, which run without being turned into machine code."""
    counter = CompileCounter()

    @cache
    def compiled(run):
        return torch.compile(run, fullgraph=True, dynamic=True, backend=counter)

    monkeypatch.setattr(compiling, "_compiled", compiled)
    torch._dynamo.reset()
    yield counter
    torch._dynamo.reset()


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 48, 48, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "model_class",
    [AnomalyClip, pytest.param(AdaClip, marks=pytest.mark.slow), pytest.param(WinClipPlus, marks=pytest.mark.slow)],
    ids=["AnomalyClip", "AdaClip", "WinClipPlus"],
)
@torch.no_grad()
def test_no_graph_breaks_and_no_more_than_one_more_graph_for_other_batches(model_class, graphs, tiny):
    torch.manual_seed(0)
    model = build(model_class, tiny, image_size=48)
    expected = {count: model.model(images(count)) for count in (1, 2, 5)}
    assert graphs.frame_count == 0
    torch.manual_seed(0)
    model = build(model_class, tiny, image_size=48, compile=True)
    seen = []
    for count in (2, 5, 1, 2):
        given = model.model(images(count))
        torch.testing.assert_close(given.anomaly_map, expected[count].anomaly_map)
        torch.testing.assert_close(given.pred_score, expected[count].pred_score)
        seen.append(graphs.frame_count)
    first, larger, single, again = seen
    assert 0 < first == larger  # of any batch size but 1
    assert again == single <= 2 * first


@pytest.mark.slow
def test_gradients_are_those_without(graphs, tiny):
    grads = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = build(AnomalyClip, tiny, image_size=48, compile=compiled).model
        model.prompts.encode(model.backbone.text).square().sum().backward()
        grads.append(model.prompts.normal.grad)
    assert graphs.frame_count
    assert grads[0].abs().max() > 0
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("model_class", MODELS, ids=lambda model: model.__name__)
def test_it_is_a_matter_of_the_machine(model_class, tiny, tmp_path):
    model, plain = (build(model_class, tiny, compile=compiled) for compiled in (True, False))
    assert list(model.state_dict()) == list(plain.state_dict())
    checkpoint = checkpoint_of(model)
    assert "compile" not in checkpoint[RECORD]["arguments"]
    assert checkpoint["hyper_parameters"]["compile"] is False
    again = model_class(weights=model.save_weights(tmp_path / "learned.safetensors"), visualizer=False)
    assert again.hparams["compile"] is False
    assert not hasattr(again.model.backbone.vision.blocks[0], "compiled")


@pytest.mark.slow
def test_copies_and_pickles_are_compiled_too(graphs, tiny):
    model = build(AnomalyClip, tiny, image_size=48, compile=True)
    expected = predict(model)
    count = graphs.frame_count
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(predict(other), expected)
    assert graphs.frame_count == count > 0


@torch.no_grad()
def test_exported_graphs_are_those_without(graphs, tiny):
    vision = Backbone(tiny, None, image_size=48).vision
    expected = vision(images(2)).image
    compiling.compile_blocks(vision.blocks)
    program = torch.export.export(vision, (images(2),), strict=False)
    assert graphs.frame_count == 0
    torch.testing.assert_close(program.module()(images(2)).image, expected)


def test_a_missing_compiler_is_told_before_anything_is_built(tiny):
    from torch._inductor import config

    told = pytest.raises(ValueError, match=r"compile=True needs a C\+\+ compiler.* install g\+\+")
    with config.patch({"cpp.cxx": ("no-such-compiler",)}), told:
        build(AprilGan, tiny, compile=True)


@pytest.mark.slow
@torch.no_grad()
def test_machine_code_gives_the_same(tiny):
    model = build(AnomalyClip, tiny, image_size=48)
    expected = model.model(images(2)).anomaly_map
    compiling.compile_blocks(model.model.backbone.vision.blocks)
    torch.testing.assert_close(model.model(images(2)).anomaly_map, expected)
