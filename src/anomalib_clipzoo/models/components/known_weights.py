# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The papers' published checkpoints, as far as their hashes are known: what a file is, whatever its name."""

import hashlib
from pathlib import Path
from types import MappingProxyType

KNOWN_WEIGHTS = MappingProxyType(
    {
        "bbb15ee3e303d6036d7eb82ecf6ee2419500d12472dc82c9023069b4110a2849": "train_visa.pth of VCP-CLIP, for MVTec AD",
        "3e9364a149f34cb70dfed5dd493a34907659ee9955429ee0fdcf2899eb3f94e0": "train_mvtec.pth of VCP-CLIP, for VisA",
    }
)
"""SHA-256 of a file, and what it is: the repository's name for it and the data that it is meant to be tested on."""


def name_of(path: Path) -> str | None:
    """Name a published checkpoint by its content, or return ``None`` if it is not among the known ones."""
    return KNOWN_WEIGHTS.get(hashlib.sha256(path.read_bytes()).hexdigest())
