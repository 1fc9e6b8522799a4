# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""State words, templates and class names: the compositional prompt ensemble of WinCLIP and AdaCLIP.

A sentence is a template around a state around a class name: "a bad photo of the", "flawless {}", "bottle".
"""

from collections.abc import Sequence

import torch

from .precision import unit

PLACEHOLDER = "{}"
DEFAULT_CLASS_NAME = "object"  # where nobody knows what an image shows

NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
WINCLIP_ABNORMAL_STATES = ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")
ADACLIP_ABNORMAL_STATES = ("damaged {}", "broken {}", "{} with flaw", "{} with defect", "{} with damage")

WINCLIP_TEMPLATES = (
    "a cropped photo of the {}.",
    "a close-up photo of a {}.",
    "a close-up photo of the {}.",
    "a bright photo of a {}.",
    "a bright photo of the {}.",
    "a dark photo of the {}.",
    "a dark photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a jpeg corrupted photo of the {}.",  # twice in the reproductions, so that it weighs double
    "a blurry photo of the {}.",
    "a blurry photo of a {}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of a small {}.",
    "a photo of the small {}.",
    "a photo of a large {}.",
    "a photo of the large {}.",
    "a photo of the {} for visual inspection.",
    "a photo of a {} for visual inspection.",
    "a photo of the {} for anomaly detection.",
    "a photo of a {} for anomaly detection.",
)
ADACLIP_TEMPLATES = (
    "a bad photo of a {}.",
    "a low resolution photo of the {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
)
APRIL_GAN_TEMPLATES = (
    "a bad photo of a {}.",
    "a low resolution photo of the {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a bright photo of a {}.",
    "a dark photo of the {}.",
    "a photo of my {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a photo of one {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "a low resolution photo of a {}.",
    "a photo of a large {}.",
    "a blurry photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a photo of the small {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "a dark photo of a {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)


def compose(states: Sequence[str], templates: Sequence[str], class_name: str) -> list[str]:
    """Write the sentences of every state in every template about one class.

    Args:
        states: States of the object, each with one ``{}`` for the class name.
        templates: Sentences, each with one ``{}`` for the object in its state.
        class_name: What the image shows.

    Returns:
        ``len(states) * len(templates)`` sentences, all templates of the first state first.

    Raises:
        ValueError: If there is no state or no template, or one has not exactly one ``{}``.
    """
    for kind, patterns in (("state", states), ("template", templates)):
        _check_placeholders(kind, patterns)
    objects = [_fill(state, class_name) for state in states]
    return [_fill(template, described) for described in objects for template in templates]


class StateEnsemble:
    """The sentences about a class in its normal and in its abnormal states: all states in all templates.

    Args:
        normal_states: States of a normal object, each with one ``{}`` for the class name.
        abnormal_states: States of an object with an anomaly.
        templates: Sentences, each with one ``{}`` for the object in its state.

    Attributes:
        counts: How many sentences are of normal states, and how many of abnormal ones.

    Raises:
        ValueError: If a list is empty, or an entry has not exactly one ``{}``.
    """

    def __init__(self, normal_states: Sequence[str], abnormal_states: Sequence[str], templates: Sequence[str]) -> None:
        self.states = (normal_states, abnormal_states)
        self.templates = templates
        self.counts = [len(side) for side in self.sentences(DEFAULT_CLASS_NAME)]  # says now if any is unfit

    def sentences(self, class_name: str) -> tuple[list[str], list[str]]:
        """Write the normal and the abnormal sentences about a class; its name goes in as it is."""
        normal, abnormal = (compose(states, self.templates, class_name) for states in self.states)
        return normal, abnormal

    def all_sentences(self, class_name: str) -> list[str]:
        """Write all sentences about a class, those of the normal states first."""
        normal, abnormal = self.sentences(class_name)
        return normal + abnormal


def _fill(pattern: str, words: str) -> str:
    """Put words in the place of the pattern's ``{}``, whatever characters they have."""
    before, after = pattern.split(PLACEHOLDER)
    return f"{before}{words}{after}"


def _check_placeholders(kind: str, patterns: Sequence[str]) -> None:
    if isinstance(patterns, str) or not patterns:
        msg = f"Give a list of at least one {kind}, not {patterns!r}."
        raise ValueError(msg)
    for pattern in patterns:
        if pattern.count(PLACEHOLDER) != 1:
            msg = f"The {kind} {pattern!r} must have exactly one {{}}, where the class name goes."
            raise ValueError(msg)


def average_states(features: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Average the sentences of each state at unit length.

    Args:
        features: Text features ``(..., T, E)``, those of the normal states first.
        counts: How many are of normal states, and how many of abnormal ones; T in all.

    Returns:
        Text features of (normal, abnormal), unit length, ``(..., 2, E)``.
    """
    means = [state.mean(dim=-2) for state in unit(features).split(list(counts), dim=-2)]
    return unit(torch.stack(means, dim=-2))


def check_count(given: Sequence[str | None], images: torch.Tensor, what: str) -> None:
    """Make sure that there is one class name or category for each image of a batch, or one for all.

    Raises:
        ValueError: If not.
    """
    if len(given) != 1 and len(given) != len(images):
        msg = f"There are {len(images)} images but {len(given)} {what}: give one for each, or one for all."
        raise ValueError(msg)


def clean_class_name(class_name: str) -> str:
    """Return a class name as AdaCLIP writes it in a sentence: hyphens become spaces, underscores stay.

    Raises:
        ValueError: If nothing is left of it.
    """
    cleaned = class_name.replace("-", " ").strip()
    if not cleaned:
        msg = f"The class name {class_name!r} has no words: say what the images show, or leave it out."
        raise ValueError(msg)
    return cleaned


def class_names_of(categories: Sequence[str | None], class_name: str | None = None) -> list[str]:
    """Decide by which name each image goes.

    Args:
        categories: Category of each image, ``None`` where it is not known.
        class_name: The user's own name for all images; it comes before everything else.

    Returns:
        One name per image; what nobody knows is an "object".
    """
    return [class_name or category or DEFAULT_CLASS_NAME for category in categories]
