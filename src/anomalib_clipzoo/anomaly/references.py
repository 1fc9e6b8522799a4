# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The memory of normal images that few-shot detection needs: which images, and what is kept of them."""

import json
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from anomalib.data.utils import LabelName, get_image_filenames

from .precision import FullPrecisionBuffers, full_precision, unit

Candidates = dict[str | None, list[str]]  # paths of normal images by category; None for images of any category
DESCRIPTION = "description"
REFERENCE_BLOCK = 2048  # positions of references that are compared at once


class Reference(NamedTuple):
    """A normal image that others are compared with.

    Attributes:
        category: What it shows; ``None`` for a reference of any image.
        path: Its file, for the record.
    """

    category: str | None
    path: str


def images_by_category(dataset: Any, category: str | None, *, normal_only: bool = True) -> Candidates:
    """List a dataset's images.

    Args:
        dataset: An anomalib dataset, with or without a category per sample.
        category: The category of samples that name none.
        normal_only: Whether anomalous images are left out.

    Returns:
        Sorted paths by category.
    """
    samples = dataset.samples
    if normal_only and "label_index" in samples:
        samples = samples[samples["label_index"] == LabelName.NORMAL]
    names = samples["category"] if "category" in samples else [None] * len(samples)
    found: Candidates = {}
    for name, path in zip(names, samples["image_path"], strict=True):
        found.setdefault(name or category or None, []).append(str(path))
    return {name: sorted(paths) for name, paths in found.items()}


def images_in_folder(folder: str | Path, categories: Iterable[str | None]) -> Candidates:
    """List the images of a folder, which has one subfolder a category or images of any category.

    Raises:
        ValueError: If there is no image.
        FileNotFoundError: If there is no such folder.
    """
    folder = Path(folder).expanduser()
    if not folder.exists():
        msg = f"There is no folder of reference images at {folder}."
        raise FileNotFoundError(msg)
    places: dict[str | None, Path] = {
        category: folder / category for category in categories if category and (folder / category).is_dir()
    }
    places = places or {None: folder}
    return {category: [str(path) for path in get_image_filenames(place)] for category, place in places.items()}


def choose_references(images: Sequence[str], count: int, seed: int, category: str | None = None) -> list[str]:
    """Choose images at random, the same ones for the same seed; a smaller choice is part of a larger one.

    The choice depends on nothing but the images and the seed, and does not touch the global random numbers.

    Args:
        images: Paths to choose from, in any order.
        count: How many are wanted.
        seed: Seed of the choice.
        category: What the images show, for the message.

    Raises:
        ValueError: If there are fewer images than wanted.
    """
    if count > len(images):
        place = f"of category {category!r} " if category else ""
        msg = f"{count} reference images are wanted, but {place}there are only {len(images)} normal images."
        raise ValueError(msg)
    shuffled = sorted(images)
    random.Random(seed).shuffle(shuffled)
    return shuffled[:count]


