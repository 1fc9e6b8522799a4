# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The frozen CLIP is in no state dict, and is whole wherever one is loaded."""

import copy
import pickle

import pytest
import torch
from anomalib.callbacks import ModelCheckpoint  # noqa: F401  # anomalib's callbacks import each other in this order
from anomalib.callbacks.model_loader import LoadModelCallback
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from anomalib_clipzoo.clip import Backbone
from tests.tiny import write_tiny_clip


class Model(LightningModule):
    """A frozen CLIP and something learned."""

    def __init__(self, config: str) -> None:
        super().__init__()
        self.backbone = Backbone(config, None)
        self.learned = nn.Linear(self.backbone.embed_dim, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.learned(self.backbone.vision(images).image)

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return self(batch).square().mean()

    def test_step(self, batch: torch.Tensor) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class ImageFeatures(nn.Module):
    """Lightning modules cannot be traced, as they look for a trainer."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.backbone.vision(images).image


LEARNED = {"learned.weight", "learned.bias"}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def config(tmp_path):
    return write_tiny_clip(tmp_path)


@pytest.fixture
def model(config):
    return Model(config)


def trainer(folder, **arguments) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", default_root_dir=folder, max_epochs=1, **quiet, **arguments)


def changed(model: nn.Module) -> nn.Module:
    """Another CLIP in the same place, whose tensors must not find their way into a model."""
    other = copy.deepcopy(model)
    for value in other.parameters():
        value.data += 1
    return other


def test_a_state_dict_holds_what_was_learned_alone(model):
    assert set(model.state_dict()) == LEARNED
    assert set(nn.Sequential(model).state_dict()) == {f"0.{key}" for key in LEARNED}
    assert model.backbone.state_dict() == {}


@pytest.mark.parametrize("assign", [False, True])
def test_strict_loading_keeps_the_own_clip(model, config, assign):
    expected = changed(model)
    other = Model(config)
    assert other.load_state_dict(expected.state_dict(), strict=True, assign=assign) == ([], [])
    assert torch.equal(other.learned.weight, expected.learned.weight)
    assert torch.equal(other.backbone.vision.projection, model.backbone.vision.projection)
    assert not any(value.requires_grad for value in other.backbone.parameters())


def test_frozen_tensors_in_a_state_dict_are_ignored(model, config):
    state = dict(changed(model).state_dict(keep_vars=True))
    assert "backbone.vision.projection" in state
    state["backbone.no_longer.there"] = torch.zeros(1)
    other = Model(config)
    assert other.load_state_dict(state, strict=True) == ([], [])
    assert torch.equal(
        other(IMAGES), nn.functional.linear(model.backbone.vision(IMAGES).image, *other.learned.parameters())
    )


def test_what_else_is_missing_or_unknown_is_still_said(model):
    state = model.state_dict()
    with pytest.raises(RuntimeError, match=r'(?s)Missing.*"learned.bias".*Unexpected.*"other"'):
        model.load_state_dict({"learned.weight": state["learned.weight"], "other": torch.zeros(1)})


def test_loading_changes_neither_precision_nor_the_dictionary(model):
    model.backbone.vision.to(torch.bfloat16)
    state = model.state_dict()
    model.load_state_dict(state)
    assert model.backbone.vision.projection.dtype == torch.bfloat16
    assert set(state) == LEARNED


def test_copies_and_pickles_are_whole(model):
    expected = model(IMAGES)
    assert torch.equal(copy.deepcopy(model)(IMAGES), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(IMAGES), expected)


def test_checkpoints_of_lightning_and_anomalibs_loader(model, config, tmp_path):
    fit = trainer(tmp_path)
    fit.fit(model, DataLoader(IMAGES, batch_size=2))
    path = tmp_path / "model.ckpt"
    fit.save_checkpoint(path)
    assert set(torch.load(path, weights_only=True)["state_dict"]) == LEARNED
    expected = model(IMAGES)

    assert torch.equal(Model.load_from_checkpoint(path, config=config, map_location="cpu")(IMAGES), expected)
    tested = Model(config)
    trainer(tmp_path).test(tested, DataLoader(IMAGES), ckpt_path=path, verbose=False)
    assert torch.equal(tested(IMAGES), expected)
    called_back = Model(config)
    trainer(tmp_path, callbacks=[LoadModelCallback(path)]).test(called_back, DataLoader(IMAGES), verbose=False)
    assert torch.equal(called_back(IMAGES), expected)
    resumed = Model(config)
    trainer(tmp_path).fit(resumed, DataLoader(IMAGES), ckpt_path=path)
    assert torch.equal(resumed(IMAGES), expected)


def test_exported_programs_carry_the_clip(model):
    program = torch.export.export(model.eval(), (IMAGES,), strict=False)
    assert torch.allclose(program.module()(IMAGES), model(IMAGES), atol=1e-6)
    assert torch.allclose(program.run_decompositions().module()(IMAGES), model(IMAGES), atol=1e-6)
    traced = torch.jit.trace(ImageFeatures(model.backbone), IMAGES)  # as torch's first ONNX exporter does
    assert torch.allclose(traced(IMAGES), model.backbone.vision(IMAGES).image, atol=1e-6)
