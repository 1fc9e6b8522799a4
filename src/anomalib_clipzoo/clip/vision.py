# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The image tower as explicit steps: embed, blocks, project."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from .attention import normalize, prepare, residual_block


class VisionFeatures(NamedTuple):
    """What the image tower says about a batch of images.

    Attributes:
        image: Image features in the joint space, not normalised, ``(B, E)``.
        tokens: The residual stream after each layer asked for, class token first, each ``(B, 1 + N, D)``.
    """

    image: torch.Tensor
    tokens: list[torch.Tensor]


class VisionTower(nn.Module):
    """CLIP's frozen vision transformer, at any image size.

    Args:
        visual: open_clip's ``VisionTransformer``, which holds the weights.
        image_size: Height and width in pixels, multiples of the patch size; ``None`` keeps the native size.
        interpolation: How patch positions are resized to another grid: ``"bicubic"`` or ``"bilinear"``.
        antialias: Whether that resizing is antialiased.

    Raises:
        ValueError: If the image size is not a multiple of the patch size.
    """

    position: torch.Tensor

    def __init__(
        self,
        visual: Any,
        image_size: int | Sequence[int] | None = None,
        *,
        interpolation: str = "bicubic",
        antialias: bool = True,
    ) -> None:
        super().__init__()
        self.patch_embedding: nn.Conv2d = visual.conv1
        self.class_embedding: nn.Parameter = visual.class_embedding
        self.native_position: nn.Parameter = visual.positional_embedding
        self.ln_pre: nn.Module = visual.ln_pre
        self.blocks: nn.ModuleList = visual.transformer.resblocks
        self.ln_post: nn.Module = visual.ln_post
        self.projection: nn.Parameter = visual.proj
        self.native_grid: tuple[int, int] = tuple(visual.grid_size)
        self.patch_size: int = self.patch_embedding.kernel_size[0]
        native_size = (self.native_grid[0] * self.patch_size, self.native_grid[1] * self.patch_size)
        self.image_size = check_image_size(image_size or native_size, self.patch_size)
        self.grid = (self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size)
        resized = resize_positions(self.native_position, self.native_grid, self.grid, interpolation, antialias)
        self.register_buffer("position", resized, persistent=False)

    @property
    def width(self) -> int:
        """Width D of the tokens."""
        return self.class_embedding.shape[0]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def check_layers(self, layers: Iterable[int]) -> tuple[int, ...]:
        """Return the layers in ascending order, or say which do not exist (layers count from 1)."""
        layers = tuple(sorted(set(layers)))
        if not layers or layers[0] < 1 or layers[-1] > self.depth:
            msg = (
                f"layers {list(layers)} are not all within the image tower, whose blocks count from 1 to {self.depth}."
            )
            raise ValueError(msg)
        return layers

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Turn images ``(B, 3, H, W)`` into tokens ``(B, 1 + N, D)`` for the first block, class token first.

        They are in single precision, whatever the weights are in.

        Raises:
            ValueError: If the images have another size than the tower was made for.
        """
        if tuple(images.shape[-2:]) != self.image_size:
            expected, given = ("x".join(map(str, size)) for size in (self.image_size, images.shape[-2:]))
            msg = f"The images are {given} pixels, the model was made for {expected}: resize them or set image_size."
            raise ValueError(msg)
        patches = self.patch_embedding(images.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2).float()
        class_token = self.class_embedding.float().expand(patches.shape[0], 1, -1)
        tokens = torch.cat([class_token, patches], dim=1) + self.position.float()
        return normalize(self.ln_pre, tokens)

    def project(self, tokens: torch.Tensor) -> torch.Tensor:
        """Bring tokens ``(..., D)`` into the joint space ``(..., E)``: ``ln_post``, then the projection."""
        return prepare(self.ln_post, tokens) @ self.projection

    def forward(self, images: torch.Tensor, layers: Sequence[int] = ()) -> VisionFeatures:
        """Run the whole tower.

        Args:
            images: Normalised images, ``(B, 3, H, W)``.
            layers: Blocks, counted from 1, whose output tokens are wanted.

        Returns:
            Image features as CLIP computes them and the tokens of the layers, in ascending order.
        """
        tokens = self.embed(images)
        tapped = []
        for layer, block in enumerate(self.blocks, start=1):
            tokens = residual_block(block, tokens)
            if layer in layers:
                tapped.append(tokens)
        return VisionFeatures(image=self.project(tokens[:, 0]), tokens=tapped)


def check_image_size(image_size: int | Sequence[int], patch_size: int) -> tuple[int, int]:
    """Return an image size as (height, width), or say why a tower cannot use it.

    Raises:
        ValueError: If a side is not a multiple of the patch size.
    """
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2:
        msg = f"image_size {list(sides)} is neither one side nor height and width."
        raise ValueError(msg)
    height, width = sides
    if height % patch_size or width % patch_size or min(height, width) <= 0:
        nearest = [max(1, round(side / patch_size)) * patch_size for side in (height, width)]
        msg = (
            f"image_size {height}x{width} is not a multiple of the backbone's patch size {patch_size}; "
            f"the nearest size that is: {nearest[0]}x{nearest[1]}."
        )
        raise ValueError(msg)
    return height, width


def quarter_layers(depth: int) -> tuple[int, ...]:
    """Return the quarter points of a tower's depth: (6, 12, 18, 24) of 24 blocks, (3, 6, 9, 12) of 12."""
    return tuple(sorted({max(1, round(depth * quarter / 4)) for quarter in range(1, 5)}))


def resize_positions(
    position: torch.Tensor,
    native_grid: tuple[int, int],
    grid: tuple[int, int],
    interpolation: str,
    antialias: bool,
) -> torch.Tensor:
    """Resize position embeddings to another grid of patches; the class token's row is kept.

    Args:
        position: ``(1 + N, D)``, class token first.
        native_grid: Rows and columns that ``position`` has.
        grid: Rows and columns wanted.
        interpolation: ``"bicubic"`` or ``"bilinear"``, corners not aligned.
        antialias: Whether to antialias.

    Returns:
        ``(1 + rows * columns, D)``.
    """
    position = position.detach()
    if native_grid == grid:
        return position.clone()
    patches = position[1:].unflatten(0, native_grid).permute(2, 0, 1)[None]
    patches = functional.interpolate(patches, size=grid, mode=interpolation, antialias=antialias, align_corners=False)
    return torch.cat([position[:1], patches[0].flatten(1).T])
