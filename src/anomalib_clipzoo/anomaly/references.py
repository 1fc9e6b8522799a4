# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The memory of normal images that few-shot detection needs: which images, and what is kept of them."""

import json
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from anomalib.data.utils import LabelName, get_image_filenames

from .coreset import coreset, coreset_size
from .precision import FullPrecision, unit, without_autocast

Candidates = dict[str | None, list[str]]  # paths of normal images by category; None for images of any category
DESCRIPTION = "description"
REFERENCE_BLOCK = 2048
REFERENCE_WEIGHT = 0.5  # share of the references in maps and scores


class Reference(NamedTuple):
    """A normal image that others are compared with.

    Attributes:
        category: What it shows; ``None`` for a reference of any image.
        path: Its file, for the record.
        turn: Degrees by which it was turned, a multiple of 90.
    """

    category: str | None
    path: str
    turn: int = 0


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


def rows_by_category(categories: Sequence[str | None]) -> dict[str | None, list[int]]:
    """Return which rows of a batch or set are of each category, in the order in which these come."""
    rows: dict[str | None, list[int]] = {}
    for row, category in enumerate(categories):
        rows.setdefault(category, []).append(row)
    return rows


class ImageMemory(FullPrecision):
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
        """Return the paths of a category's references, each once."""
        return list(dict.fromkeys(image.path for image in self.of(category)))

    def of(self, category: str | None) -> list[Reference]:
        """Return a category's references."""
        return [image for image in self.images if image.category == category]

    @property
    def megabytes(self) -> float:
        """What all features take, in memory and in files."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers(recurse=False)) / 1e6

    @torch.inference_mode(mode=False)  # plain tensors: they are saved, loaded and exported
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

    @torch.inference_mode(mode=False)
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

    @staticmethod
    def is_filled_by(state: Mapping[str, torch.Tensor], prefix: str) -> bool:
        """Tell whether a state dict has any image under a prefix."""
        description = state.get(f"{prefix}{DESCRIPTION}")
        return description is not None and len(description) > 0

    def fits(self, state: Mapping[str, torch.Tensor], prefix: str) -> bool:
        """Tell whether a state dict has the same kinds of features under a prefix, of the same positions and width."""
        given = {kind: state.get(f"{prefix}{kind}") for kind in self.kinds}
        return all(
            features is not None and features.shape[1:] == self.get_buffer(kind).shape[1:]
            for kind, features in given.items()
        )

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
    """Features of normal images, of unit length, with the distances of others to the nearest of them.

    They are kept in half precision, for which an image is up to 1e-4 away from itself.

    Args:
        shapes: For each kind of features, positions N and width D.
        coreset_ratio: Share of the positions that is kept, see :func:`.coreset.coreset`; ``None`` for all.
        block: How many positions of references are compared at once, which bounds the memory.
    """

    precision = torch.float16

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        *,
        coreset_ratio: float | None = None,
        block: int = REFERENCE_BLOCK,
    ) -> None:
        super().__init__({kind: (coreset_size(n, coreset_ratio), width) for kind, (n, width) in shapes.items()})
        self.coreset_ratio = coreset_ratio
        self.block = block

    def add(
        self,
        references: Sequence[Reference],
        images: torch.Tensor,
        encode: Callable[[torch.Tensor], Mapping[str, torch.Tensor]],
    ) -> None:
        """Encode normal images, one at a time, and store them in place of those that their categories had.

        Args:
            references: Which images they are, K of them.
            images: The images, normalised as test images are, ``(K, 3, H, W)``.
            encode: Returns features of each kind, not normalised, of images.
        """
        with torch.no_grad():
            encoded = [encode(image[None]) for image in images]
        features = {kind: torch.cat([each[kind] for each in encoded]) for kind in self.kinds}
        self.remember(references, features)

    def remember(self, images: Sequence[Reference], features: Mapping[str, torch.Tensor]) -> None:
        """Store references in place of those that their categories had.

        Args:
            images: Which images they are, K of them.
            features: Features of each kind, ``(K, N, D)``, not normalised.
        """
        kept = {kind: unit(features[kind]).to(self.precision) for kind in self.kinds}
        if self.coreset_ratio is not None and self.coreset_ratio < 1:
            kept = {kind: self._coresets(images, values, self.coreset_ratio) for kind, values in kept.items()}
        super().remember(images, kept)

    @staticmethod
    def _coresets(images: Sequence[Reference], features: torch.Tensor, ratio: float) -> torch.Tensor:
        """Choose a coreset of each category's features."""
        kept = features.new_empty(len(features), coreset_size(features.shape[1], ratio), features.shape[2])
        for rows in rows_by_category([image.category for image in images]).values():
            kept[rows] = coreset(features[rows], ratio)
        return kept

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
        groups = rows_by_category(categories)
        if len(groups) == 1:
            return _distances(features, self._positions(kind, categories[0]), self.block)
        distances = features.new_empty(features.shape[:2])
        for category, rows in groups.items():
            distances[rows] = _distances(features[rows], self._positions(kind, category), self.block)
        return distances

    def _positions(self, kind: str, category: str | None) -> torch.Tensor:
        return self.features(kind, category).flatten(0, 1)


def _distances(features: torch.Tensor, references: torch.Tensor, block: int) -> torch.Tensor:
    """Half of one minus the cosine to the closest reference, in blocks of references, which bounds the memory.

    Features are in single precision, and each block is brought to it.
    """
    with without_autocast(features.device):
        closest = [(features @ part.to(features).T).amax(dim=-1) for part in references.split(block)]
    similarity = torch.stack(closest).amax(dim=0)
    return ((1 - similarity) / 2).clamp(0, 1)
