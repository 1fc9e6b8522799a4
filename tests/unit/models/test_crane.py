# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Crane beyond its figures: what it adds to AnomalyClip, arguments, weights in and out, bad input."""

import logging
from pathlib import Path

import pytest
import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
from torch.nn import functional

from anomalib_clipzoo.anomaly.losses import map_loss
from anomalib_clipzoo.models.anomaly_clip import AnomalyClip
from anomalib_clipzoo.models.components import known_weights
from anomalib_clipzoo.models.crane import Crane
from tests.tiny import TINY_CLIP, write_tiny_clip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    """A CLIP whose joint space is narrower than its text tower."""
    folder = tmp_path_factory.mktemp("unequal")
    path = Path(write_tiny_clip(folder))
    path.write_text(path.read_text().replace(f'"embed_dim": {TINY_CLIP["embed_dim"]}', '"embed_dim": 16'))
    return str(path)


def build(tiny, kind=Crane, **arguments):
    torch.manual_seed(0)
    return kind(**{"backbone": tiny, "pretrained": None, "visualizer": False, **arguments})


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def batch(count: int = 2) -> ImageBatch:
    masks = torch.zeros(count, 32, 32, dtype=torch.bool)
    masks[0, 4:20, 8:16] = True
    return ImageBatch(image=images(count), gt_mask=masks, gt_label=masks.flatten(1).any(dim=1))


def loss_of(model: Crane, count: int = 2) -> torch.Tensor:
    model.log = lambda *_, **__: None
    return model.training_step(batch(count))


# ---- arguments ----


