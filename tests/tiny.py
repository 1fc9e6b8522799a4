# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""A CLIP so small that a model on it takes milliseconds."""

import json
from pathlib import Path

TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 4, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3},
}


def write_tiny_clip(folder: Path, **vision) -> str:
    """Write the tiny CLIP's config, its image tower changed by ``vision``; return its path."""
    config = {**TINY_CLIP, "vision_cfg": {**TINY_CLIP["vision_cfg"], **vision}}
    path = folder / f"tiny{''.join(f'_{key}{value}' for key, value in vision.items())}.json"
    path.write_text(json.dumps(config))
    return str(path)
