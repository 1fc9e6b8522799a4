# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""VcpClip beyond its figures: arguments, weights in and out, what it says to bad input."""

import pytest
import torch
from anomalib import LearningType
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from anomalib_clipzoo.models.components.pre_processor import ClipPreProcessor
from anomalib_clipzoo.models.components.training_images import TrainingImages
from anomalib_clipzoo.models.vcp_clip import VcpClip
from anomalib_clipzoo.models.vcp_clip.augmentation import TrainingAugmentation
from tests.parity.files import GOLDEN
from tests.tiny import write_tiny_clip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


def build(tiny, **arguments) -> VcpClip:
    return VcpClip(**{"backbone": tiny, "pretrained": None, **arguments})


def test_defaults_follow_the_backbone(tiny):
    model = build(tiny)
    assert model.hparams.image_size == [32, 32]
    assert model.hparams.layers == [1, 2, 3, 4]
    assert model.model.top_pixels == round(2000 * 32 * 32 / 518**2)
    assert model.pre_processor.image_size == (32, 32)
    assert model.learning_type is LearningType.ONE_CLASS


@pytest.mark.parametrize("image_size", [32, (32, 48)])
@pytest.mark.parametrize("branch", ["fused", "base", "post"])
@torch.no_grad()
def test_scores_and_maps_are_probabilities(tiny, image_size, branch):
    model = build(tiny, image_size=image_size, branch=branch).eval()
    height, width = model.hparams.image_size
    output = model.model(torch.randn(3, 3, height, width))
    assert output.pred_score.shape == (3,)
    assert output.anomaly_map.shape == (3, height, width)
    for values in output.pred_score, output.anomaly_map:
        assert values.min() >= 0
        assert values.max() <= 1
        assert values.std() > 0


def test_weights_bring_what_they_were_learned_with(tiny, tmp_path):
    settings = {"normal_prompts": ["a flawless {}"], "branch": "post", "use_global": False, "deep_prompt_len": 0}
    path = build(tiny, **settings).save_weights(tmp_path / "learned.safetensors")
    hparams = build(tiny, weights=path).hparams
    assert {key: hparams[key] for key in settings} == settings


def test_other_words_at_test(tiny):
    words = {"normal_prompts": ["a photo of a good {}"], "test_normal_prompts": ["a photo of a perfect {}"]}
    model = build(tiny, **words).model
    model.deep_prompts.dropout.p = 0.0
    features = torch.randn(2, 32)
    expected = build(tiny, normal_prompts=words["test_normal_prompts"]).model
    expected.load_state_dict(model.state_dict())
    torch.testing.assert_close(model.eval().encode_text(features), expected.eval().encode_text(features))
    assert not torch.allclose(model.train().encode_text(features), model.eval().encode_text(features))


@pytest.mark.parametrize(
    "arguments",
    [{}, {"use_global": False}, {"deep_prompt_len": 0}, {"branch": "base"}, {"branch": "post"}],
    ids=str,
)
def test_every_learned_parameter_takes_part(tiny, arguments):
    """Training on several devices breaks on a parameter without a gradient."""
    model = build(tiny, **arguments)
    maps = model.model.layer_maps(torch.randn(2, 3, 32, 32))
    model.loss(maps, torch.ones(2, 32, 32)).backward()
    for name, value in model.model.named_parameters():
        assert (value.grad is not None) == (not name.startswith("backbone.")), name
    groups = model.configure_optimizers().param_groups
    assert sum(len(group["params"]) for group in groups) == sum(value.requires_grad for value in model.parameters())
    assert all(value.dim() == 0 for value in groups[1]["params"])


def test_a_batch_of_one_image_trains(tiny):
    model = build(tiny)
    loss = model.loss(model.model.layer_maps(torch.randn(1, 3, 32, 32)), torch.zeros(1, 32, 32))
    loss.backward()
    assert loss.isfinite()


def test_weights_out_and_in(tiny, tmp_path):
    torch.manual_seed(3)
    model = build(tiny, image_size=48, layers=[2, 4], prompt_len=3, deep_prompt_len=2)
    path = model.save_weights(tmp_path / "learned.safetensors")
    again = build(tiny, weights=path)
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected, given = model.eval().model(images), again.eval().model(images)
    assert torch.equal(given.anomaly_map, expected.anomaly_map)
    assert torch.equal(given.pred_score, expected.pred_score)
    assert again.learning_type is LearningType.ZERO_SHOT
    assert again.hparams.layers == [2, 4]


def test_weights_hold_nothing_frozen(tiny, tmp_path):
    path = build(tiny).save_weights(tmp_path / "learned.safetensors")
    with safe_open(path, "pt") as file:
        assert not any("backbone" in key for key in file.keys())  # noqa: SIM118  # not a dictionary
    assert path.stat().st_size < 200_000


def test_a_part_of_the_weights_is_enough_for_an_ablation(tiny, tmp_path):
    path = build(tiny).save_weights(tmp_path / "learned.safetensors")
    assert build(tiny, weights=path, branch="base").model.post_vcp is None


def other_model(path, tiny, tmp_path):
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, path, {key: value.replace("VcpClip", "AnomalyClip") for key, value in metadata.items()})
    return tiny


