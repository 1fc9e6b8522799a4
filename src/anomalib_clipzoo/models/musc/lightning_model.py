# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""MuSc as an anomalib model. It is transductive: the images that are judged are its memory, or a pool of others is."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from anomalib.data import InferenceBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from anomalib_clipzoo.anomaly.references import images_in_folder
from anomalib_clipzoo.clip import Backbone, quarter_layers
from anomalib_clipzoo.models.components.arguments import AUTO, defaults_of
from anomalib_clipzoo.models.components.memory import MemoryModule, shown_categories
from anomalib_clipzoo.models.components.types import (
    Count,
    ImageSize,
    Layers,
    NonNegativeNumber,
    PixelMean,
    PixelSpread,
    Rate,
)
from anomalib_clipzoo.models.components.weights import LearnedWeights
from anomalib_clipzoo.results.predictions import Predictions

from .mutual import DistancePrecision
from .pool import SCORE
from .scoring import Release
from .torch_model import MuScModel
from .whole_set import WholeSet

logger = logging.getLogger(__name__)

POOL_SIZE = 30
OF_THE_POOL = ("layers", "r_list", "interval", "release")  # arguments that the scores of a pool's images depend on
FEW = 10  # images in a set, below which the authors warn


class MuSc(MemoryModule, AnomalibModule):
    """MuSc: unlabelled images score each other, which is transductive (ICLR 2024, arXiv 2401.16753).

    Nothing is learned, and no words are used. A patch with a near twin in many other images is normal. So an image has
    no score of its own: it is judged within the set that is tested or predicted, mostly good images of one product, and
    its score changes with the set. With ``pool_source`` single images are compared with a pool of unlabelled ones
    instead, which stays with checkpoints, weights and exported models.
    What is left open is as ``weights`` were made with, else the paper's, in brackets.

    Args:
        backbone: An open_clip name with a plain ViT tower, a path to an open_clip JSON config, or "toy". [ViT-L-14-336]
        pretrained: An open_clip tag, a path to a file of CLIP weights, or ``None`` for random weights; "auto" leaves it
            open. [openai]
        weights: What an earlier run left: a pool, thresholds and the arguments that they depend on, as .safetensors or
            .ckpt.
        image_size: Height and width in pixels, multiples of the patch size. [518 where the patch size divides it, else
            the backbone's native size]
        layers: Image blocks whose patch tokens are used, counted from 1. [the quarter points of the tower, (6, 12, 18,
            24) of 24]
        r_list: Sides of the neighbourhoods, in patches, over which patches are averaged; odd. [(1, 3, 5)]
        interval: Which of the other images a patch's score is the mean over, from the nearest to the farthest: shares
            below 1, or whole numbers of images from 1; more than there are is all. [(0, 0.3)]
        rescore_windows: Over how many images that look alike, itself included, the score of an image is averaged; the
            mean over these windows is taken; [] leaves scores as they are. [(1, 2, 3), also for VisA]
        set_size: Larger sets are divided, evenly and at random, into sets of at most this many images, which bounds
            time and memory. [256, more than any category of MVTec AD or VisA has]
        divide_by_folder: Whether sets are divided evenly by the images' folders as well. That is how the paper's code
            does it, and in datasets whose folders are defects it uses labels. [no]
        distance_precision: What patches of a set are compared in: "float32"; "float16", fast on accelerators; "int8",
            fast on processors. All but the first keep tokens in half precision. ["float32"]
        release: "first" for the paper's code before 22 March 2024, "current" for what its published tables are made
            with. ["current"]
        pool_source: Folder of unlabelled images, mostly good, that form the pool, with or without a subfolder for each
            category. ``None``: the set itself, or the pool that ``weights`` hold.
        pool_size: At most this many images of the folder are drawn.
        seed: Seed of the pool's choice and of the division of sets.
        quick_gelu: Whether CLIP runs with QuickGELU. [no, as the paper's code at all sizes but the native one]
        mean: Mean of red, green and blue, 0..1, that images are normalised by. [the pretrained tag's, else OpenAI's]
        std: Their standard deviation. [the pretrained tag's, else OpenAI's]
        compile: Whether blocks of CLIP's towers run compiled (``torch.compile``), which needs a C++ compiler.
        false_alarm_rate: Share of new normal images that may be called anomalous, in 0..1, for thresholds from normal
            validation images alone. [none: thresholds of the best F1 score on validation images]
        predictions: Callback that writes the table ``predictions.csv`` of tests and predictions, or whether to use the
            default.
        pre_processor: Pre-processor, or whether to use the default.
        post_processor: Post-processor, or whether to use the default.
        evaluator: Evaluator, or whether to use the default.
        visualizer: Visualizer, or whether to use the default.

    Raises:
        ValueError: If arguments, weights and backbone do not fit together; the message says how. In a run, if there are
            too few images to score each other.
        FileNotFoundError: If a file or folder does not exist or CLIP's weights cannot be downloaded.
    """

    MODEL: ClassVar[type[nn.Module]] = MuScModel
    POSITIONS: ClassVar[dict[str, Any]] = {"antialias": False}
    LEARNS: ClassVar[bool] = False
    MEMORY: ClassVar[str] = "pool"
    OF_THE_RUN: ClassVar[frozenset[str]] = MemoryModule.OF_THE_RUN | {"pool_source", "pool_size"}

    def __init__(
        self,
        backbone: str | None = None,
        pretrained: str | Path | None = AUTO,
        weights: str | Path | None = None,
        image_size: ImageSize | None = None,
        layers: Layers | None = None,
        r_list: Sequence[Count] | None = None,
        interval: Sequence[NonNegativeNumber] | None = None,
        rescore_windows: Sequence[Count] | None = None,
        set_size: Count | None = None,
        divide_by_folder: bool | None = None,
        distance_precision: DistancePrecision | None = None,
        release: Release | None = None,
        pool_source: str | Path | None = None,
        pool_size: Count = POOL_SIZE,
        seed: int = 0,
        quick_gelu: bool | None = None,
        mean: PixelMean | None = None,
        std: PixelSpread | None = None,
        compile: bool = False,  # noqa: A002  # torch's word
        false_alarm_rate: Rate | None = None,
        predictions: Predictions | bool = True,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        arguments = self.collect(locals())
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        self.assemble(arguments)
        self.whole: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}  # patch map and score of each file of a loop
        self._made_from: list[Any] = []

    def paper_arguments(self, clip: Backbone) -> dict[str, Any]:
        """Return the paper's values."""
        defaults = {**defaults_of(MuScModel), "divide_by_folder": False}
        return {**defaults, "layers": quarter_layers(clip.vision.depth)}

    def configure_optimizers(self) -> None:
        """Configure none."""

    # ---- a pool ----

    def prepare(self, datamodule: Any) -> None:
        """See to the pool, if there is to be one."""
        if source := self.hparams["pool_source"]:
            for category, paths in images_in_folder(source, shown_categories(datamodule, self.category)).items():
                self.draw(category, paths, min(self.hparams["pool_size"], len(paths)))
        if len(self.memory):
            self.memory.resolve(shown_categories(datamodule, self.category))

    def _restore(self, learned: LearnedWeights) -> None:
        """Take over a pool, whose images scored each other by arguments that must not change.

        Raises:
            ValueError: If one of them is another than the pool was made with.
        """
        super()._restore(learned)
        changed = [f"{name} {made}" for name in OF_THE_POOL if self.hparams[name] != (made := learned.arguments[name])]
        if len(self.memory.get_buffer(SCORE)) and changed:
            msg = (
                f"{learned.path}: its pool was made with {', '.join(changed)}: leave these arguments out, or make "
                "another pool (pool_source) without these weights."
            )
            raise ValueError(msg)

    def context(self, categories: Sequence[str | None]) -> dict[str, Any]:
        """Return whose pool images of some categories are compared with."""
        return {"categories": categories}

    def prepare_export(self) -> None:
        """Make sure that there is a pool: an exported model sees one image at a time.

        Raises:
            ValueError: If there is none.
        """
        super().prepare_export()
        self.whole, self._made_from = {}, []
        if not len(self.memory):
            msg = (
                "An exported MuSc sees single images, and a single image has no score without others: give pool_source "
                "(a folder of unlabelled images), or the weights of a run with one."
            )
            raise ValueError(msg)

    # ---- a set: known as a whole before the first batch ----

    def on_test_start(self) -> None:
        """See to the pool, or let the images of the whole set score each other."""
        super().on_test_start()
        self._score_sets(self.trainer.test_dataloaders)

    def on_predict_start(self) -> None:
        """See to the pool, or let the images of the whole set score each other."""
        super().on_predict_start()
        self._score_sets(self.trainer.predict_dataloaders)
        threshold = getattr(self.post_processor, "image_threshold", None)
        if isinstance(threshold, torch.Tensor) and threshold.isnan():
            logger.warning(
                "There are no thresholds from validation data: labels are at 0.5, but scores of MuSc, half of a mean "
                "distance, are mostly 0.1 to 0.4, so that all may be called normal. Go by the order of the scores."
            )

    def on_validation_start(self) -> None:
        """See to the pool, or let the images of the whole set score each other."""
        super().on_validation_start()
        self._score_sets(self.trainer.val_dataloaders)

    def _score_sets(self, loaders: Any) -> None:
        """Score the images of all loaders, unless there is a pool or it is done: a test set may be the validation's."""
        if len(self.memory):
            return
        loaders = loaders if isinstance(loaders, list) else [loaders]
        sets = [self._whole_set(loader) for loader in loaders]
        made_from = [id(self.trainer), id(self.model), *((each.files, each.categories) for each in sets)]
        if made_from == self._made_from:
            return
        self.whole, self._made_from = {}, made_from
        for images in sets:
            self._check_set(images)
            self.whole.update(self._score_set(images))

    def _whole_set(self, loader: DataLoader) -> WholeSet:
        progress = self.trainer.is_global_zero and self.trainer.progress_bar_callback is not None
        return WholeSet(loader, self.category, self.as_in_loop, progress=progress)

    def _check_set(self, images: WholeSet) -> None:
        """Say what makes a set's scores doubtful."""
        fewest = min(Counter(images.categories).values())
        if fewest < FEW:
            logger.warning("Only %d images score each other: their scores are better with at least %d.", fewest, FEW)
        if any(window > fewest for window in self.model.rescore_windows):
            logger.warning("rescore_windows %s are cut to the %d images.", self.hparams["rescore_windows"], fewest)

    def _score_set(self, images: WholeSet) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return the patch map and the score of each file of a set."""
        logger.info("%d images score each other; none has a score without the others.", len(images.files))
        folders = images.folders if self.hparams["divide_by_folder"] else None
        with self.trainer.precision_plugin.forward_context():
            found = self.model.score_sets(images.load, images.categories, folders)
        images.warn()
        return dict(zip(images.files, zip(*found, strict=True), strict=True))

    def validation_step(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Predict scores and maps of a batch: against the pool, or as the whole set says."""
        del args, kwargs
        if len(self.memory):
            predictions = self.model(batch.image, self.categories(batch), batch.image_path)
        else:
            patch_maps, scores = zip(*(self.whole[file] for file in batch.image_path), strict=True)
            maps = self.model.maps(torch.stack(patch_maps))
            predictions = InferenceBatch(pred_score=torch.stack(scores), anomaly_map=maps)
        return batch.update(**predictions._asdict())

    test_step = validation_step
    predict_step = validation_step
