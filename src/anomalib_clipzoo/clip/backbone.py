# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""From a name, a JSON config or a file to a frozen CLIP."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .config import IMAGE_SIZE, PATCH_SIZE, TOY, asset, read_config
from .files import load_clip_weights
from .pretrained import find_weights, pixel_statistics, trained_with_quick_gelu
from .text import TextTower
from .vision import VisionTower, check_image_size


class Backbone(nn.Module):
    """A frozen CLIP and all that the models ask of it.

    All parameters are frozen and the module stays in eval mode, whatever the model around it does. They are no part of
    a state dict: whoever loads one has built the same frozen CLIP before, and keeps it. Copies and pickles carry them.

    Args:
        name: An open_clip model name with a plain ViT tower, a path to an open_clip JSON config, or ``"toy"``, the
            small CLIP that comes with the package.
        pretrained: An open_clip tag (downloaded on first use), a path to a file of weights (``.safetensors``, OpenAI's
            TorchScript ``.pt``, or a plain state dict), or ``None`` for random weights, the same in every process. The
            toy brings its own.
        quick_gelu: Whether both towers use the sigmoid approximation of GELU. It is part of a method, not of the
            weights: the papers' codes differ in it for the same weights.
        image_size: Height and width in pixels, multiples of the patch size; ``None`` keeps the native size.
        interpolation: How patch positions are resized: ``"bicubic"`` or ``"bilinear"``.
        antialias: Whether that resizing is antialiased.
        mean: Mean of red, green and blue, 0..1, that images are normalised by; ``None`` for the pretrained tag's, or
            OpenAI's where there is no tag.
        std: Their standard deviation, likewise.

    Attributes:
        mean: Mean of red, green and blue.
        std: Their standard deviation.
        trained_with_quick_gelu: Whether the pretrained tag was trained with QuickGELU; ``None`` where it is not known.

    Raises:
        ValueError: If the backbone is unknown or not a plain ViT, the tag is unknown, the weights do not fit it, or the
            image size is not a multiple of the patch size.
        FileNotFoundError: If a file of weights does not exist or cannot be downloaded.
    """

    def __init__(
        self,
        name: str = "ViT-L-14-336",
        pretrained: str | Path | None = "openai",
        *,
        quick_gelu: bool = False,
        image_size: int | Sequence[int] | None = None,
        interpolation: str = "bicubic",
        antialias: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        config = read_config(name)
        if image_size is not None:  # said before anything is downloaded or built
            image_size = check_image_size(image_size, config["vision_cfg"].get("patch_size", PATCH_SIZE))
        weights = find_weights(name, asset("toy_clip.safetensors") if name == TOY else pretrained)
        clip = _build_clip(config, quick_gelu)
        if weights is not None:
            load_clip_weights(clip, name, weights)
        self.trained_with_quick_gelu = trained_with_quick_gelu(name, pretrained, config)
        usual = pixel_statistics(name, pretrained, config)
        self.mean, self.std = tuple(mean or usual.mean), tuple(std or usual.std)
        self.vision = VisionTower(clip.visual, image_size, interpolation=interpolation, antialias=antialias)
        self.text = TextTower(clip)
        self.requires_grad_(requires_grad=False)
        self.eval()
        self._fingerprint = self._hash_weights()  # as loaded: a cast to another precision leaves the CLIP what it is

    @property
    def embed_dim(self) -> int:
        """Width E of the joint space."""
        return self.vision.projection.shape[1]

    def train(self, mode: bool = True) -> "Backbone":  # noqa: ARG002  # the signature is torch's
        """Stay in eval mode: a frozen CLIP has nothing to learn."""
        return super().train(mode=False)

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Return nothing to keep, unless asked for the variables themselves, by which torch's exporters find them."""
        destination = OrderedDict() if destination is None else destination
        return super().state_dict(destination=destination, prefix=prefix, keep_vars=True) if keep_vars else destination

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Put the own tensors in the place of whatever the state dict has, or lacks, for this and the modules in it."""
        for key in [key for key in state_dict if key.startswith(prefix)]:
            del state_dict[key]
        state_dict.update(self.state_dict(prefix=prefix, keep_vars=True))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def fingerprint(self) -> str:
        """Return a short hash of the weights, the same for the same CLIP however it was named or where it lay."""
        return self._fingerprint

    def _hash_weights(self) -> str:
        towers = (self.vision.class_embedding, self.vision.native_position, self.vision.projection)
        words = (self.text.position, self.text.projection)
        digest = hashlib.sha256()
        for weight in (*towers, *words):
            digest.update(weight.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def default_image_size(name: str, paper_size: int | None) -> tuple[int, int]:
    """Return the size to use where the user names none.

    Args:
        name: The backbone, as for :class:`Backbone`.
        paper_size: The paper's size, 518 for those on ViT-L/14; ``None`` where the paper keeps the native size.

    Returns:
        The paper's size where the backbone's patch size divides it, otherwise the backbone's native size.
    """
    vision = read_config(name)["vision_cfg"]
    if paper_size and paper_size % vision.get("patch_size", PATCH_SIZE) == 0:
        return paper_size, paper_size
    native = vision.get("image_size", IMAGE_SIZE)
    return (native, native) if isinstance(native, int) else tuple(native)


def _build_clip(config: dict[str, Any], quick_gelu: bool) -> Any:
    from open_clip.model import CLIP

    # Random towers are the same in every process, so that what was learned on them can be used again; and they must not
    # move the caller's random numbers.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CLIP(
            embed_dim=config["embed_dim"],
            vision_cfg=config["vision_cfg"],
            text_cfg=config["text_cfg"],
            quick_gelu=quick_gelu,
        )
