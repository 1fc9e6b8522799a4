# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""From patch-text similarities to anomaly maps and image scores."""

import torch
from scipy.ndimage import gaussian_filter1d
from torch import nn
from torch.nn import functional

from anomalib_clipzoo.clip import VisionTower

from .precision import FullPrecision, full_precision

PAPER_SIZE = 518  # pixels of an image's height that the papers state sizes in pixels for


def upsample(
    patch_maps: torch.Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
    *,
    align_corners: bool,
) -> torch.Tensor:
    """Bring values per patch to the image's resolution, bilinearly.

    Args:
        patch_maps: ``(B, C, N)``, patches row by row.
        grid: Rows and columns of patches.
        size: Height and width of the image in pixels.
        align_corners: Whether the outermost patch centres sit on the outermost pixels.

    Returns:
        ``(B, C, H, W)``.
    """
    return functional.interpolate(
        patch_maps.unflatten(-1, grid), size=size, mode="bilinear", align_corners=align_corners
    )


def abnormal_logit(logits: torch.Tensor) -> torch.Tensor:
    """Turn logits of (normal, abnormal) in the last axis into the one whose sigmoid is the softmax's abnormal share."""
    return logits[..., 1] - logits[..., 0]


def top_mean(maps: torch.Tensor, count: int) -> torch.Tensor:
    """Return the mean of the ``count`` largest pixels of each map ``(B, H, W)``, as ``(B,)``."""
    return maps.flatten(1).topk(count, dim=1).values.mean(dim=1)


def weighted_mean(some: torch.Tensor, others: torch.Tensor, weight: float) -> torch.Tensor:
    """Return the mean of values and of others, which have so much of the weight, 0..1."""
    return (1 - weight) * some + weight * others


class GaussianSmoothing(FullPrecision):
    """Gaussian filter with SciPy's mirrored border, as two matrix products.

    The matrices are SciPy's own filter applied to the identity, so the result is ``scipy.ndimage.gaussian_filter`` up
    to rounding, on any device, for a whole batch, and in exported models.

    Args:
        size: Height and width of the maps in pixels.
        sigma: Standard deviation in pixels; 0 leaves maps as they are.
    """

    rows: torch.Tensor
    columns: torch.Tensor

    def __init__(self, size: tuple[int, int], sigma: float) -> None:
        super().__init__()
        self.sigma = sigma
        if sigma:
            self.register_buffer("rows", _filter_matrix(size[0], sigma), persistent=False)
            self.register_buffer("columns", _filter_matrix(size[1], sigma).T.contiguous(), persistent=False)

    @full_precision
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Smooth maps ``(..., H, W)``, 0..1; rounding may take none of them out of that range."""
        smoothed = self.rows @ maps @ self.columns if self.sigma else maps
        return smoothed.clamp(0, 1)


class PatchMaps(nn.Module):
    """Brings values of patches to maps at the image's resolution.

    Args:
        vision: The image tower, which says where patches are.
        sigma: Gaussian smoothing of the maps in pixels; ``None`` for the paper's.
        paper_sigma: The paper's, for images of 518 pixels; it is scaled by height.
        align_corners: See :func:`upsample`.
    """

    def __init__(
        self, vision: VisionTower, sigma: float | None = None, *, paper_sigma: float = 0.0, align_corners: bool
    ) -> None:
        super().__init__()
        self.grid, self.size, self.align_corners = vision.grid, vision.image_size, align_corners
        self.smooth = GaussianSmoothing(self.size, paper_sigma * self.size[0] / PAPER_SIZE if sigma is None else sigma)

    def upsample(self, patches: torch.Tensor) -> torch.Tensor:
        """Bring values of patches ``(K, B, N)`` to the image's resolution, ``(K, B, H, W)``."""
        return upsample(patches, self.grid, self.size, align_corners=self.align_corners)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Bring values of patches ``(B, N)``, 0..1, to smoothed maps ``(B, H, W)``, 0..1 in spite of rounding."""
        return self.smooth(self.upsample(patches[None])[0])


def _filter_matrix(length: int, sigma: float) -> torch.Tensor:
    identity = torch.eye(length, dtype=torch.float64).numpy()
    return torch.from_numpy(gaussian_filter1d(identity, sigma, axis=0)).float()