def another_clip(path, tiny, tmp_path):
    return write_tiny_clip(tmp_path, layers=5)


def cut_short(path, tiny, tmp_path):
    path.write_bytes(path.read_bytes()[:-100])
    return tiny


def foreign(path, tiny, tmp_path):
    save_file({"some.weight": torch.zeros(3)}, path)
    return tiny


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_model, "holds weights of AnomalyClip, not of VcpClip"),
        (another_clip, r"was learned on backbone .*tiny.json.*stands on .*layers5.json"),
        (cut_short, "cannot be read as weights; it may be cut short"),
        (foreign, "was not written by anomalib-clipzoo"),
    ],
)
def test_weights_that_do_not_fit(damage, message, tiny, tmp_path):
    path = build(tiny).save_weights(tmp_path / "learned.safetensors")
    backbone = damage(path, tiny, tmp_path)
    with pytest.raises(ValueError, match=message):
        build(backbone, weights=path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weights": "nowhere.pth"}, FileNotFoundError, "no file of learned weights at 'nowhere.pth'"),
        ({"weights": GOLDEN / "vcp_clip" / "checkpoint_sample.pth"}, ValueError, r"does not fit.*instead of"),
        ({"layers": [2, 9]}, ValueError, r"layers \[2, 9\].*from 1 to 4"),
        ({"image_size": 50}, ValueError, "multiple of the backbone's patch size 8"),
        ({"prompt_len": 80}, ValueError, r"prompt_len 80 .* room for 77"),
        ({"prompt_len": 0}, ValueError, "prompt_len=0 is not what VcpClip takes: a whole number above 0"),
        ({"deep_prompt_len": 75}, ValueError, "deep_prompt_len 75, but the text tower has room for 77"),
        ({"normal_prompts": ["a good photo"]}, ValueError, "must have exactly one {}"),
        ({"abnormal_prompts": []}, ValueError, "at least one normal and one abnormal"),
        ({"branch": "both"}, ValueError, "branch='both' is not what VcpClip takes: 'fused' or 'base' or 'post'"),
        ({"top_pixels": 2000}, ValueError, "more than the 1024 pixels"),
    ],
)
def test_bad_arguments(arguments, error, message, tiny):
    with pytest.raises(error, match=message):
        build(tiny, **arguments)


def test_user_set_lengths_win_over_nothing_but_not_over_weights(tiny, tmp_path):
    path = build(tiny, prompt_len=3).save_weights(tmp_path / "learned.safetensors")
    with pytest.raises(
        ValueError,
        match=r"pre_vcp.* is \(.*3.*\) instead of.* have prompt_len 3, deep_prompt_len 1: leave",
    ):
        build(tiny, weights=path, prompt_len=2)


def test_reference_checkpoint_of_another_model(tiny, tmp_path):
    torch.save({"prompt_learner": {"ctx_pos": torch.zeros(1, 1, 12, 32)}}, tmp_path / "epoch_15.pth")
    with pytest.raises(ValueError, match=r"not a checkpoint of VcpClip's reference code.*prompt_learner.ctx_pos"):
        build(tiny, weights=tmp_path / "epoch_15.pth")


@pytest.mark.parametrize("augment", [True, False])
def test_training_images_are_augmented_before_they_are_resized(tiny, augment):
    training_images, pre_processor = build(tiny, augment=augment).configure_callbacks()[:2]
    assert isinstance(pre_processor, ClipPreProcessor)
    assert isinstance(training_images, TrainingImages)
    assert isinstance(training_images.augmentation, TrainingAugmentation) == augment


def test_augmentation_moves_image_and_mask_alike():
    torch.manual_seed(0)
    masks = torch.zeros(16, 64, 64)
    masks[:, 10:30, 20:44] = 1
    images = masks[:, None].repeat(1, 3, 1, 1) * 0.8 + 0.1
    augmented, moved = TrainingAugmentation((64, 64))(images, masks.bool())
    assert augmented.shape == images.shape
    assert 0 <= augmented.min() < augmented.max() <= 1
    assert moved.dtype == torch.bool
    changed = (moved != masks.bool()).flatten(1).any(dim=1)
    assert 4 < changed.sum() < 16  # about 3 of 4 images are turned
    for image, mask in zip(augmented.mean(dim=1), moved, strict=True):
        bright = image > (image.min() + image.max()) / 2
        assert (bright == mask).float().mean() > 0.97  # blur and interpolation blur the edge only


def test_mixed_precision(tiny):
    model = build(tiny).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.model(images).anomaly_map
        with torch.autocast("cpu", torch.bfloat16):
            given = model.model(images).anomaly_map
    assert (given.float() - expected).abs().max() < 0.05


def test_another_activation_is_another_clip(tiny, tmp_path):
    path = build(tiny, quick_gelu=True).save_weights(tmp_path / "learned.safetensors")
    assert build(tiny, weights=path).hparams.quick_gelu
    with pytest.raises(ValueError, match=r"quick_gelu True\), but this model stands on .*quick_gelu False"):
        build(tiny, weights=path, quick_gelu=False)
