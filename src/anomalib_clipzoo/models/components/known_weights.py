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
        "94ce202da3e6486a864b904fdfed5057de75846c5834e446fd1d2fe7f97acb44": (
            "9_12_4_multiscale/epoch_15.pth of AnomalyCLIP, for MVTec AD"
        ),
        "415c5dcb52668b8c33fb9c1a351c686d632b919df5b384d63fa9ce7a2338ced4": (
            "9_12_4_multiscale_visa/epoch_15.pth of AnomalyCLIP, for VisA"
        ),
        "3deabbbaf1e412cfdfcb42923a500b986f4b9ee96ccbc7a735d89dbc87df44c8": (
            "pretrained_visa_clinicdb.pth of AdaCLIP, for MVTec AD"
        ),
        "be51a42c052bd4cf060e54f503a1f5d0b2a3b899bc8dc2e243042f18b215427e": (
            "pretrained_mvtec_colondb.pth of AdaCLIP, for VisA"
        ),
        "33e8d3db1cb4aab030866b8b70a46e10aa27ebf2c23b5463cb07f2574addd98c": (
            "pretrained_all.pth of AdaCLIP, for images of none of its datasets"
        ),
    }
)
"""SHA-256 of a file, and what it is: the repository's name for it and the data that it is meant to be tested on."""


def name_of(path: Path) -> str | None:
    """Name a published checkpoint by its content, or return ``None`` if it is not among the known ones."""
    return KNOWN_WEIGHTS.get(hashlib.sha256(path.read_bytes()).hexdigest())
