# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The papers' published checkpoints, as far as their hashes are known: what a file is, whatever its name."""

from pathlib import Path
from types import MappingProxyType

from anomalib_clipzoo.digests import digest

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
        "66d070e3b72b61704495bdadd0f8c4979b62a23ca7211cfe08bd08ec7c0ab831": (
            "trained_on_visa_crane/epoch_5.pth of Crane, for MVTec AD"
        ),
        "dc9bf1584c8abd8744f39e9607fdea8a04c8d30aa147de595d22bf444488e4c8": (
            "trained_on_mvtec_crane/epoch_5.pth of Crane, for VisA"
        ),
    }
)
"""SHA-256 of a file, and what it is: the repository's name for it and the data that it is meant to be tested on."""


OF_OTHER_METHODS = MappingProxyType(
    {
        "9163f13a9c0a75ac63de16239b850cf70d366b5591b083bea2c0c41e76beed53": (
            "trained_on_mvtec_cranep/epoch_5.pth of Crane+"
        ),
        "732c7d1b76745950c56b0f9846f46f297619dcbb1db69a61e7b8fa5609ac10ab": (
            "trained_on_visa_cranep/epoch_5.pth of Crane+"
        ),
    }
)
"""Files whose tensors look like those of a model here, but were learned with another: SHA-256, and what it is."""


def name_of(path: Path) -> str | None:
    """Name a published checkpoint by its content, or return ``None`` if it is not among the known ones.

    Raises:
        ValueError: If it is known to be another method's.
    """
    known = digest(path)
    if known in OF_OTHER_METHODS:
        msg = f"{path} is {OF_OTHER_METHODS[known]}, which no model here is: its tensors fit, its results would not."
        raise ValueError(msg)
    return KNOWN_WEIGHTS.get(known)
