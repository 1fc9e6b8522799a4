# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""From a backbone's name to its configuration, checked before anything is built from it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

TOY = "toy"
CLIP_VOCABULARY = 49408
PATCH_SIZE, IMAGE_SIZE = 16, 224  # where a configuration names none
SUPPORTED = (
    "plain ViT towers with CLIP's own text tower are supported, such as ViT-B-16, ViT-B-16-plus-240, ViT-L-14-336 or "
    "ViT-H-14"
)
# The largest published plain CLIP, ViT-bigG-14, has 2.5 billion parameters and 256 patches.
MOST_PARAMETERS = 10**10
MOST_PATCHES = 2**14
MOST_BYTES = 2**20  # of a JSON file


@dataclass(frozen=True)
class Range:
    """What a number in a configuration may be.

    Attributes:
        low: The least.
        high: The most.
        whole: Whether it is a whole number.
        lists: Lengths of lists of such numbers that may stand in its place.
        alone: Whether a number may stand alone.
        optional: Whether null may stand there.
    """

    low: float
    high: float
    whole: bool = True
    lists: tuple[int, ...] = ()
    alone: bool = True
    optional: bool = False

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            return len(value) in self.lists and all(map(self._has, value))
        return (value is None and self.optional) or (self.alone and self._has(value))

    def _has(self, value: Any) -> bool:
        return type(value) in ((int,) if self.whole else (int, float)) and self.low <= value <= self.high

    def __str__(self) -> str:
        kind = "whole number" if self.whole else "number"
        forms = [f"a {kind}"] if self.alone else []
        forms += [f"a list of {length} {kind}s" for length in self.lists]
        return f"{' or '.join(forms)} from {self.low} to {self.high}"


LAYER_SCALE = Range(0, 1, whole=False, optional=True)
TOP = {"embed_dim": Range(1, 2**14)}
# What a plain ViT's configuration says, and no more; a key beyond these (a timm tower, an attention pool, another
# tokenizer ...) changes the architecture.
VISION = {
    "image_size": Range(1, 2**14, lists=(2,)),
    "patch_size": Range(1, 2**10),
    "width": Range(1, 2**14),
    "layers": Range(1, 256),
    "head_width": Range(1, 2**14),
    "mlp_ratio": Range(0.01, 64, whole=False),
    "ls_init_value": LAYER_SCALE,
}
TEXT = {
    "context_length": Range(8, 2**12),
    "vocab_size": Range(CLIP_VOCABULARY, CLIP_VOCABULARY),
    "width": Range(1, 2**14),
    "heads": Range(1, 2**10),
    "layers": Range(1, 256),
    "mlp_ratio": Range(0.01, 64, whole=False),
    "ls_init_value": LAYER_SCALE,
}
PREPROCESSING = {
    "mean": Range(0, 1, whole=False, lists=(3,), alone=False),
    "std": Range(0.001, 1, whole=False, lists=(3,), alone=False),
}


def read_config(name: str) -> dict[str, Any]:
    """Read the configuration of a backbone and make sure that its towers are plain and can be built.

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
    if unplain := unplain_keys(config):
        msg = f"Backbone {name!r} has no plain ViT tower ({', '.join(unplain)}); {SUPPORTED}."
        raise ValueError(msg)
    if problem := _problem(config):
        msg = f"Backbone {name!r} cannot be built: {problem}."
        raise ValueError(msg)
    return config


def asset(name: str) -> Path:
    """Return the path of a file that comes with the package."""
    return Path(str(resources.files("anomalib_clipzoo") / "assets" / name))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        msg = f"There is no backbone config at {path}."
        raise FileNotFoundError(msg)
    try:
        document = json.loads(path.read_text() if path.stat().st_size <= MOST_BYTES else "too large")
    except (ValueError, RecursionError) as error:
        msg = f"{path} is not an open_clip config: it is no JSON ({type(error).__name__}), or of more than a megabyte."
        raise ValueError(msg) from error
    document = document if isinstance(document, dict) else {}
    config = document.get("model_cfg", document)  # as in a model hub's open_clip_config.json
    preprocessing = document.get("preprocess_cfg", {})
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
        msg = f"{path} is not an open_clip config: it needs embed_dim, vision_cfg and text_cfg."
        raise ValueError(msg)
    config = {**config, "preprocess_cfg": preprocessing}
    for part in ("vision_cfg", "text_cfg", "preprocess_cfg"):
        if not isinstance(config[part], dict):
            msg = f"{path} is not an open_clip config: its {part} is {config[part]!r}, not a table of values."
            raise ValueError(msg)
    return config


def _read_open_clip(name: str) -> dict[str, Any]:
    import open_clip
    from open_clip.factory import get_model_config

    known = open_clip.list_models()
    if name not in known:
        plain = [other for other in known if not unplain_keys(get_model_config(other))]
        choices = f"a path to an open_clip JSON config, {TOY!r}, or one of: {', '.join(plain)}"
        msg = f"Unknown backbone {name!r}. Give {choices}."
        raise ValueError(msg)
    return get_model_config(name)


def unplain_keys(config: Mapping[str, Any]) -> list[str]:
    """Return the configuration's entries that make its towers other than plain."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    found = [f"vision_cfg.{key}" for key in vision.keys() - VISION.keys() if vision[key]]
    found += [f"text_cfg.{key}" for key in text.keys() - TEXT.keys() if text[key]]
    found += ["multimodal_cfg"] if config.get("multimodal_cfg") else []
    if isinstance(vision.get("layers"), list):
        found.append("vision_cfg.layers (a ResNet)")
    if text.get("vocab_size", CLIP_VOCABULARY) != CLIP_VOCABULARY:
        found.append("text_cfg.vocab_size")
    return sorted(found)


def _problem(config: Mapping[str, Any]) -> str:
    """Say in words what is wrong with the numbers of a plain configuration; empty if nothing is."""
    parts = (("", TOP, config), ("vision_cfg.", VISION, config["vision_cfg"]), ("text_cfg.", TEXT, config["text_cfg"]))
    for prefix, ranges, part in (*parts, ("preprocess_cfg.", PREPROCESSING, config.get("preprocess_cfg", {}))):
        for key, allowed in ranges.items():
            if key in part and part[key] not in allowed:
                return f"{prefix}{key} is {part[key]!r:.60}, it must be {allowed}"
    return _mismatch(config["vision_cfg"], config["text_cfg"])


def _mismatch(vision: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    size, patch_size = vision.get("image_size", IMAGE_SIZE), vision.get("patch_size", PATCH_SIZE)
    height, width = (size, size) if isinstance(size, int) else size
    patches = (height // patch_size) * (width // patch_size)
    widths, heads = (vision.get("width", 768), text.get("width", 512)), text.get("heads", 8)
    if not 0 < patches <= MOST_PATCHES:
        return f"an image has {patches} patches, it must have 1 to {MOST_PATCHES}"
    if widths[0] % vision.get("head_width", 64):
        return f"vision_cfg.width {widths[0]} is no multiple of its head_width"
    if widths[1] % heads:
        return f"text_cfg.width {widths[1]} is no multiple of its number of heads"
    parameters = sum(
        part.get("layers", 12) * width**2 * (4 + 2 * part.get("mlp_ratio", 4))
        for part, width in zip((vision, text), widths, strict=True)
    )
    return (
        f"it has {parameters:.2g} parameters, more than {MOST_PARAMETERS:.0e}" if parameters > MOST_PARAMETERS else ""
    )
