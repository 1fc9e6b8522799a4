# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""WinCLIP and WinCLIP+ as an anomalib model."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import Batch, InferenceBatch
from anomalib.data.utils import read_image
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from torch import nn

from anomalib_clipzoo.anomaly.references import (
    Candidates,
    Reference,
    choose_references,
    images_by_category,
    images_in_folder,
)
from anomalib_clipzoo.clip import Backbone, default_image_size
from anomalib_clipzoo.data import categories_of
from anomalib_clipzoo.models.components.module import ClipZooModule, choose
from anomalib_clipzoo.models.components.weights import LearnedWeights

from .scores import Aggregation, Mean, PatchTerm, Score, make_variant
from .torch_model import WINDOW_BATCH, WinClipPlusModel

logger = logging.getLogger(__name__)

REFERENCES = "model.references."
SCALES = (2, 3)


class WinClipPlus(ClipZooModule, AnomalibModule):
    """WinCLIP and WinCLIP+: zero- and few-shot anomaly detection with windows (CVPR 2023, arXiv 2303.14814).

    Nothing is learned. Sentences about normal and abnormal objects are compared with the image and its windows
    (WinCLIP); with ``k_shot`` normal images or more, the windows and patches of those are compared too (WinCLIP+).
    These references are kept with checkpoints and weights: predicting and exporting need no datamodule.

    Args:
        backbone: An open_clip name with a plain ViT tower, a path to an open_clip JSON config, or "toy".
        pretrained: An open_clip tag, a path to a file of CLIP weights, or ``None`` for random weights.
        weights: What an earlier run left: references, thresholds and the arguments that they depend on, as
            .safetensors or .ckpt.
        image_size: Height and width in pixels, multiples of the patch size. ``None``: that of ``weights``, or the
            backbone's native size, the paper's 240.
        scales: Sides of the windows in patches. ``None``: those of ``weights``, or the paper's (2, 3).
        stride: Steps between windows in patches. ``None``: that of ``weights``, or 1.
        variant: Whose reading of the paper sets what follows: "zqhang", "caoyunkang" or "anomalib". ``None``: that of
            ``weights``, or "zqhang", whose published figures are closest to the paper's.
        temperature: What cosines are divided by before the softmax. ``None``: the variant's.
        aggregation: Whether the map is made from the "abnormal" or the "normal" probability. ``None``: the variant's.
        image_term: Whether the whole image is one more scale of the map. ``None``: the variant's.
        patch_term: Patch tokens compared with the references': "raw", "normalized", "none". ``None``: the variant's.
        reference_mean: Mean over windows of distances, "harmonic" or "arithmetic". ``None``: the variant's.
        fusion: Mean of the text's and the references' map, "arithmetic" or "harmonic". ``None``: the variant's.
        score: "image" or "map": what the image score is taken from. ``None``: the variant's.
        normal_states: States of a normal object, {} is where the class name goes. ``None``: the variant's.
        abnormal_states: States of an object with an anomaly. ``None``: the variant's.
        templates: Sentences, {} is where the object in its state goes. ``None``: the variant's.
        tidy: Whether class names are written in words ("metal nut" for metal_nut) and a sentence counts once however
            often it is listed. The reproductions do neither.
        class_name: What all images show. ``None``: each image's own category where known, else "object".
        k_shot: Number of normal reference images of each category. 0 goes without, unless ``weights`` hold some.
        few_shot_source: Folder of normal images to choose the references from, with or without a subfolder for each
            category. ``None``: the datamodule's normal training images.
        seed: Seed of the choice of references; nothing else depends on it.
        window_batch: Windows that go through the transformer at once, which bounds the memory.
        precision: Precision of the image tower: "float32", "bfloat16" (fast) or "float16".
        quick_gelu: Whether CLIP runs with QuickGELU, which OpenAI's weights were trained with and LAION's were not.
        pre_processor: Pre-processor, or whether to use the default. References go through it as test images do, so
            they may have any size.
        post_processor: Post-processor, or whether to use the default.
        evaluator: Evaluator, or whether to use the default.
        visualizer: Visualizer, or whether to use the default.

    Raises:
        ValueError: If arguments do not fit together; the message says how. In a run, if there are fewer normal images
            than ``k_shot``.
        FileNotFoundError: If a file or folder does not exist or CLIP's weights cannot be downloaded.
    """

    model: WinClipPlusModel

    def __init__(
        self,
        backbone: str = "ViT-B-16-plus-240",
        pretrained: str | Path | None = "laion400m_e31",
        weights: str | Path | None = None,
        image_size: int | Sequence[int] | None = None,
        scales: Sequence[int] | None = None,
        stride: int | None = None,
        variant: str | None = None,
        temperature: float | None = None,
        aggregation: Aggregation | None = None,
        image_term: bool | None = None,
        patch_term: PatchTerm | None = None,
        reference_mean: Mean | None = None,
        fusion: Mean | None = None,
        score: Score | None = None,
        normal_states: Sequence[str] | None = None,
        abnormal_states: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        tidy: bool = False,
        class_name: str | None = None,
        k_shot: int = 0,
        few_shot_source: str | Path | None = None,
        seed: int = 0,
        window_batch: int = WINDOW_BATCH,
        precision: str = "float32",
        quick_gelu: bool = False,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        if k_shot < 0:
            msg = f"k_shot {k_shot} must be 0 or the number of reference images of each category."
            raise ValueError(msg)
        learned = self.read_weights(weights)
        image_size = choose(image_size, learned, "image_size", default_image_size(backbone, None))
        scales = choose(scales, learned, "scales", SCALES)
        stride = choose(stride, learned, "stride", 1)
        variant = choose(variant, learned, "variant", "zqhang")
        patch_term = choose(patch_term, learned, "patch_term", None)
        reading = make_variant(
            variant,
            temperature=temperature,
            aggregation=aggregation,
            image_term=image_term,
            patch_term=patch_term,
            reference_mean=reference_mean,
            fusion=fusion,
            score=score,
            normal_states=normal_states,
            abnormal_states=abnormal_states,
            templates=templates,
        )
        model = WinClipPlusModel(
            Backbone(backbone, pretrained, quick_gelu=quick_gelu, image_size=image_size),
            variant=reading,
            scales=scales,
            stride=stride,
            class_name=class_name,
            tidy=tidy,
            window_batch=window_batch,
            precision=precision,
        )
        image_size = model.backbone.vision.image_size
        super().__init__(
            pre_processor=self.configure_pre_processor(image_size) if pre_processor is True else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.model = model
        self.k_shot = k_shot
        self.few_shot_source = few_shot_source
        self.seed = seed
        self.borrowed: list[str | None] = []  # categories whose references serve the validation alone
        if learned:
            self.load_weights(learned)

    # ---- how anomalib runs the model ----

    @property
    def learning_type(self) -> LearningType:
        """``FEW_SHOT`` with reference images, else ``ZERO_SHOT``: in both cases there is nothing to train."""
        return LearningType.FEW_SHOT if self.k_shot or len(self.model.references) else LearningType.ZERO_SHOT

    def configure_optimizers(self) -> None:
        """Configure none."""

    def _infer(self, batch: Batch) -> Batch:
        predictions = self.model(batch.image, categories_of(batch))
        return batch.update(**predictions._asdict())

    def forward(self, batch: torch.Tensor, *args: Any, **kwargs: Any) -> InferenceBatch:
        """Pre-process images ``(B, 3, H, W)``, 0..1, detect anomalies, post-process scores and maps."""
        self._check_references()
        return super().forward(batch, *args, **kwargs)

    def on_test_start(self) -> None:
        """See to the references, which come after a checkpoint was restored, and before the first batch."""
        self._prepare_references(getattr(self.trainer, "datamodule", None))

    on_predict_start = on_test_start

    def on_validation_start(self) -> None:
        """See to the references, also those of validation images that show something else than test images."""
        datamodule = getattr(self.trainer, "datamodule", None)
        self._prepare_references(datamodule)
        self.borrowed = self._borrow_references(datamodule)

    def on_validation_end(self) -> None:
        """Leave references and thresholds where training would leave what it learned."""
        self.model.references.forget(self.borrowed)
        self.on_fit_end()

    def to_torch(self, *args: Any, **kwargs: Any) -> Path:
        """Export the model in PyTorch's format, with its references, see anomalib."""
        self._prepare_references(None)
        return super().to_torch(*args, **kwargs)

    def to_onnx(self, *args: Any, **kwargs: Any) -> Path:  # type: ignore[override]
        """Export the model in ONNX's format, with its references, see anomalib."""
        self._prepare_references(None)
        return super().to_onnx(*args, **kwargs)

    # ---- references ----

    def _prepare_references(self, datamodule: Any) -> None:
        """Choose the references that a run needs, unless they are there, or say before it starts that it cannot."""
        target = getattr(datamodule, "target", datamodule)  # CrossDataset: references are the target's
        if target is not None:
            self.model.category = target.category or None
        if self.k_shot and not self._has_references(target):
            for category, paths in self._candidates(target).items():
                self._draw(category, paths, self.k_shot)
        self._check_references()
        if len(self.model.references):
            self.model.references.resolve(_shown_categories(target))

    def _borrow_references(self, datamodule: Any) -> list[str | None]:
        """Draw references for validation images of other categories than the target's, and return these categories.

        :class:`~anomalib_clipzoo.data.CrossDataset` validates on its auxiliary data.
        """
        memory = self.model.references
        if not len(memory) or getattr(datamodule, "target", None) is None or None in memory.categories:
            return []
        count = len(memory.paths(memory.categories[0]))
        shown = images_by_category(datamodule.val_data, None, normal_only=False)
        known = images_by_category(datamodule.train_data, None)
        missing = [category for category in shown if category not in memory.categories]
        for category in missing:
            self._draw(category, known.get(category, []), count)
        return missing

    def _has_references(self, target: Any) -> bool:
        """Tell whether a checkpoint or weights brought as many references as wanted of all that the run needs."""
        memory = self.model.references
        if not memory.restored or any(len(memory.paths(category)) != self.k_shot for category in memory.categories):
            return False
        return None in memory.categories or set(_shown_categories(target)) <= {*memory.categories, None}

    def _candidates(self, target: Any) -> Candidates:
        """List the images that references are chosen from."""
        if self.few_shot_source:
            return images_in_folder(self.few_shot_source, _shown_categories(target))
        dataset = getattr(target, "train_data", None)
        return {} if dataset is None else images_by_category(dataset, target.category)

    def _draw(self, category: str | None, paths: Sequence[str], count: int) -> None:
        """Choose a category's references and remember them, unless they are those that it has."""
        chosen = choose_references(paths, count, self.seed, category)
        if chosen == self.model.references.paths(category):
            return
        logger.info("Reference images of %s: %s", category or "any category", ", ".join(chosen))
        images = torch.cat([self._read(path) for path in chosen])
        self.model.remember(images, [Reference(category, path) for path in chosen])

    def _read(self, path: str) -> torch.Tensor:
        """Read an image ``(1, 3, H, W)`` and pre-process it as the images of a batch are."""
        image = torch.as_tensor(read_image(path, as_tensor=True))[None].to(self.device)
        transform = getattr(self.pre_processor, "transform", self.pre_processor)
        return transform(image) if transform else image

    def _check_references(self) -> None:
        if self.k_shot and not len(self.model.references):
            msg = (
                f"k_shot={self.k_shot} needs reference images: give few_shot_source (a folder of normal images), run "
                "with a datamodule that has normal training images, or give the weights of such a run."
            )
            raise ValueError(msg)

    # ---- what is kept ----

    def load_weights(self, learned: LearnedWeights) -> None:
        """Take over references and thresholds of an earlier run.

        Raises:
            ValueError: If they were made with another CLIP or with other arguments.
        """
        self.model.references.make_room(learned.state, REFERENCES)
        super().load_weights(learned)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the checkpoint's references, then check that it fits."""
        self.model.references.make_room(checkpoint["state_dict"], REFERENCES)
        super().on_load_checkpoint(checkpoint)


def _shown_categories(target: Any) -> list[str | None]:
    """Return the categories of a datamodule's test images, or the one unknown category where there is none."""
    dataset = getattr(target, "test_data", None)
    return [None] if dataset is None else list(images_by_category(dataset, target.category, normal_only=False))