def test_defaults_are_the_papers(tiny):
    model = build(tiny)
    assert model.hparams.layers == [4]
    assert (model.hparams.local_attention, model.hparams.image_token) == ("qq+kk+vv", "pad_suffix")
    assert (model.hparams.local_weight, model.hparams.image_weight, model.hparams.image_token_prob) == (8.0, 0.2, 1.0)
    assert model.model.image_token_at_test is False
    assert model.configure_optimizers().defaults["betas"] == (0.6, 0.999)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"layers": [1, 2, 4]}, {"image_token_at_test": True}, {"soft_mean": False}, {"scorebase_pooling": False}],
    ids=str,
)
@torch.no_grad()
def test_scores_and_maps_are_probabilities(tiny, arguments):
    output = build(tiny, **arguments).eval().model(images(3))
    assert output.pred_score.shape == (3,)
    assert output.anomaly_map.shape == (3, 32, 32)
    for values in output.pred_score, output.anomaly_map:
        assert values.min() >= 0
        assert values.max() <= 1
        assert values.std() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": [2, 9]}, r"layers \[2, 9\].*from 1 to 4"),
        ({"image_size": 50}, "multiple of the backbone's patch size 8"),
        ({"local_attention": "qk"}, "local_attention='qk' is not what Crane takes: 'vv' or 'qq' or 'kk'"),
        ({"image_token": "suffix"}, "image_token='suffix' is not what Crane takes: 'none' or 'pad_suffix'"),
        ({"upsampling": "cubic"}, "upsampling='cubic' is not what Crane takes"),
        ({"n_ctx": 72}, r"n_ctx 72 learned words, the image and 'damaged object.' make a prompt of 78 tokens"),
        ({"t_n_ctx": 13}, r"t_n_ctx 13 is not within 1 to n_ctx \(12\)"),
        ({"image_token_prob": 1.5}, "image_token_prob=1.5 is not what Crane takes"),
        ({"image_weight": -1}, "image_weight=-1 is not what Crane takes"),
    ],
    ids=str,
)
def test_unfit_arguments(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(tiny, **arguments)


def test_an_image_is_a_word_only_where_both_are_equally_wide(unequal):
    with pytest.raises(ValueError, match=r"joint space \(16\) and text tower \(32\) must be equally wide"):
        build(unequal)
    assert build(unequal, image_token="none").eval().model(images()).pred_score.isfinite().all()


# ---- what it adds ----


@torch.no_grad()
def test_without_what_it_adds_it_is_anomaly_clip(tiny):
    arguments = {"local_attention": "vv", "image_token": "none", "scorebase_pooling": False}
    crane, other = build(tiny, **arguments).eval(), build(tiny, AnomalyClip).eval()
    assert torch.equal(crane.model.encode_text(), other.model.encode_text())
    assert torch.equal(crane.model(images()).anomaly_map, other.model(images()).anomaly_map)


@pytest.mark.parametrize(("probability", "seen"), [(0.0, False), (1.0, True)])
def test_prompts_see_the_images_of_a_batch_as_often_as_asked(tiny, monkeypatch, probability, seen):
    model = build(tiny, image_token_prob=probability).train()
    called = []
    encode = model.model.encode_text_for
    monkeypatch.setattr(model.model, "encode_text_for", lambda features: called.append(1) or encode(features))
    loss_of(model)
    assert bool(called) is seen


@torch.no_grad()
def test_texts_that_see_no_image_are_encoded_once(tiny, monkeypatch):
    model = build(tiny).eval().model
    encoded = []
    encode = model.encode_text
    monkeypatch.setattr(model, "encode_text", lambda: encoded.append(1) or encode())
    for count in (1, 2, 3):
        model(images(count))
    assert len(encoded) == 1


@torch.no_grad()
def test_patches_that_are_anomalous_weigh_more_in_the_image(tiny):
    model = build(tiny).eval().model
    features = model.image_features(images())
    logits = torch.full((1, 2, 16), -50.0)
    logits[:, :, 3] = 50.0
    torch.testing.assert_close(model.pool(features, logits), features.patches[0, :, 3])


def test_maps_are_blocks_in_training(tiny):
    maps = build(tiny).model.layer_maps(torch.randn(1, 2, 16))
    assert torch.equal(maps, functional.interpolate(maps[..., ::8, ::8], scale_factor=8.0))
    smooth = build(tiny, upsampling="bilinear").model.layer_maps(torch.randn(1, 2, 16))
    assert len(smooth[0, 0].unique()) > 100


def test_weights_of_the_losses(tiny):
    logits, labels, masks = torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.tensor([1, 0]), torch.zeros(2, 32, 32)
    maps = torch.rand(2, 2, 32, 32)
    image = functional.cross_entropy(logits * 7, labels)  # 0.07 in the comparison, 0.01 here
    for arguments, expected in (
        ({"local_weight": 0.0}, 0.2 * image),
        ({"image_weight": 0.0}, 8 * map_loss(maps, masks) / 2),
        ({"local_weight": 2.0, "image_weight": 3.0}, map_loss(maps, masks) + 3 * image),
    ):
        torch.testing.assert_close(build(tiny, **arguments).loss(logits, maps, labels, masks), expected)


# ---- training ----


@pytest.mark.parametrize("arguments", [{}, {"layers": [2, 4]}, {"image_token": "replace_prefix"}], ids=str)
def test_every_learned_parameter_takes_part(tiny, arguments):
    model = build(tiny, **arguments).train()
    loss_of(model).backward()
    for name, value in model.model.named_parameters():
        assert (value.grad is not None) == (not name.startswith("backbone.")), name


def test_a_batch_of_one_image_trains(tiny):
    model = build(tiny).train()
    optimizer = model.configure_optimizers()
    before = model.model.prompts.normal.detach().clone()
    loss_of(model, count=1).backward()
    optimizer.step()
    assert not torch.equal(model.model.prompts.normal, before)


# ---- weights ----


def test_weights_out_and_in(tiny, tmp_path):
    model = build(tiny, layers=[2, 4], image_token="pad_prefix", image_token_at_test=True, n_ctx=5, depth=2).eval()
    again = build(tiny, weights=model.save_weights(tmp_path / "learned.safetensors")).eval()
    with torch.no_grad():
        expected, given = model.model(images()), again.model(images())
    assert torch.equal(given.anomaly_map, expected.anomaly_map)
    assert torch.equal(given.pred_score, expected.pred_score)
    assert again.learning_type is LearningType.ZERO_SHOT


def reference_file(path: Path, *, projections: bool = False, n_ctx: int = 12, width: int = 32) -> Path:
    """Write a checkpoint as Crane's code does, or with the projections that AnomalyCLIP's saves as well."""
    shapes = {f"ctx_{kind}": (1, 1, n_ctx, width) for kind in ("pos", "neg")}
    for kind in ("pos", "neg"):
        shapes[f"token_prefix_{kind}"] = (1, 1, 1, width)
        shapes[f"token_suffix_{kind}"] = (1, 1, 76 - n_ctx, width)
    for index in range(2):
        shapes[f"compound_prompts_text.{index}"] = (4, width)
        if projections:
            shapes[f"compound_prompt_projections.{index}.weight"] = (896, width)
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    state |= {f"tokenized_prompts_{kind}": torch.zeros(1, 1, 77, dtype=torch.int32) for kind in ("pos", "neg")}
    torch.save({"prompt_learner": state}, path)
    return path


def test_reference_checkpoint(tiny, tmp_path, caplog):
    path = reference_file(tmp_path / "epoch_5.pth", n_ctx=7)
    with caplog.at_level(logging.INFO):
        model = build(tiny, weights=path)
    assert model.hparams.n_ctx == 7
    assert torch.equal(model.model.prompts.abnormal, torch.load(path, weights_only=True)["prompt_learner"]["ctx_neg"])
    with pytest.raises(ValueError, match=r"epoch_5.pth does not fit.* have n_ctx 7, depth 3, t_n_ctx 4: leave"):
        build(tiny, weights=path, n_ctx=12)


def test_anomaly_clip_and_crane_refuse_each_others_files(tiny, tmp_path):
    cranes = reference_file(tmp_path / "crane.pth")
    anomaly_clips = reference_file(tmp_path / "anomaly_clip.pth", projections=True)
    assert build(tiny, Crane, weights=cranes)
    assert build(tiny, AnomalyClip, weights=anomaly_clips)
    with pytest.raises(ValueError, match=r"not a checkpoint of AnomalyClip's reference code.*compound_prompt_proj"):
        build(tiny, AnomalyClip, weights=cranes)
    with pytest.raises(ValueError, match=r"not a checkpoint of Crane's reference code.*compound_prompt_proj"):
        build(tiny, Crane, weights=anomaly_clips)
    ours = build(tiny).save_weights(tmp_path / "learned.safetensors")
    with pytest.raises(ValueError, match="holds weights of Crane, not of AnomalyClip"):
        build(tiny, AnomalyClip, weights=ours)


def test_crane_plus_is_known_by_its_content(tiny, tmp_path, monkeypatch):
    """Its files have the names and shapes of Crane's."""
    path = reference_file(tmp_path / "epoch_5.pth")
    build(tiny, weights=path)
    monkeypatch.setattr(known_weights, "OF_OTHER_METHODS", {known_weights.digest(path): "epoch_5.pth of Crane+"})
    with pytest.raises(ValueError, match=r"epoch_5.pth of Crane\+.* no model here"):
        build(tiny, weights=path)
