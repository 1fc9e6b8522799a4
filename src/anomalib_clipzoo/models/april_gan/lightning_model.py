# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""APRIL-GAN as an anomalib model."""

import logging
from pathlib import Path
from typing import Any, ClassVar

import torch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from torch import nn

from anomalib_clipzoo.anomaly.losses import map_loss
from anomalib_clipzoo.clip import Backbone, quarter_layers
from anomalib_clipzoo.models.components.arguments import AUTO, defaults_of
from anomalib_clipzoo.models.components.feature_cache import CACHE_SIZE, CacheDtype
from anomalib_clipzoo.models.components.few_shot import FewShotModule
from anomalib_clipzoo.models.components.loaders import read_before
from anomalib_clipzoo.models.components.types import (
    Count,
    CountFrom0,
    ImageSize,
    Layers,
    Name,
    PixelMean,
    PixelSpread,
    PositiveNumber,
    PositiveShare,
    Rate,
    Share,
    Sigma,
    Words,
)
from anomalib_clipzoo.results.folder_images import problems_of
from anomalib_clipzoo.results.predictions import Predictions

from .torch_model import AprilGanModel

logger = logging.getLogger(__name__)

ADAM_BETAS = (0.5, 0.999)


class AprilGan(FewShotModule, AnomalibModule):
    """APRIL-GAN: linear layers on patch tokens, and a few normal images (VAND 2023 challenge, arXiv 2305.17382).

    It learns on one dataset's annotated images and is used on products that it never saw. Without annotated anomalies
    it learns on synthetic ones; with ``weights`` nothing is learned, unless ``fine_tune`` says so. With ``k_shot``
    normal images or more, patches are compared with theirs, too; these references are kept with checkpoints and
    weights. What is left open is as ``weights`` were made with, else the paper's, in brackets.

    Args:
        backbone: An open_clip name with a plain ViT tower, a path to an open_clip JSON config, or "toy". [ViT-L-14-336]
        pretrained: An open_clip tag, a path to a file of CLIP weights, or ``None`` for random weights; "auto" leaves it
            open. [openai]
        weights: Learned weights: a .safetensors or .ckpt of this package, or the reference repository's own .pth.
        fine_tune: Whether fitting goes on from ``weights`` instead of using them as they are.
        image_size: Height and width in pixels, multiples of the patch size. [518 where the patch size divides it, else
            the backbone's native size]
        layers: Image blocks whose patch tokens are projected and compared with the texts, counted from 1. [the quarter
            points, (6, 12, 18, 24) of 24]
        reference_layers: Image blocks whose patch tokens are compared with the references'. [the same]
        normal_states: States of a normal object, {} is where the class name goes. [seven, the same as WinCLIP's]
        abnormal_states: States of an object with an anomaly. [five, the same as AdaCLIP's]
        templates: Sentences, {} is where the object in its state goes. [35]
        temperature: What cosines with the texts are divided by before the softmax. Where CLIP tells them further apart
            than 0.17, as the toy CLIP does, scores come to 1 at the paper's and rank no more. [0.01]
        class_name: What all images show. [each image's own category where known, else "object"]
        k_shot: Number of normal reference images of each category. 0 goes without, unless ``weights`` hold some.
        few_shot_source: Folder of normal images to choose the references from, with or without a subfolder for each
            category. ``None``: the datamodule's normal training images.
        seed: Seed of the choice of references; nothing else depends on it.
        reference_weight: Share of the references in the map, 0..1. [two thirds with as many layers for both: the
            reference code adds up layers, and distances count up to 2]
        coreset_ratio: Share of the references' positions that is kept, above 0, to 1, chosen so that each one left out
            has one kept near it (k-center greedy). [all]
        reference_block: How many positions of references are compared at once, which bounds the memory. [2048]
        rotate_references: Whether references are kept turned by 90, 180 and 270 degrees, too, for parts that lie any
            way round.
        allow_overlap: Whether ``few_shot_source`` may hold test images.
        min_max: Whether the map's maximum, before it counts in the few-shot score, is scaled by the smallest and the
            largest maximum of its category's images, as in the reference code. A score then depends on all images of
            the test, which are run twice. [no: each image by itself]
        sigma: Gaussian smoothing of the map in pixels. [0, none]
        quick_gelu: Whether CLIP runs with QuickGELU. [no: the reference code runs OpenAI's weights with the exact GELU]
        mean: Mean of red, green and blue, 0..1, that images are normalised by. [the pretrained tag's, else OpenAI's]
        std: Their standard deviation. [the pretrained tag's, else OpenAI's]
        lr: Learning rate.
        feature_cache: Where the frozen CLIP's features of training images are kept, which later epochs need not compute
            then: "memory", or a folder, which later runs use as well. ``None`` computes them in every epoch.
        cache_size: Most gigabytes to keep, for each process in memory, for all together in a folder.
        cache_dtype: Precision in which they are kept: "float32", or "bfloat16" or "float16" in half of the bytes.
        cache_variants: With a cache, in how many variants an image comes, as random changes cannot be kept: 1 goes
            without augmentation, 4 has the image as it is and three augmented ones. Mosaics and synthetic anomalies are
            the same ones again after so many epochs.
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
        ValueError: If arguments, weights and backbone do not fit together; the message says how.
        FileNotFoundError: If a file or folder does not exist or CLIP's weights cannot be downloaded.
    """

    MODEL: ClassVar[type[nn.Module]] = AprilGanModel
    PAPER_EPOCHS: ClassVar[int] = 3  # on MVTec AD; 15 on VisA
    REFERENCE_KEYS: ClassVar[dict[str, str | None]] = {"trainable_linearlayer.fc.": "patch_projections."}

    def __init__(
        self,
        backbone: str | None = None,
        pretrained: str | Path | None = AUTO,
        weights: str | Path | None = None,
        fine_tune: bool = False,
        image_size: ImageSize | None = None,
        layers: Layers | None = None,
        reference_layers: Layers | None = None,
        normal_states: Words | None = None,
        abnormal_states: Words | None = None,
        templates: Words | None = None,
        temperature: PositiveNumber | None = None,
        class_name: Name | None = None,
        k_shot: CountFrom0 = 0,
        few_shot_source: str | Path | None = None,
        seed: int = 0,
        reference_weight: Share | None = None,
        coreset_ratio: PositiveShare | None = None,
        reference_block: Count | None = None,
        rotate_references: bool = False,
        allow_overlap: bool = False,
        min_max: bool | None = None,
        sigma: Sigma | None = None,
        quick_gelu: bool | None = None,
        mean: PixelMean | None = None,
        std: PixelSpread | None = None,
        lr: PositiveNumber = 1e-3,
        feature_cache: Name | Path | None = None,
        cache_size: PositiveNumber = CACHE_SIZE,
        cache_dtype: CacheDtype = "float32",
        cache_variants: Count = 1,
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

    def paper_arguments(self, clip: Backbone) -> dict[str, Any]:
        """Return the paper's values for this CLIP."""
        return {**defaults_of(AprilGanModel), "layers": quarter_layers(clip.vision.depth)}

    # ---- the reference code's score over all images of a category ----

    def on_validation_start(self) -> None:
        """See to the references, then to the ranges of the validation images' maps."""
        super().on_validation_start()
        self._fit_ranges(self.trainer.val_dataloaders)

    def on_validation_end(self) -> None:
        """Drop what served the validation alone."""
        self.model.ranges.forget(self.borrowed)
        super().on_validation_end()

    def on_test_start(self) -> None:
        """See to the references, then to the ranges of the test images' maps, as the reference code does."""
        super().on_test_start()
        self._fit_ranges(self.trainer.test_dataloaders)

    def on_predict_start(self) -> None:
        """See to the references, then to the ranges of the maps, unless an earlier run left them."""
        super().on_predict_start()
        if not len(self.model.ranges):
            self._fit_ranges(self.trainer.predict_dataloaders)

    def prepare_export(self) -> None:
        """Make sure that the ranges are known: an exported model sees one image at a time.

        Raises:
            ValueError: If they are not.
        """
        super().prepare_export()
        if self.hparams["min_max"] and set(self.memory.categories) - set(self.model.ranges.categories):
            msg = (
                "min_max needs the range of the maps over many images, and nothing has measured it with these "
                "references: export the weights that anomalib train left with min_max and references, or leave it out."
            )
            raise ValueError(msg)

    def _fit_ranges(self, loaders: Any) -> None:
        """Run all images once for the range in which the maps of each category have their maximum.

        Raises:
            ValueError: If the images are spread over several processes, none of which sees all.
        """
        if not self.hparams["min_max"]:
            return
        if not len(self.model.references):
            logger.warning("min_max given, but there are no references: an image's score is CLIP's own.")
            return
        if self.trainer.world_size > 1:
            msg = "min_max needs all images of a category in one process: run on one device, or leave it out."
            raise ValueError(msg)
        logger.info("min_max: all images are run once before, for the range of their maps.")
        self.model.ranges.forget(self.model.ranges.categories)
        found: dict[str | None, list[float]] = {}
        for loader in loaders if isinstance(loaders, list) else [loaders]:
            for batch in read_before(loader):
                for category, maximum in self._maxima(batch):
                    found.setdefault(category, []).append(maximum)
        self.model.ranges.keep({category: (min(maxima), max(maxima)) for category, maxima in found.items()})

    def _maxima(self, batch: Any) -> list[tuple[str | None, float]]:
        """Return whose references each image that could be read goes with, and the largest value of its map."""
        categories = self.categories(batch)
        with self.trainer.precision_plugin.forward_context():
            maps = self.model(self.as_in_loop(batch.image), **self.context(categories)).anomaly_map
        found = zip(self.model.references.resolve(categories), maps.amax(dim=(1, 2)).tolist(), strict=True)
        return [each for each, problem in zip(found, problems_of(batch), strict=True) if not problem]

    # ---- training ----

    def training_step(self, batch: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute the loss of a batch of images with masks."""
        del args, kwargs
        features = self.frozen_features(batch.image)
        maps = self.model.layer_maps_of(features, self.class_names(self.categories(batch)))
        loss = map_loss(maps, batch.gt_mask)
        self.log("train_loss", loss, on_epoch=True, prog_bar=True, batch_size=len(batch.image))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Configure Adam on the projections."""
        return torch.optim.Adam(self.model.patch_projections.parameters(), lr=self.hparams["lr"], betas=ADAM_BETAS)
