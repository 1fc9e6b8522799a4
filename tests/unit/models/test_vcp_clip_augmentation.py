# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""VCP-CLIP's training augmentation does what the reference code's does to single 8-bit images."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from anomalib_clipzoo.models.vcp_clip import augmentation
from anomalib_clipzoo.models.vcp_clip.augmentation import TrainingAugmentation, blur, turn_and_resize

SIZE = (28, 28)
COUNT = 400


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def without(monkeypatch, *steps: str) -> None:
    """Leave steps out."""
    for step in steps:
        monkeypatch.setattr(augmentation, step, lambda images, *_: images)


def pixels(images: torch.Tensor) -> torch.Tensor:
    return (images * 255).round()


def pillow_resized(image: np.ndarray, size: tuple[int, int], kernel: Image.Resampling) -> Image.Image:
    """Resize with Pillow, the horizontal axis first, as it did itself before version 13."""
    return Image.fromarray(image).resize((size[1], len(image)), kernel).resize(size[::-1], kernel)


@pytest.mark.parametrize("size", [SIZE, (28, 42)], ids=["square", "wide"])
@pytest.mark.parametrize("quarter", range(4))
def test_turned_and_resized_as_pillow_does(quarter, size):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    mask = np.zeros((40, 60), np.uint8)
    mask[2:9, 50:58] = 255
    expected = pillow_resized(np.rot90(image, quarter), size, Image.Resampling.BICUBIC)
    expected_mask = pillow_resized(np.rot90(mask, quarter), size, Image.Resampling.BILINEAR)
    images, masks = torch.from_numpy(image).permute(2, 0, 1)[None] / 255, torch.from_numpy(mask)[None] > 0
    turned, turned_mask = turn_and_resize(images, masks, torch.tensor([quarter]), size)
    assert np.array_equal(pixels(turned[0]).permute(1, 2, 0).numpy(), np.asarray(expected))
    assert np.array_equal(turned_mask[0].numpy(), np.asarray(expected_mask) > 127)


def test_quarter_turns_keep_the_corners_of_images_that_are_not_square(monkeypatch):
    without(monkeypatch, "_shift_tones", "_add_noise", "blur")
    augment = TrainingAugmentation(SIZE)
    augment.colours = torch.nn.Identity()
    augment.rotation.forward = lambda images, masks: (images, masks)
    images, masks = torch.full((COUNT, 3, 40, 60), 0.5), torch.zeros(COUNT, 40, 60)
    images[:, :, :8, 52:], masks[:, :8, 52:] = 1.0, 1.0
    turned, turned_masks = augment(images, masks)
    assert turned.min() > 0.4  # no black bars
    assert turned_masks.dtype == torch.bool
    assert torch.equal(turned[:, 0] > 0.75, turned_masks)
    corners = turned_masks[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners.sum(dim=1) == 1).all()  # no defect is lost
    shares = corners.float().mean(dim=0)
    assert shares[1] == pytest.approx(0.5 + 0.5 / 4, abs=0.07)
    assert torch.allclose(shares[[0, 2, 3]], torch.full((3,), 0.5 / 4), atol=0.06)


def test_rotation_mirrors_at_the_border():
    augment = TrainingAugmentation(SIZE)
    images, masks = torch.full((64, 3, 40, 60), 0.5), torch.ones(64, 40, 60)
    rotated, rotated_masks = augment.rotation(images, masks[:, None])
    assert rotated.min() > 0.49
    assert rotated_masks.min() == 1


@pytest.mark.parametrize("size", [3, 5, 7])
def test_blur_is_opencvs(size):
    image = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255
    expected = {"box": cv2.blur(image, (size, size)), "gaussian": cv2.GaussianBlur(image, (size, size), 0)}
    kernels = {"box": np.full(size, 1 / size), "gaussian": cv2.getGaussianKernel(size, 0)[:, 0]}
    for kind, kernel in kernels.items():
        given = blur(tensor, torch.from_numpy(kernel)[None])[0].permute(1, 2, 0) * 255
        assert np.abs(given.numpy() - expected[kind]).max() <= 1


