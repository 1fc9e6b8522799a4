# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""From a name, a JSON config or a file to a frozen CLIP."""

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .files import find_weights, load_clip_weights
from .text import TextTower
from .vision import VisionTower, check_image_size

logger = logging.getLogger(__name__)

TOY = "toy"
CLIP_VOCABULARY = 49408
PATCH_SIZE, IMAGE_SIZE = 16, 224  # where a configuration names none
# What a plain ViT's configuration says, and no more; a key beyond these (a timm tower, an attention pool, another
# tokenizer ...) changes the architecture.
PLAIN_VISION_KEYS = {"image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio", "ls_init_value"}
PLAIN_TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "ls_init_value"}
SUPPORTED = (
    "plain ViT towers with CLIP's own text tower are supported, such as ViT-B-16, ViT-B-16-plus-240, ViT-L-14-336 or "
    "ViT-H-14"
)


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
    ) -> None:
        super().__init__()
        config = read_config(name)
        if image_size is not None:  # said before anything is downloaded or built
            image_size = check_image_size(image_size, config["vision_cfg"].get("patch_size", PATCH_SIZE))
        weights = find_weights(name, asset("toy_clip.safetensors") if name == TOY else pretrained)
        clip = _build_clip(config, quick_gelu)
        if weights is not None:
            load_clip_weights(clip, name, weights)
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


def asset(name: str) -> Path:
    """Return the path of a file that comes with the package."""
    return Path(str(resources.files("anomalib_clipzoo") / "assets" / name))


def read_config(name: str) -> dict[str, Any]:
    """Read the configuration of a backbone and make sure that its towers are plain.

    Raises:
        ValueError: If the backbone is unknown, its file is no open_clip config, or its towers are not plain.
        FileNotFoundError: If ``name`` is the path of a JSON file that does not exist.
    """
    if name == TOY:
        config = json.loads(asset("toy_clip.json").read_text())
    elif name.endswith(".json"):
        config = _read_json(Path(name))
    else:
        config = _read_open_clip(name)
    _check_plain(name, config)
    return config


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        msg = f"There is no backbone config at {path}."
        raise FileNotFoundError(msg)
    try:
        config = json.loads(path.read_text())
        config = config.get("model_cfg", config)  # as in a model hub's open_clip_config.json
        if {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
            return config
    except (ValueError, AttributeError):
        pass
    msg = f"{path} is not an open_clip config: it needs embed_dim, vision_cfg and text_cfg."
    raise ValueError(msg)


def _read_open_clip(name: str) -> dict[str, Any]:
    import open_clip
    from open_clip.factory import get_model_config

    known = open_clip.list_models()
    if name not in known:
        plain = [other for other in known if not _unplain_keys(get_model_config(other))]
        choices = f"a path to an open_clip JSON config, {TOY!r}, or one of: {', '.join(plain)}"
        msg = f"Unknown backbone {name!r}. Give {choices}."
        raise ValueError(msg)
    return get_model_config(name)


def _unplain_keys(config: dict[str, Any]) -> list[str]:
    """Return the configuration's entries that make its towers other than plain."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    found = [f"vision_cfg.{key}" for key in vision.keys() - PLAIN_VISION_KEYS if vision[key]]
    found += [f"text_cfg.{key}" for key in text.keys() - PLAIN_TEXT_KEYS if text[key]]
    found += ["multimodal_cfg"] if config.get("multimodal_cfg") else []
    if not isinstance(vision.get("layers", 12), int):
        found.append("vision_cfg.layers (a ResNet)")
    if text.get("vocab_size", CLIP_VOCABULARY) != CLIP_VOCABULARY:
        found.append("text_cfg.vocab_size")
    return sorted(found)


def _check_plain(name: str, config: dict[str, Any]) -> None:
    if unplain := _unplain_keys(config):
        msg = f"Backbone {name!r} has no plain ViT tower ({', '.join(unplain)}); {SUPPORTED}."
        raise ValueError(msg)


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
