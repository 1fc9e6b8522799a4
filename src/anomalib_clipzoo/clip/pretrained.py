# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What open_clip knows of a pretrained tag: where its weights are, and how they were trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .config import TOY
from .preprocess import MEAN, STD

Colour = tuple[float, float, float]


class PixelStatistics(NamedTuple):
    """Mean and standard deviation of red, green and blue, 0..1, by which a CLIP's images are normalised."""

    mean: Colour
    std: Colour


def file_of(pretrained: str | Path) -> Path | None:
    """Return the path of a file of weights, whether it is there or not; ``None`` for an open_clip tag."""
    path = Path(pretrained).expanduser()
    return path if path.is_file() or path.suffix or len(path.parts) > 1 else None


def tag_config(name: str, pretrained: str | Path | None) -> Mapping[str, Any]:
    """Return open_clip's configuration of a backbone's pretrained tag; empty for files and unknown tags."""
    from open_clip.pretrained import get_pretrained_cfg

    if pretrained is None or name == TOY or file_of(pretrained):
        return {}
    return get_pretrained_cfg(name, str(pretrained))


def pixel_statistics(name: str, pretrained: str | Path | None, config: Mapping[str, Any]) -> PixelStatistics:
    """Return how a CLIP's images are normalised.

    Args:
        name: The backbone.
        pretrained: An open_clip tag, the path of a file, or ``None``.
        config: The backbone's configuration.

    Returns:
        The tag's, else those of a model hub's config, else OpenAI's, which nearly all were trained with.
    """
    known = tag_config(name, pretrained) or config.get("preprocess_cfg", {})
    return PixelStatistics(tuple(known.get("mean", MEAN)), tuple(known.get("std", STD)))


def trained_with_quick_gelu(name: str, pretrained: str | Path | None, config: Mapping[str, Any]) -> bool | None:
    """Tell whether a pretrained tag was trained with QuickGELU; ``None`` where that is not known.

    Args:
        name: The backbone.
        pretrained: An open_clip tag, the path of a file, or ``None``.
        config: The backbone's configuration.
    """
    tag = tag_config(name, pretrained)
    if pretrained is not None and (config.get("quick_gelu") or tag.get("quick_gelu")):
        return True
    if not tag:
        return None
    # Before version 3, open_clip's configurations of tags do not say; then it is known of OpenAI's alone.
    says = "quick_gelu" in tag_config("ViT-B-32", "openai")
    return False if says else pretrained == "openai" or None


def find_weights(name: str, pretrained: str | Path | None) -> Path | None:
    """Return the path of a file of weights, downloading an open_clip tag's through open_clip if need be.

    Args:
        name: The backbone's name, to find the tag.
        pretrained: An open_clip tag, the path of a file, or ``None`` for no weights.

    Raises:
        FileNotFoundError: If the file does not exist, or the tag's weights cannot be downloaded.
        ValueError: If the tag is unknown.
    """
    if pretrained is None:
        return None
    path = file_of(pretrained)
    if path is None:
        return _download(name, str(pretrained))
    if not path.is_file():
        msg = f"There is no file of CLIP weights at {path}."
        raise FileNotFoundError(msg)
    return path


def _download(name: str, tag: str) -> Path:
    from open_clip.pretrained import download_pretrained, list_pretrained_tags_by_model

    config = tag_config(name, tag)
    if not config:
        tags = (
            ", ".join(list_pretrained_tags_by_model(name)) or "none: give a path to a file, or null for random weights"
        )
        msg = f"Unknown pretrained tag {tag!r} for backbone {name!r}. Tags: {tags}."
        raise ValueError(msg)
    try:
        return Path(download_pretrained(config))
    except Exception as error:  # each transport raises its own
        source = config.get("hf_hub") or config.get("url")
        msg = (
            f"The weights {tag!r} of {name!r} are not on this machine and could not be downloaded from {source} "
            f"({type(error).__name__}). Fetch the file on a machine with network access, put it anywhere on this one, "
            "and pass its path: pretrained=/path/to/file (--model.pretrained on the command line)."
        )
        raise FileNotFoundError(msg) from error