def test_every_image_has_its_own_blur():
    assert augmentation.box_kernels(2).tolist() == [pytest.approx([1 / 3] * 3)] * 2
    kernels = augmentation.gaussian_kernels(300)
    lengths = (kernels > 0).sum(dim=1)
    assert {int(length) for length in lengths} == {3, 5, 7}
    assert torch.bincount(lengths, minlength=8)[[3, 5, 7]].min() > 70
    image = torch.rand(1, 3, 16, 16).expand(3, -1, -1, -1)
    each = blur(image, kernels[[int((lengths == size).nonzero()[0]) for size in (3, 5, 7)]])
    assert torch.allclose(each[0], blur(image[:1], torch.tensor([[0.25, 0.5, 0.25]]))[0], atol=1e-6)
    assert not torch.allclose(each[0], each[1])


def test_one_of_three_is_drawn_for_each_image(monkeypatch):
    without(monkeypatch, "_shift_tones", "_add_noise")
    calls = {}
    monkeypatch.setattr(
        augmentation, "blur", lambda images, kernels: calls.update({kernels.shape[1]: images}) or images
    )
    augment = TrainingAugmentation(SIZE)
    augment.colours.forward = lambda images: calls.update(colours=images) or images
    augment.rotation.forward = lambda images, masks: (images, masks)
    images = (torch.arange(COUNT) / COUNT)[:, None, None, None].expand(-1, 3, *SIZE)
    augment(images, torch.zeros(COUNT, *SIZE))
    chosen = {name: {float(image.mean()) for image in part} for name, part in calls.items()}
    assert set(chosen) == {3, 7, "colours"}
    assert sum(map(len, chosen.values())) == len(set().union(*chosen.values()))  # no image takes two of them
    assert all(len(part) == pytest.approx(COUNT / 6, abs=25) for part in chosen.values())


def test_tones_are_shifted_as_albumentations_does():
    images = torch.full((COUNT, 3, 2, 2), 0.4)
    images[..., 0] = 0.6
    shifted = augmentation._shift_tones(images)
    scale = (shifted[:, 0, 0, 0] - shifted[:, 0, 0, 1]) / 0.2
    shift = shifted[:, 0, 0, 1] - 0.4 * scale
    for values, centre in ((scale, 1.0), (shift, 0.0)):
        assert stats.kstest(values.numpy(), stats.uniform(centre - 0.2, 0.4).cdf).pvalue > 0.01
    assert shifted.flatten(1).unique(dim=0).shape == (COUNT, 12)


def test_noise_has_a_variance_of_its_own_for_each_image():
    images = torch.full((COUNT, 3, 40, 40), 0.5)
    noise = (augmentation._add_noise(images) - images) * 255
    variances = noise.var(dim=(1, 2, 3))
    assert stats.kstest(variances.numpy(), stats.uniform(10, 40).cdf).pvalue > 0.01
    assert noise[:, 0].sub(noise[:, 1]).abs().mean() > 1  # channels differ


def test_every_step_is_done_to_about_half_of_the_images(monkeypatch):
    images = torch.full((COUNT, 3, *SIZE), 0.4)
    for step in ("_shift_tones", "_add_noise"):
        with monkeypatch.context() as patch:
            without(patch, *({"_shift_tones", "_add_noise"} - {step}), "blur")
            augment = TrainingAugmentation(SIZE)
            augment.colours = torch.nn.Identity()
            changed = (pixels(augment(images, images[:, 0])[0]) != 102).flatten(1).any(dim=1)
        assert changed.float().mean() == pytest.approx(0.5, abs=0.08)


def test_images_of_one_batch_are_changed_independently():
    image = torch.rand(1, 3, 40, 60).expand(32, -1, -1, -1)
    augmented, masks = TrainingAugmentation(SIZE)(image, torch.zeros(32, 40, 60))
    assert augmented.shape == (32, 3, *SIZE)
    assert masks.shape == (32, *SIZE)
    assert 0 <= augmented.min() < augmented.max() <= 1
    assert len(augmented.flatten(1).unique(dim=0)) > 25
