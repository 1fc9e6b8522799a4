# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What the reproductions of WinCLIP do differently, as data: the paper's authors published no code."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from anomalib_clipzoo.anomaly.prompts import NORMAL_STATES, WINCLIP_ABNORMAL_STATES, WINCLIP_TEMPLATES

from .prompting import CAOYUNKANG_TEMPLATES

Aggregation = Literal["abnormal", "normal"]
PatchTerm = Literal["raw", "normalized", "none"]
Mean = Literal["harmonic", "arithmetic"]
Score = Literal["image", "map"]
VariantName = Literal["zqhang", "caoyunkang", "anomalib"]


@dataclass(frozen=True)
class Variant:
    """How features become maps and scores.

    Attributes:
        temperature: What cosines are divided by before the softmax over the normal and the abnormal text vector.
        aggregation: Probability whose harmonic mean over windows makes the map: "abnormal" (the least abnormal window
            decides) or "normal" (the most abnormal one does).
        image_term: Whether the whole image is one more scale of the map.
        patch_term: Patch tokens that are compared with those of the references: "raw" from the last block,
            "normalized" by the tower's final norm, or "none".
        reference_mean: How distances of windows to the references are averaged: "harmonic" or "arithmetic".
        fusion: How the text's and the references' maps are averaged: "arithmetic" or "harmonic".
        score: "image" for the whole image's probability, averaged with the largest distance to the references where
            there are any, or "map" for the largest value of the map.
        normal_states: States of a normal object.
        abnormal_states: States of an object with an anomaly.
        templates: Sentences around them.
    """

    temperature: float = 0.07
    aggregation: Aggregation = "abnormal"
    image_term: bool = True
    patch_term: PatchTerm = "raw"
    reference_mean: Mean = "harmonic"
    fusion: Mean = "arithmetic"
    score: Score = "image"
    normal_states: tuple[str, ...] = NORMAL_STATES
    abnormal_states: tuple[str, ...] = WINCLIP_ABNORMAL_STATES
    templates: tuple[str, ...] = WINCLIP_TEMPLATES

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            msg = f"temperature {self.temperature} must be more than 0."
            raise ValueError(msg)
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                msg = f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}."
                raise ValueError(msg)


CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "aggregation": ("abnormal", "normal"),
        "patch_term": ("raw", "normalized", "none"),
        "reference_mean": ("harmonic", "arithmetic"),
        "fusion": ("arithmetic", "harmonic"),
        "score": ("image", "map"),
    }
)

# Named after those who wrote them; "zqhang" has published the figures closest to the paper's.
VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "zqhang": Variant(),
        "anomalib": Variant(patch_term="normalized"),
        "caoyunkang": Variant(
            temperature=0.01,
            aggregation="normal",
            image_term=False,
            patch_term="none",
            reference_mean="arithmetic",
            fusion="harmonic",
            score="map",
            templates=CAOYUNKANG_TEMPLATES,
        ),
    }
)


def make_variant(name: str, **changes: Any) -> Variant:
    """Return a variant by name, with changes; a change of ``None`` is none.

    Raises:
        ValueError: If the name or a changed value is unknown.
    """
    if name not in VARIANTS:
        msg = f"Unknown variant {name!r}; there are: {', '.join(VARIANTS)}."
        raise ValueError(msg)
    return replace(VARIANTS[name], **{key: value for key, value in changes.items() if value is not None})


VARIANT_FIELDS = tuple(field.name for field in fields(Variant))
