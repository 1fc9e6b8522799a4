# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""VCP-CLIP's training augmentation, on a batch of images and masks at once."""

import kornia.augmentation as kornia
import torch
from torch import nn

PROBABILITY = 0.5  # of each step; all values are the reference code's
DEGREES = 30.0
STRENGTH = 0.2
NOISE_VARIANCE = (10.0, 50.0)  # of 8-bit levels


class TrainingAugmentation(nn.Module):
    """Rotate, recolour, add noise and blur, each for about half of the images.

    Images are turned by quarters only where the model's input is square.

    Args:
        image_size: Height and width of the model's input in pixels.
    """

    def __init__(self, image_size: tuple[int, int]) -> None:
        super().__init__()
        quarters = (0, 3) if image_size[0] == image_size[1] else (0, 0)
        self.geometry = kornia.AugmentationSequential(
            kornia.RandomAffine(DEGREES, padding_mode="reflection", p=PROBABILITY),
            kornia.RandomRotation90(times=quarters, p=PROBABILITY),
            data_keys=["input", "mask"],
        )
        self.contrast = kornia.ColorJiggle(brightness=STRENGTH, contrast=STRENGTH, p=PROBABILITY)
        self.blur_or_colour = kornia.ImageSequential(
            kornia.RandomBoxBlur((3, 3), p=PROBABILITY),
            kornia.ColorJiggle(STRENGTH, STRENGTH, STRENGTH, STRENGTH, p=PROBABILITY),
            kornia.RandomGaussianBlur((5, 5), (0.8, 1.1), p=PROBABILITY),
            random_apply=1,
        )

    @torch.no_grad()
    def forward(self, images: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment images ``(B, 3, H, W)``, 0..1, and their masks ``(B, H, W)`` alike."""
        images = images.as_subclass(torch.Tensor)
        images, turned = self.geometry(images, masks.as_subclass(torch.Tensor)[:, None].to(images.dtype))
        images = _add_noise(self.contrast(images))
        return self.blur_or_colour(images).clamp(0, 1), turned[:, 0] > 0.5


def _add_noise(images: torch.Tensor) -> torch.Tensor:
    """Add Gaussian noise of a random variance to about half of the images."""
    draws = torch.rand(2, len(images), 1, 1, 1, device=images.device)
    variance = NOISE_VARIANCE[0] + draws[0] * (NOISE_VARIANCE[1] - NOISE_VARIANCE[0])
    strength = variance.sqrt() / 255 * (draws[1] < PROBABILITY)
    return images + strength * torch.randn_like(images)
