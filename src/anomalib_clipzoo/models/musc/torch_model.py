# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""MuSc as a PyTorch module: the unlabelled images of a set score each other. It is transductive.

Paper: Li et al., "MuSc: Zero-Shot Industrial Anomaly Classification and Segmentation with Mutual Scoring of the
Unlabeled Images", ICLR 2024, https://arxiv.org/abs/2401.16753.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import nn
from torch.nn import functional

from anomalib_clipzoo.anomaly.maps import PatchMaps
from anomalib_clipzoo.anomaly.precision import without_autocast
from anomalib_clipzoo.anomaly.references import Reference, rows_by_category
from anomalib_clipzoo.clip import Backbone, quarter_layers

from .features import Features, Load, batches_of, collect
from .mutual import DistancePrecision, in_batches
from .pool import Pool
from .rescoring import check_windows, rescore
from .scoring import PatchScoring, Release
from .sets import check_size, divide

R_LIST = (1, 3, 5)
INTERVAL = (0.0, 0.3)
RESCORE_WINDOWS = (1, 2, 3)
SET_SIZE = 256  # no category of MVTec AD or VisA has more test images
AT_ONCE = 16  # maps that are enlarged together


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
        vision = backbone.vision
        self.backbone = backbone
        self.layers = vision.check_layers(layers or quarter_layers(vision.depth))
        self.scoring = PatchScoring(vision.grid, r_list, interval, distance_precision, release)
        self.rescore_windows = check_windows(rescore_windows)
        self.set_size = check_size(set_size)
        self.seed = seed
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
        patches = [layer[:, 1:].to(self.scoring.stored) for layer in tokens]
        return Features(functional.normalize(image.float(), dim=-1), patches)

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
        kinds = kinds or [None] * len(categories)
        sets = [self._parts(category, members, kinds) for category, members in rows_by_category(categories).items()]
        patch_maps, image, scores = (
            torch.zeros(len(categories), *shape, device=self.device, dtype=torch.float32)
            for shape in ((self.patch_count,), (self.backbone.embed_dim,), ())
        )
        for parts in sets:
            together: list[int] = []
            for part in parts:  # tokens take much room: those of one part are kept at a time
                numbers, features = collect(self.encode, load, part)
                self.scoring.interval.check(len(numbers) - 1)
                patch_maps[numbers] = self.scoring.within(features.patches, self.device)
                image[numbers] = features.image
                together += numbers
            with without_autocast(self.device):
                scores[together] = rescore(self.peaks(patch_maps[together]), image[together], self.rescore_windows)
        return Scores(patch_maps, scores)

    def _parts(self, category: str | None, members: Sequence[int], kinds: Sequence[Hashable]) -> list[list[int]]:
        """Divide the images of a category, and make sure that no part is too small."""
        parts = divide([kinds[number] for number in members], self.set_size, self.seed)
        self.scoring.interval.check(min(map(len, parts)) - 1, category)
        return [[members[place] for place in part] for part in parts]

    # ---- a pool that single images are compared with ----

    def remember(self, images: torch.Tensor, pool: Sequence[Reference]) -> None:
        """Keep normalised images ``(P, 3, H, W)`` as the pool of their category, and how each scores among the others.

        Raises:
            ValueError: If there are too few images, or one has features that are not finite.
        """
        self.scoring.interval.check(len(pool) - 1, pool[0].category if pool else None)
        with torch.no_grad():
            _, features = collect(self.encode, batches_of(images), range(len(pool)))
            scores = self.peaks(self.scoring.within(features.patches, self.device))
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
        groups = rows_by_category(categories)
        if len(groups) == 1:
            return self._score_by_pool(features, categories[0], paths or ())
        patch_maps = features.image.new_empty(len(categories), self.patch_count)
        scores = features.image.new_empty(len(categories))
        for category, rows in groups.items():
            part = Features(features.image[rows], [layer[rows] for layer in features.patches])
            own_paths = [paths[row] for row in rows] if paths else ()
            patch_maps[rows], scores[rows] = self._score_by_pool(part, category, own_paths)
        return Scores(patch_maps, scores)

    def _score_by_pool(self, features: Features, category: str | None, paths: Sequence[str]) -> Scores:
        own = self.pool.own(category, paths)
        patch_maps = self.scoring.against(features.patches, self.pool.tokens(category), own)
        with without_autocast(features.image.device):
            scores = self.pool.rescore(self.peaks(patch_maps), features.image, category, own, self.rescore_windows)
        return Scores(patch_maps, scores)
