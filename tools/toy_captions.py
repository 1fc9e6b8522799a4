# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Captions of toy images, and which captions are true of which images."""

from dataclasses import dataclass

from numpy.random import Generator

from anomalib_clipzoo.anomaly.prompts import NORMAL_STATES
from anomalib_clipzoo.data.toy import SEEN_CATEGORIES, UNSEEN_CATEGORIES

GOOD_STATES = (*NORMAL_STATES, "good {}", "normal {}")
"""What is said of a flawless object: WinCLIP's words and those of the trained models' prompts."""

BAD_STATES = ("damaged {}", "broken {}", "abnormal {}", "{} with flaw", "{} with defect", "{} with damage")
"""What is said of a damaged object: the words of WinCLIP and AdaCLIP."""

DEFECT_STATES = {
    "contamination": ("{} with contamination", "contaminated {}"),
    "crack": ("{} with a crack", "cracked {}"),
    "cut": ("{} with a cut",),
    "dent": ("{} with a dent", "dented {}"),
    "hole": ("{} with a hole",),
    "scratch": ("{} with a scratch", "scratched {}"),
    "stain": ("{} with a stain", "stained {}"),
}
"""What is said of each kind of defect."""

TEMPLATES = (
    "{}",
    "a photo of a {}",
    "a photo of the {}",
    "a cropped photo of a {}",
    "a cropped photo of the {}",
    "a close-up photo of a {}",
    "a close-up photo of the {}",
    "a bright photo of a {}",
    "a bright photo of the {}",
    "a dark photo of a {}",
    "a dark photo of the {}",
    "a jpeg corrupted photo of a {}",
    "a jpeg corrupted photo of the {}",
    "a blurry photo of a {}",
    "a blurry photo of the {}",
    "a bad photo of a {}",
    "a bad photo of the {}",
    "a low resolution photo of a {}",
    "a low resolution photo of the {}",
    "a photo of a small {}",
    "a photo of the small {}",
    "a photo of a large {}",
    "a photo of the large {}",
    "a photo of a {} for visual inspection",
    "a photo of the {} for visual inspection",
    "a photo of a {} for anomaly detection",
    "a photo of the {} for anomaly detection",
)
"""The templates of WinCLIP and AdaCLIP with both articles, and the bare state."""

GENERIC_WORDS = ("object", "object", "object", "product", "item", "part", "surface", "X")
"""Words that fit every image; "object" thrice, since the models use it most."""

STRANGE_WORDS = (
    "hazelnut",
    "toothbrush",
    "transistor",
    "zipper",
    "cable",
    "cashew",
    "candle",
    "macaroni",
    "pipe fryum",
)
"""Words outside the vocabulary that is kept: the text tower learns that an unknown word may name any object."""


@dataclass(frozen=True)
class Caption:
    """A sentence and what it claims; None where it claims nothing."""

    text: str
    category: str | None
    damaged: bool
    defect: str | None

    def fits(self, category: str, defect: str | None) -> bool:
        """Tell whether the sentence is true of an image of `category` with `defect`."""
        return (
            self.category in (None, category) and self.damaged == (defect is not None) and self.defect in (None, defect)
        )


def kept_texts() -> list[str]:
    """Texts whose tokens make the kept vocabulary: every word that captions and the models' prompts use."""
    states = [*GOOD_STATES, *BAD_STATES, *(state for group in DEFECT_STATES.values() for state in group)]
    names = [*SEEN_CATEGORIES, *UNSEEN_CATEGORIES, *GENERIC_WORDS]
    return [text.replace("{}", "object") + "." for text in (*TEMPLATES, *states)] + names


def compose(rng: Generator, category: str, defect: str | None) -> Caption:
    """Write a random true caption.

    The name is the image's own category, a generic word, or the name of an unseen category: no image of those is ever
    shown, so their words become further words for "object".
    """
    kind = rng.random()
    words = GENERIC_WORDS if kind < 0.7 else UNSEEN_CATEGORIES if kind < 0.9 else STRANGE_WORDS
    own = rng.random() < 0.4
    name = category if own else str(rng.choice(words))
    told = defect if defect is not None and rng.random() < 0.4 else None
    states = GOOD_STATES if defect is None else DEFECT_STATES[defect] if told else BAD_STATES
    text = str(rng.choice(TEMPLATES)).format(str(rng.choice(states)).format(name)) + ("." if rng.random() < 0.5 else "")
    return Caption(text, category if own else None, defect is not None, told)