class ImageMemory(FullPrecisionBuffers):
    """Features of images of all categories that others are compared with, kept with the model's weights.

    The features are buffers that grow and shrink with the number of images, and which images they are is a buffer too:
    state dicts, checkpoints and exported models hold all there is, and no image is needed again.

    Args:
        shapes: For each kind of features, such as patches or windows, positions N and width D.
    """

    description: torch.Tensor

    def __init__(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        self.kinds = tuple(shapes)
        for kind, shape in shapes.items():
            self.register_buffer(kind, torch.empty(0, *shape))
        self.register_buffer(DESCRIPTION, torch.empty(0, dtype=torch.uint8))
        self.images: list[Reference] = []
        self.restored = False

    def __len__(self) -> int:
        """Number of reference images."""
        return len(self.images)

    @property
    def categories(self) -> list[str | None]:
        """The categories that have references, in the order in which they came."""
        return list(dict.fromkeys(image.category for image in self.images))

    def paths(self, category: str | None) -> list[str]:
        """Return the paths of a category's references."""
        return [image.path for image in self.images if image.category == category]

    def remember(self, images: Sequence[Reference], features: Mapping[str, torch.Tensor]) -> None:
        """Store references in place of those that their categories had.

        Args:
            images: Which images they are, K of them.
            features: Features of each kind, ``(K, N, D)``.
        """
        self.forget({image.category for image in images})
        for kind in self.kinds:
            setattr(self, kind, torch.cat([self.get_buffer(kind).to(features[kind]), features[kind]]))
        self._describe([*self.images, *images])
        self.restored = False

    def forget(self, categories: Collection[str | None]) -> None:
        """Drop the references of some categories."""
        kept = [row for row, image in enumerate(self.images) if image.category not in categories]
        if len(kept) < len(self.images):
            for kind in self.kinds:
                setattr(self, kind, self.get_buffer(kind)[kept])
            self._describe([self.images[row] for row in kept])

    def _describe(self, images: list[Reference]) -> None:
        self.images = images
        text = json.dumps(images).encode() if images else b""
        self.description = torch.tensor(list(text), dtype=torch.uint8, device=self.description.device)

    def resolve(self, categories: Sequence[str | None]) -> list[str | None]:
        """Say whose references each image is compared with.

        Args:
            categories: Category of each image, ``None`` where it is not known.

        Returns:
            Its own category where that has references, else ``None`` if there are references for any image. An image of
            unknown category goes with the only category that there is.

        Raises:
            ValueError: If there are no references for an image.
        """
        return [self._resolve(category) for category in categories]

    def _resolve(self, category: str | None) -> str | None:
        known = self.categories
        if category in known or None in known:
            return category if category in known else None
        if category is None and len(known) == 1:
            return known[0]
        names = ", ".join(map(repr, known)) or "nothing yet"
        wanted = f"category {category!r}" if category else "an image of unknown category"
        msg = f"There are no reference images for {wanted}; there are some for {names}."
        raise ValueError(msg)

    def features(self, kind: str, category: str | None) -> torch.Tensor:
        """Return what is kept of a category's images, ``(K, N, D)``."""
        rows = [row for row, image in enumerate(self.images) if image.category == category]
        features = self.get_buffer(kind)
        return features if len(rows) == len(features) else features[rows]

    def make_room(self, state: Mapping[str, torch.Tensor], prefix: str) -> None:
        """Give the buffers the number of images that a state dict has under a prefix."""
        for name in (*self.kinds, DESCRIPTION):
            given, own = state.get(f"{prefix}{name}"), self.get_buffer(name)
            if given is not None and given.shape[1:] == own.shape[1:]:
                setattr(self, name, own.new_zeros(given.shape, dtype=given.dtype))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self.make_room(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
        text = bytes(self.description.tolist()).decode()
        self.images = [Reference(*image) for image in json.loads(text)] if text else []
        self.restored = True


class ReferenceMemory(ImageMemory):
    """Features of normal images, of unit length, with the distances of others to the nearest of them."""

    def remember(self, images: Sequence[Reference], features: Mapping[str, torch.Tensor]) -> None:
        """Store references in place of those that their categories had.

        Args:
            images: Which images they are, K of them.
            features: Features of each kind, ``(K, N, D)``, not normalised.
        """
        super().remember(images, {kind: unit(features[kind]) for kind in self.kinds})

    def distances(self, kind: str, features: torch.Tensor, categories: Sequence[str | None]) -> torch.Tensor:
        """Compare features with all positions of the references (paper, equation 6).

        Args:
            kind: Kind of the features.
            features: ``(B, N, D)``, not normalised.
            categories: Category of each image as :meth:`resolve` says it, or one for all.

        Returns:
            Half of one minus the cosine to the closest reference, ``(B, N)``, 0..1.
        """
        features = unit(features)
        distinct = list(dict.fromkeys(categories))
        if len(distinct) == 1:
            return _distances(features, self._positions(kind, distinct[0]))
        distances = features.new_empty(features.shape[:2])
        for category in distinct:
            rows = [row for row, name in enumerate(categories) if name == category]
            distances[rows] = _distances(features[rows], self._positions(kind, category))
        return distances

    def _positions(self, kind: str, category: str | None) -> torch.Tensor:
        return self.features(kind, category).flatten(0, 1)


@full_precision
def _distances(features: torch.Tensor, references: torch.Tensor, block: int = REFERENCE_BLOCK) -> torch.Tensor:
    """Half of one minus the cosine to the closest reference, in blocks of references, which bounds the memory."""
    closest = [(features @ part.T.to(features)).amax(dim=-1) for part in references.split(block)]
    similarity = torch.stack(closest).amax(dim=0)
    return ((1 - similarity) / 2).clamp(0, 1)
