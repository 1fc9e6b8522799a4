# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The post-processor that all models share: thresholds that keep a promise, and do not blur the ranking."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import torch
from anomalib.data import InferenceBatch
from anomalib.metrics import AnomalibMetric, F1AdaptiveThreshold
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from anomalib_clipzoo.anomaly.precision import FullPrecision
from anomalib_clipzoo.anomaly.text_cache import is_exporting
from anomalib_clipzoo.data.category import categories_of
from anomalib_clipzoo.metrics.bend import bend, bend_around, middle_of, unbend
from anomalib_clipzoo.metrics.bins import check_probabilities
from anomalib_clipzoo.metrics.gather import gather
from anomalib_clipzoo.metrics.thresholds import (
    BinnedConformalThreshold,
    BinnedF1Threshold,
    ConformalThreshold,
    check_enough,
    check_rate,
)

SCORES, MASKED_MAPS, LABELLED_MAPS = (
    ["pred_score", "gt_label"],
    ["anomaly_map", "gt_mask"],
    ["anomaly_map", "gt_label"],
)
NEUTRAL_SENSITIVITY = 0.5  # with which post-processed scores are compared with 0.5


class ProbabilityPostProcessor(FullPrecision, PostProcessor):
    """anomalib's post-processor for scores that are probabilities.

    anomalib shifts scores by the validation data's threshold, divides by their range and cuts off at 0 and 1. On other
    data than those the threshold came from, as in zero-shot detection, much lies beyond that range and becomes a tie,
    which costs AUROC. Scores here are in 0..1 already, so it is enough to bend the scale: 0 to the threshold becomes 0
    to 0.5, the threshold to 1 becomes 0.5 to 1. The ranking stays as it is, and 0.5 decides.

    Thresholds come from validation data: those with the best F1 score, which needs normal and anomalous images; or,
    with ``false_alarm_rate``, from normal images alone, so that on average at most that share of new normal images is
    called anomalous, and at most that share of their pixels. Anomalous validation images are then left aside.

    Thresholds stay in single precision: half of it has no steps between them and a score beside.

    Args:
        false_alarm_rate: Share of normal images that may be called anomalous, between 0 and 1. It needs at least
            ``1 / false_alarm_rate - 1`` normal validation images.
        **arguments: anomalib's own arguments.

    Raises:
        ValueError: If the rate is not between 0 and 1, or other arguments contradict it.
    """

    _provenance: Tensor

    def __init__(self, false_alarm_rate: float | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.register_buffer("_provenance", torch.empty(0, dtype=torch.uint8))
        self._set_rate(false_alarm_rate)
        self._forget_validation()

    def _set_rate(self, rate: float | None) -> None:
        check_rate(rate)
        self.false_alarm_rate = None if rate is None else float(rate)
        image: AnomalibMetric
        pixel: AnomalibMetric
        if rate is None:
            image, pixel = F1AdaptiveThreshold(SCORES, strict=False), BinnedF1Threshold(MASKED_MAPS, strict=False)
        else:
            if not self._keeps_rates:
                msg = "A false alarm rate is kept only with thresholding, normalization and both sensitivities at 0.5."
                raise ValueError(msg)
            image = ConformalThreshold(SCORES, strict=False, rate=rate)
            pixel = BinnedConformalThreshold(LABELLED_MAPS, strict=False, rate=rate)
        self._image_threshold_metric, self._pixel_threshold_metric = image, pixel  # type: ignore[assignment]

    @property
    def _keeps_rates(self) -> bool:
        neutral = self.image_sensitivity == self.pixel_sensitivity == NEUTRAL_SENSITIVITY
        return self.enable_thresholding and self.enable_normalization and neutral

    # ---- scale ----

    @staticmethod
    def _normalize(preds: Tensor | None, norm_min: Tensor, norm_max: Tensor, threshold: Tensor) -> Tensor | None:
        """Bend scores (any shape, 0..1) so that the threshold comes to 0.5; as they are where there is no threshold."""
        del norm_min, norm_max
        return None if preds is None else bend(preds, threshold)

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """Bend scores ``(B,)`` and maps ``(B, ..., H, W)`` of a model and decide by them."""
        scores, maps = predictions.pred_score, predictions.anomaly_map
        if is_exporting() and self.enable_normalization and scores is not None and maps is not None:
            return self._forward_in_graph(scores, maps)
        return super().forward(predictions)

    def _forward_in_graph(self, scores: Tensor, maps: Tensor) -> InferenceBatch:
        """Do the same with both thresholds in one constant, by which an exported file's thresholds can be changed.

        Expanding it over the batch, whose size the graph does not know, keeps exporters from folding it into others.
        """
        batch, *plane = maps.shape  # len() would fix the batch size
        middles = self.middles.expand(batch, 2)
        scores = bend_around(middles[:, 0], scores)
        maps = bend_around(middles[:, 1].reshape(batch, *(1 for _ in plane)), maps)
        if not self.enable_thresholding:
            return InferenceBatch(pred_score=scores, anomaly_map=maps)
        label = self._apply_threshold(scores, self.normalized_image_threshold)
        mask = self._apply_threshold(maps, self.normalized_pixel_threshold)
        return InferenceBatch(pred_score=scores, anomaly_map=maps, pred_label=label, pred_mask=mask)

    @property
    def middles(self) -> Tensor:
        """The scores of an image and of a pixel that come to 0.5, ``(2,)``: the thresholds."""
        return middle_of(torch.stack([self.image_threshold, self.pixel_threshold]))

    def bend_map(self, maps: Tensor) -> Tensor:
        """Bring maps from the model's own scale to that of post-processed ones."""
        return bend(maps, self.pixel_threshold)

    def unbend_map(self, maps: Tensor) -> Tensor:
        """Bring post-processed maps back to the model's own scale."""
        return unbend(maps, self.pixel_threshold)

    # ---- thresholds ----

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make sure before all work that there are enough normal validation images for the false alarm rate."""
        del pl_module
        datamodule = getattr(trainer, "datamodule", None)
        if self.false_alarm_rate is None or datamodule is None or stage not in {"fit", "validate"}:
            return
        samples = getattr(getattr(datamodule, "val_data", None), "samples", None)
        if samples is not None and "label_index" in samples:
            check_enough(int((samples["label_index"] == 0).sum()), self.false_alarm_rate)
        elif stage == "fit" and samples is None:
            check_enough(0, self.false_alarm_rate)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an interrupted validation saw."""
        del trainer, pl_module
        self._forget_validation()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in a batch for the thresholds.

        Raises:
            ValueError: If a score is not a number in 0..1; it names the image.
        """
        paths = getattr(outputs, "image_path", None)
        for name, what in (("pred_score", "score"), ("anomaly_map", "anomaly map")):
            values = getattr(outputs, name, None)
            if values is not None:
                check_probabilities(values, what, paths)
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        labels = getattr(outputs, "gt_label", None)
        if labels is not None:
            self._labels += labels.flatten().int().tolist()
            self._categories |= {category for category in categories_of(outputs) if category}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the thresholds, and write down what they come from."""
        super().on_validation_epoch_end(trainer, pl_module)
        parts = gather((self._labels, self._categories))
        labels = [label for part, _ in parts for label in part]
        categories = {category for _, part in parts for category in part} or _names_of(trainer)
        if labels and self.enable_thresholding:
            self._write_provenance(
                {
                    "method": "best F1 score" if self.false_alarm_rate is None else "false alarm rate",
                    "false_alarm_rate": self.false_alarm_rate,
                    "normal_images": labels.count(0),
                    "anomalous_images": labels.count(1) if self.false_alarm_rate is None else 0,
                    "categories": sorted(categories),
                    "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                }
            )
        self._forget_validation()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make sure that the thresholds keep the false alarm rate.

        Raises:
            ValueError: If they were fitted for another one, or not at all.
        """
        del trainer, pl_module
        if self.false_alarm_rate is None:
            return
        origin = self.provenance or {}
        if origin.get("false_alarm_rate") != self.false_alarm_rate:
            found = origin.get("false_alarm_rate") or origin.get("method") or "none"
            msg = (
                f"A false alarm rate of {self.false_alarm_rate} needs thresholds fitted for it on normal validation "
                f"images; found: {found}. Run train, validate or test with a datamodule that has normal images to "
                "validate on; the weights and the checkpoint that it leaves keep the thresholds."
            )
            raise ValueError(msg)

    on_predict_start = on_test_start

    def _forget_validation(self) -> None:
        self._labels: list[int] = []
        self._categories: set[str] = set()
        self._image_threshold_metric.reset()
        self._pixel_threshold_metric.reset()

    # ---- what is kept ----

    @property
    def provenance(self) -> dict[str, Any] | None:
        """What the thresholds were fitted on: method, rate, images, categories and date; ``None`` if they were not."""
        text = bytes(self._provenance.tolist()).decode()
        return json.loads(text) if text else None

    def _write_provenance(self, provenance: Mapping[str, Any]) -> None:
        text = json.dumps(provenance).encode()
        self._provenance = torch.tensor(list(text), dtype=torch.uint8, device=self._provenance.device)

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        """Attributes that checkpoints keep, anomalib's own and the rate."""
        return (*super()._checkpoint_config_keys, "false_alarm_rate")

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Take over what a checkpoint kept; a rate that was given to this post-processor counts more."""
        given = self.false_alarm_rate
        super().load_checkpoint_config(config)
        self._set_rate(config.get("false_alarm_rate") if given is None else given)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Read thresholds with what they were fitted on, which other post-processors' states lack, and their rate."""
        kept = state_dict.setdefault(f"{prefix}_provenance", torch.empty(0, dtype=torch.uint8))
        self._provenance = torch.empty(len(kept), dtype=torch.uint8, device=self._provenance.device)
        super()._load_from_state_dict(state_dict, prefix, *args)
        rate = (self.provenance or {}).get("false_alarm_rate")
        if self.false_alarm_rate is None and self._keeps_rates:
            self._set_rate(rate)


def _names_of(trainer: Trainer) -> set[str]:
    """What the datamodule calls its images: by their category, or by its own name."""
    datamodule = getattr(trainer, "datamodule", None)
    return {name for name in (getattr(datamodule, "category", None) or getattr(datamodule, "name", None),) if name}
