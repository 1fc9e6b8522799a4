# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Files in the formats that users have, with weights made from names."""

import json
from pathlib import Path

import torch
from open_clip.model import CLIP
from safetensors.torch import save_file

from . import deterministic

GOLDEN = Path(__file__).parent / "golden"


def write_backbone(folder: Path, config: dict) -> dict[str, str]:
    """Write a CLIP's JSON config and its weights; return the arguments that name them."""
    path = folder / "backbone.json"
    path.write_text(json.dumps(config))
    clip = CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    weights = folder / "backbone.safetensors"
    save_file({key: value.contiguous() for key, value in deterministic.fill(clip.state_dict()).items()}, weights)
    return {"backbone": str(path), "pretrained": str(weights)}


def flatten(content: object, prefix: str = "") -> dict[str, torch.Tensor]:
    """Join nested keys with dots, as the names of the deterministic weights are."""
    if isinstance(content, torch.Tensor):
        return {prefix: content}
    return {
        name: tensor
        for key, value in content.items()
        for name, tensor in flatten(value, f"{prefix}.{key}" if prefix else key).items()
    }
