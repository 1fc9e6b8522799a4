# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""MuSc as a PyTorch module: the unlabelled images of a set score each other. It is transductive.

Paper: Li et al., "MuSc: Zero-Shot Industrial Anomaly Classification and Segmentation with Mutual Scoring of the
Unlabeled Images", ICLR 2024, https://arxiv.org/abs/2401.16753.
"""

from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from anomalib.data import InferenceBatch
from torch import nn
from torch.nn import functional

from anomalib_clipzoo.anomaly.maps import PatchMaps
from anomalib_clipzoo.anomaly.references import Reference
from anomalib_clipzoo.clip import Backbone, quarter_layers

from .features import Features, Load, batches_of, collect
from .interval import make_interval
from .mutual import DistancePrecision, compress, in_batches, mutual_scores, pool_scores
from .neighborhood import aggregate, check_neighborhoods, standardize
from .pool import Pool
from .rescoring import check_windows, rescore
from .sets import divide

Release = Literal["current", "first"]

R_LIST = (1, 3, 5)
INTERVAL = (0.0, 0.3)
RESCORE_WINDOWS = (1, 2, 3)
SET_SIZE = 256  # no category of MVTec AD or VisA has more test images
AT_ONCE = 16  # images whose tokens are aggregated, or whose maps are enlarged, together


class Scores(NamedTuple):
    """How anomalous images are.

    Attributes:
        patch_maps: Each patch, ``(N, L)``, 0..1.
        images: Each image, ``(N,)``, 0..1.
    """

    patch_maps: torch.Tensor
    images: torch.Tensor


class MuScModel(nn.Module):
    """MuSc: mutual scoring of unlabelled images, or of single images against a pool of such.

    Args:
        backbone: The frozen CLIP; its words are not used.
        layers: Image blocks whose patch tokens are used, counted from 1; ``None`` for the quarter points of the tower.
        r_list: Sides of the neighbourhoods over which patches are averaged, odd.
        interval: Which of the other images a patch's score is the mean over, see :class:`.interval.Interval`.
        rescore_windows: Over how many images that look alike scores are averaged (RsCIN); empty for not at all.
        set_size: Larger sets are divided, evenly and at random, into sets of at most this many images; ``None`` for
            never.
        seed: Seed of that division.
        distance_precision: In what patches of a set are compared, see :func:`.mutual.compress`. All but "float32" keep
            tokens in half precision.
        release: "first" for the code before 22 March 2024, where single patches (r = 1) were not standardised.

    Raises:
        ValueError: If layers, neighbourhoods, interval, windows, set size, distance_precision or release are unfit.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        layers: Sequence[int] | None = None,
        r_list: Sequence[int] = R_LIST,
        interval: Sequence[float] = INTERVAL,
        rescore_windows: Sequence[int] = RESCORE_WINDOWS,
        set_size: int | None = SET_SIZE,
        seed: int = 0,
        distance_precision: DistancePrecision = "float32",
        release: Release = "current",
    ) -> None:
        super().__init__()
        _check(set_size, distance_precision, release)
        vision = backbone.vision
        self.backbone = backbone
        self.layers = vision.check_layers(layers or quarter_layers(vision.depth))
        self.r_list = check_neighborhoods(r_list, vision.grid)
        self.interval = make_interval(interval)
        self.rescore_windows = check_windows(rescore_windows)
        self.set_size = set_size
        self.seed = seed
        self.distance_precision: DistancePrecision = distance_precision
        self.release = release
        self.maps = PatchMaps(vision, align_corners=True)
        self.pool = Pool(backbone, self.layers)

    @property
    def patch_count(self) -> int:
        """Number L of patches of an image."""
        rows, columns = self.backbone.vision.grid
        return rows * columns

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.backbone.vision.position.device

    def encode(self, images: torch.Tensor) -> Features:
        """Run the image tower on normalised images, ``(B, 3, H, W)``."""
        image, tokens = self.backbone.vision(images, self.layers)
        kept = torch.float32 if self.distance_precision == "float32" else torch.float16
        return Features(functional.normalize(image.float(), dim=-1), [layer[:, 1:].to(kept) for layer in tokens])

    def aggregate(self, tokens: torch.Tensor, side: int) -> torch.Tensor:
        """Describe each patch with its neighbourhood (LNAMD; paper, section 3.2).

        Args:
            tokens: Patch tokens of one layer, ``(B, L, D)``.
            side: Side of the neighbourhood in patches.

        Returns:
            Features of unit length, ``(B, L, D)``, float32.
        """
        as_they_are = self.release == "first" and side == 1
        tokens = tokens.float() if as_they_are else standardize(tokens.float())
        return aggregate(tokens, side, self.backbone.vision.grid)

    def forward(
        self,
        images: torch.Tensor,
        categories: Sequence[str | None] = (None,),
        paths: Sequence[str] | None = None,
    ) -> InferenceBatch:
        """Detect and segment anomalies: against the pool if there is one, else the images themselves are the set.

        Args:
            images: Normalised images, ``(B, 3, H, W)``.
            categories: Category of each image, or one for all; ``None`` where it is not known.
            paths: File of each image, so that one of the pool is not compared with itself.

        Returns:
            Image scores ``(B,)`` and anomaly maps ``(B, H, W)``, all 0..1.

        Raises:
            ValueError: If there is neither a pool nor a set.
        """
        if len(self.pool):
            found = self.score_by_pool(self.encode(images), self.pool.resolve(categories), paths)
        else:
            each = list(categories) * len(images) if len(categories) == 1 else categories
            found = self.score_sets(batches_of(images), each)
        return InferenceBatch(pred_score=found.images, anomaly_map=self.maps(found.patch_maps))

    def peaks(self, patch_maps: torch.Tensor) -> torch.Tensor:
        """Return the largest pixel of each map ``(B, L)``, as ``(B,)``; the patches' own values lie between pixels."""
        return torch.cat([self.maps(maps).amax(dim=(1, 2)) for maps in in_batches(patch_maps, AT_ONCE)])

    # ---- sets whose images score each other ----

    def score_sets(
        self,
        load: Load,
        categories: Sequence[str | None],
        kinds: Sequence[Hashable] | None = None,
    ) -> Scores:
        """Let the images of each category score each other.

        Args:
            load: Loads some of the images by their numbers. Those that it leaves out get no score: 0.
            categories: Category of each image, ``None`` where it is not known.
            kinds: What each image counts as where sets are divided, see :func:`.sets.divide`; left out: all the same.

        Raises:
            ValueError: If there are too few images, or one has features that are not finite.
        """
        sets = self._sets(categories, kinds or [None] * len(categories))
        patch_maps, image, scores = (
            torch.zeros(len(categories), *shape, device=self.device, dtype=torch.float32)
            for shape in ((self.patch_count,), (self.backbone.embed_dim,), ())
        )
        for parts in sets:
            together: list[int] = []
            for part in parts:  # tokens take much room: those of one part are kept at a time
                numbers, features = collect(self.encode, load, part)
                self.interval.check(len(numbers) - 1)
                patch_maps[numbers] = self.mutual_maps(features.patches)
                image[numbers] = features.image
                together += numbers
            with self._exactly():
                scores[together] = rescore(self.peaks(patch_maps[together]), image[together], self.rescore_windows)
        return Scores(patch_maps, scores)

    def _exactly(self) -> torch.autocast:
        """Keep what follows out of autocast: only the image tower may run in another precision."""
        return torch.autocast(self.device.type, enabled=False)

    def _sets(self, categories: Sequence[str | None], kinds: Sequence[Hashable]) -> list[list[list[int]]]:
        """Divide the images of each category, and make sure that no part is too small."""
        sets = []
        for category in dict.fromkeys(categories):
            members = [number for number, other in enumerate(categories) if other == category]
            parts = divide([kinds[number] for number in members], self.set_size, self.seed)
            self.interval.check(min(map(len, parts)) - 1, category)
            sets.append([[members[place] for place in part] for part in parts])
        return sets

    def mutual_maps(self, patches: Sequence[torch.Tensor]) -> torch.Tensor:
        """Average the mutual scores of all layers and neighbourhoods (paper, section 3.3).

        Args:
            patches: Patch tokens of each layer, ``(N, L, D)``.

        Returns:
            Half of the mean distance, ``(N, L)``, 0..1.
        """
        with self._exactly():
            maps = [
                mutual_scores(self._comparable(layer, side), self.interval) for layer in patches for side in self.r_list
            ]
        return torch.stack(maps).mean(dim=0) / 2

    def _comparable(self, tokens: torch.Tensor, side: int) -> torch.Tensor:
        """Aggregate and compress the tokens ``(N, L, D)`` of a whole set."""
        batches = [self.aggregate(batch.to(self.device), side) for batch in tokens.split(AT_ONCE)]
        return torch.cat([compress(features, self.distance_precision) for features in batches])

    # ---- a pool that single images are compared with ----

    def remember(self, images: torch.Tensor, pool: Sequence[Reference]) -> None:
        """Keep normalised images ``(P, 3, H, W)`` as the pool of their category, and how each scores among the others.

        Raises:
            ValueError: If there are too few images, or one has features that are not finite.
        """
        self.interval.check(len(pool) - 1, pool[0].category if pool else None)
        with torch.inference_mode(mode=False), torch.no_grad():  # plain tensors: they are saved, loaded and exported
            _, features = collect(self.encode, batches_of(images), range(len(pool)))
            scores = self.peaks(self.mutual_maps(features.patches))
            self.pool.keep(pool, features, scores.to(self.device))

    def score_by_pool(
        self,
        features: Features,
        categories: Sequence[str | None],
        paths: Sequence[str] | None = None,
    ) -> Scores:
        """Compare images with the pool of their category.

        Args:
            features: Features of the images.
            categories: Whose pool each image is compared with, or one for all.
            paths: File of each image.
        """
        names = list(dict.fromkeys(categories))
        if len(names) == 1:
            with self._exactly():
                return self._score_by_pool(features, names[0], paths or ())
        patch_maps = features.image.new_empty(len(categories), self.patch_count)
        scores = features.image.new_empty(len(categories))
        for name in names:
            rows = [row for row, category in enumerate(categories) if category == name]
            part = Features(features.image[rows], [layer[rows] for layer in features.patches])
            patch_maps[rows], scores[rows] = self._score_by_pool(
                part, name, [paths[row] for row in rows] if paths else ()
            )
        return Scores(patch_maps, scores)

    def _score_by_pool(self, features: Features, category: str | None, paths: Sequence[str]) -> Scores:
        own = self.pool.own(category, paths)
        maps = [
            pool_scores(self.aggregate(tokens, side), self.aggregate(others, side), self.interval, own)
            for tokens, others in zip(features.patches, self.pool.tokens(category), strict=True)
            for side in self.r_list
        ]
        patch_maps = torch.stack(maps).mean(dim=0) / 2
        scores = self.pool.rescore(self.peaks(patch_maps), features.image, category, own, self.rescore_windows)
        return Scores(patch_maps, scores)


def _check(set_size: int | None, distance_precision: str, release: str) -> None:
    choices = (("distance_precision", distance_precision, DistancePrecision), ("release", release, Release))
    for name, value, known in choices:
        if value not in get_args(known):
            msg = f"{name} must be one of {', '.join(get_args(known))}, not {value!r}."
            raise ValueError(msg)
    if set_size is not None and set_size < 2:
        msg = f"set_size {set_size} must be at least 2 images, or None for sets of any size."
        raise ValueError(msg)
