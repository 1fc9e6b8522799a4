# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What the Lightning modules of all papers share."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from anomalib import LearningType
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback
from torch import nn
from torch.utils.data import DataLoader

from anomalib_clipzoo.metrics import PerCategoryEvaluator

from .post_processor import ProbabilityPostProcessor
from .pre_processor import ClipPreProcessor
from .training_images import TrainingImages
from .weights import (
    RECORD,
    LearnedWeights,
    check_fit,
    read_learned_weights,
    write_learned_weights,
)

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule as _Module
else:
    _Module = object  # each model names AnomalibModule as a direct base: anomalib's list_models looks at those only

LIGHTNING_EPOCHS = 1000  # what Lightning's trainer takes where the user names no number of epochs
CLIP_SIZE = (224, 224)


class ClipZooModule(_Module):
    """Mixin for Lightning modules whose ``model`` stands on a frozen ``backbone``.

    It reads and writes learned weights, trains on synthetic anomalies where a dataset has no annotated ones, and lets
    prediction run without validation data.
    """

    REFERENCE_KEYS: ClassVar[Mapping[str, str | None]] = {}
    PAPER_EPOCHS: ClassVar[int] = 1

    model: Any
    zero_shot: bool = False

    # ---- how anomalib runs the model ----

    def _infer(self, batch: Batch) -> Batch:
        predictions = self.model(batch.image)
        return batch.update(**predictions._asdict())

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Any:
        """Predict scores and maps of a batch."""
        del args, kwargs
        return self._infer(batch)

    test_step = validation_step
    predict_step = validation_step

    def val_dataloader(self) -> list[DataLoader]:
        """Return no loader: where no datamodule brings validation data, validation does nothing.

        anomalib validates zero-shot models before each prediction, to fit thresholds; a folder of images has nothing to
        validate on, and scores are probabilities that 0.5 divides.
        """
        return []

    @property
    def learning_type(self) -> LearningType:
        """``ONE_CLASS`` (anomalib's word for models that train) unless learned weights were given."""
        return LearningType.ZERO_SHOT if self.zero_shot else LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Arguments for Lightning's trainer: no sanity check, whose batches would count in the thresholds."""
        return {"num_sanity_val_steps": 0}

    @classmethod
    def configure_pre_processor(cls, image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Configure CLIP's pre-processing at an image size (height, width)."""
        return ClipPreProcessor(image_size or CLIP_SIZE)

    def configure_post_processor(self) -> PostProcessor:
        """Configure anomalib's post-processor for scores that are probabilities."""
        return ProbabilityPostProcessor()

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Configure metrics per category and their mean."""
        return PerCategoryEvaluator()

    # ---- training ----

    def configure_augmentation(self) -> nn.Module | None:
        """Configure what changes a training batch's images and masks; nothing by default."""
        return None

    def configure_callbacks(self) -> list[Callback]:
        """Prepare training images first, then run anomalib's components."""
        components = super().configure_callbacks()
        components = components if isinstance(components, Sequence) else [components]
        return [TrainingImages(self.configure_augmentation()), *components]

    def setup(self, stage: str) -> None:
        """Train for the paper's number of epochs where the user names none."""
        super().setup(stage)
        if stage == "fit" and self.trainer.max_epochs == LIGHTNING_EPOCHS and self.trainer.max_steps == -1:
            logger.info("No number of epochs given: training for the paper's %d.", self.PAPER_EPOCHS)
            self.trainer.fit_loop.max_epochs = self.PAPER_EPOCHS

    # ---- learned weights ----

    @classmethod
    def read_weights(cls, weights: str | Path | None) -> LearnedWeights | None:
        """Read a file of learned weights, see :func:`read_learned_weights`."""
        return read_learned_weights(weights, cls.__name__, cls.REFERENCE_KEYS) if weights else None

    def load_weights(self, learned: LearnedWeights) -> None:
        """Fill the model with learned weights.

        Raises:
            ValueError: If they were learned on another CLIP or with other arguments.
        """
        self._check_fingerprint(learned.path, learned.arguments, learned.fingerprint)
        check_fit(learned, self.state_dict())
        self.load_state_dict(learned.state, strict=False)
        self.zero_shot = True

    def save_weights(self, path: str | Path) -> Path:
        """Write what was learned, with the thresholds, to a ``.safetensors`` file for ``weights=``."""
        return write_learned_weights(path, self.state_dict(), self._record())

    def on_fit_end(self) -> None:
        """Leave the learned weights beside the checkpoints."""
        if self.trainer.is_global_zero:
            path = self.save_weights(Path(self.trainer.default_root_dir) / "weights" / "learned.safetensors")
            logger.info("Learned weights are in %s; use them with --model.weights.", path)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say in the checkpoint which frozen CLIP it belongs to."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[RECORD] = self._record()
        arguments = {key: _plain(value) for key, value in checkpoint.get("hyper_parameters", {}).items()}
        checkpoint["hyper_parameters"] = {**arguments, "weights": None}  # what they held is in the checkpoint now

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint fits."""
        super().on_load_checkpoint(checkpoint)
        record = checkpoint.get(RECORD, {})
        if record.get("model") != type(self).__name__:
            msg = f"This is a checkpoint of {record.get('model', 'another model')}, not of {type(self).__name__}."
            raise ValueError(msg)
        learned = LearnedWeights(Path("The checkpoint"), checkpoint["state_dict"], record["arguments"])
        self._check_fingerprint(learned.path, learned.arguments, record["fingerprint"])
        check_fit(learned, self.state_dict())

    def _record(self) -> dict[str, Any]:
        """Plain data that says what learned weights are: the model, its arguments, the CLIP that they belong to."""
        arguments = {key: _plain(value) for key, value in self.hparams.items() if key != "weights"}
        fingerprint = self.model.backbone.fingerprint()
        return {"model": type(self).__name__, "arguments": arguments, "fingerprint": fingerprint}

    def _check_fingerprint(self, source: Path, arguments: Mapping[str, Any], fingerprint: str | None) -> None:
        same_activation = arguments.get("quick_gelu", self.hparams["quick_gelu"]) == self.hparams["quick_gelu"]
        if same_activation and fingerprint in {None, self.model.backbone.fingerprint()}:
            return
        theirs, ours = (
            f"{a.get('backbone')!r} (pretrained {a.get('pretrained')!r}, quick_gelu {a.get('quick_gelu')})"
            for a in (arguments, self.hparams)
        )
        msg = f"{source} was learned on backbone {theirs}, but this model stands on {ours}: give it the same CLIP."
        raise ValueError(msg)


def choose(given: Any, learned: LearnedWeights | None, name: str, default: Any) -> Any:
    """Return an argument: what the user gave, else what the learned weights were made with, else the default."""
    if given is not None:
        return given
    recorded = learned.arguments.get(name) if learned else None
    return default if recorded is None else recorded


def _plain(value: Any) -> Any:
    """Turn paths and sequences of any kind into what JSON and ``weights_only`` loading know."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
