# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What the Lightning modules of all papers share."""

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from anomalib import LearningType
from anomalib.data import Batch, InferenceBatch
from anomalib.metrics import Evaluator
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import Timer
from torch import nn
from torch.utils.data import DataLoader

import anomalib_clipzoo
from anomalib_clipzoo.anomaly.class_names import TakesClassNames
from anomalib_clipzoo.anomaly.prompts import class_names_of
from anomalib_clipzoo.anomaly.text_cache import is_exporting
from anomalib_clipzoo.clip import Backbone, default_image_size
from anomalib_clipzoo.clip.compiling import check_compiler, compile_blocks
from anomalib_clipzoo.clip.config import TOY
from anomalib_clipzoo.data import CategoryBatch, categories_of
from anomalib_clipzoo.metrics import PerCategoryEvaluator
from anomalib_clipzoo.results.predictions import Predictions
from anomalib_clipzoo.results.visualizer import HeatmapVisualizer

from .arguments import AUTO, COMPONENTS, Arguments, check_arguments, errors_named, plain
from .exports import WholeExports
from .feature_cache import FeatureCache, KeepFeatures, weights_hash
from .post_processor import ProbabilityPostProcessor
from .pre_processor import ClipPreProcessor
from .training_images import TrainingImages
from .weights import (
    RECORD,
    Companions,
    LearnedWeights,
    Lengths,
    check_fit,
    fit_shapes,
    from_checkpoint,
    read_learned_weights,
    write_learned_weights,
)

logger = logging.getLogger(__name__)

CLIP_SIZE = (224, 224)
# Components whose configuration a checkpoint holds, so that they come back without being given again.
KNOWN_COMPONENTS: dict[str, dict[str, type[nn.Module]]] = {
    "pre_processor": {"ClipPreProcessor": ClipPreProcessor, "PreProcessor": PreProcessor},
    "post_processor": {"ProbabilityPostProcessor": ProbabilityPostProcessor, "PostProcessor": PostProcessor},
}


class ClipZooModule(WholeExports):
    """Mixin for Lightning modules whose ``model`` stands on a frozen CLIP.

    A paper's constructor hands its arguments to :meth:`collect`, calls anomalib's constructor, and has :meth:`assemble`
    build the rest. An argument that the user leaves open is what the learned weights were made with, else the paper's.
    What a result depends on is written with the weights and comes back with them.
    """

    MODEL: ClassVar[type[nn.Module]]
    PAPER_CLIP: ClassVar[tuple[str, str]] = ("ViT-L-14-336", "openai")
    PAPER_SIZE: ClassVar[int | None] = 518  # pixels; None for the backbone's native size
    PAPER_EPOCHS: ClassVar[int] = 1
    QUICK_GELU: ClassVar[bool] = False
    POSITIONS: ClassVar[dict[str, Any]] = {}  # how the paper's code resizes patch positions, see Backbone
    LEARNS: ClassVar[bool] = True
    REFERENCE_KEYS: ClassVar[Mapping[str, str | None]] = {}
    REFERENCE_COMPANIONS: ClassVar[Companions] = {}
    LENGTHS: ClassVar[Lengths] = {}
    # Arguments of a run, not of what it makes: they do not come back with weights.
    OF_THE_RUN: ClassVar[frozenset[str]] = frozenset(
        {
            *("weights", "fine_tune", "seed"),
            *("feature_cache", "cache_size", "cache_dtype", "cache_variants", "compile"),
        }
    )
    # Arguments that the features of a training image depend on; QuickGELU always counts.
    FEATURES_DEPEND_ON: ClassVar[tuple[str, ...]] = ("layers",)

    model: Any
    arguments: Arguments
    category: str | None = None
    feature_cache: FeatureCache | None = None  # while it is fitted

    # ---- from arguments to model ----

    @classmethod
    def collect(cls, scope: Mapping[str, Any]) -> Arguments:
        """Check a constructor's arguments, and read the learned weights that they name.

        Args:
            scope: The constructor's local variables.

        Raises:
            ValueError: If an argument is not what the constructor takes, or the weights do not fit this model.
            FileNotFoundError: If there is no such file of weights.
        """
        values = check_arguments(cls, {name: scope[name] for name in cls._argument_names()})
        is_open = {name for name, value in values.items() if value == AUTO or (value is None and name != "pretrained")}
        given = {name: value for name, value in values.items() if name not in is_open}
        components = {name: scope[name] for name in sorted(COMPONENTS)}
        if not isinstance(scope["predictions"], (bool, Predictions)):
            msg = f"predictions={scope['predictions']!r} is neither true or false nor a Predictions callback."
            raise ValueError(msg)
        return Arguments(given, cls.read_weights(given.get("weights")), components)

    @classmethod
    def _argument_names(cls) -> list[str]:
        """List the constructor's arguments but for anomalib's components."""
        return [name for name in inspect.signature(cls).parameters if name not in COMPONENTS]

    def assemble(self, arguments: Arguments) -> None:
        """Build CLIP and model from the arguments, record what they came to, and load the learned weights.

        Raises:
            ValueError: If backbone, weights and arguments do not fit together.
            FileNotFoundError: If CLIP's weights are not there and cannot be downloaded.
        """
        self.arguments = arguments
        with errors_named(arguments):
            self._build(arguments)
        self._check_cache()
        if arguments.learned:
            self.load_weights(arguments.learned)
        self._check_class_names(self.class_names([self.category]))

    def _check_cache(self) -> None:
        if self.hparams.get("cache_variants", 1) > 1 and not self.hparams["feature_cache"]:
            msg = "cache_variants is of no effect without feature_cache: give a folder, or 'memory'."
            raise ValueError(msg)

    def _build(self, arguments: Arguments) -> None:
        if arguments.given["compile"]:
            check_compiler()
        backbone, pretrained = self._clip_names(arguments)
        clip = self._build_clip(backbone, pretrained, arguments)
        paper = {**self.paper_arguments(clip), "quick_gelu": self.QUICK_GELU}
        self._say_lengths(arguments.learned, paper)
        values = {name: plain(name, arguments.choose(name, paper.get(name))) for name in self._argument_names()}
        values |= {"backbone": backbone, "pretrained": pretrained, "image_size": list(clip.vision.image_size)}
        given = arguments.components["pre_processor"]
        normalized = given if isinstance(given, ClipPreProcessor) else clip
        values |= {"mean": list(normalized.mean), "std": list(normalized.std)}
        self.model = self.build_model(clip, values)
        if values["compile"]:
            compile_blocks([*clip.vision.blocks, *clip.text.blocks])
        self.hparams.pop("predictions", None)  # anomalib leaves out its own components alone
        self.hparams.update(values)
        self._hparams_initial = {**self.hparams}  # what loggers write
        if arguments.components["pre_processor"] is True:
            self.pre_processor = ClipPreProcessor(clip.vision.image_size, clip.mean, clip.std)
        if arguments.components["post_processor"] is True:
            self.post_processor = ProbabilityPostProcessor(values["false_alarm_rate"])

    def _build_clip(self, name: str, pretrained: str | None, arguments: Arguments) -> Backbone:
        quick_gelu = arguments.choose("quick_gelu", self.QUICK_GELU)
        clip = Backbone(
            name,
            pretrained,
            quick_gelu=quick_gelu,
            image_size=arguments.choose("image_size", default_image_size(name, self.PAPER_SIZE)),
            mean=arguments.choose("mean", None),
            std=arguments.choose("std", None),
            **self.POSITIONS,
        )
        as_in_paper = pretrained == self.PAPER_CLIP[1] and quick_gelu == self.QUICK_GELU
        if not as_in_paper and clip.trained_with_quick_gelu not in {None, quick_gelu}:
            trained, here = ("GELU", "QuickGELU") if quick_gelu else ("QuickGELU", "GELU")
            logger.warning("CLIP %s (%s) was trained with %s, but runs with %s here.", name, pretrained, trained, here)
            logger.warning("Its features suffer from that: give quick_gelu=%s, unless you mean it.", not quick_gelu)
        return clip

    @staticmethod
    def _say_lengths(learned: LearnedWeights | None, paper: Mapping[str, Any]) -> None:
        """Say if a reference checkpoint's prompts are not as the paper's: nothing else tells."""
        if learned and not learned.record and any(paper.get(name) != value for name, value in learned.told.items()):
            logger.warning("The prompts in %s have %s: the model is made to fit.", learned.path, learned.lengths)

    def _clip_names(self, arguments: Arguments) -> tuple[str, str | None]:
        """Return the backbone and its pretrained tag or file; a tag belongs to the backbone that it came with."""
        name = arguments.choose("backbone", self.PAPER_CLIP[0])
        recorded = arguments.learned.arguments if arguments.learned else {}
        if "pretrained" in arguments.given:
            return name, arguments.given["pretrained"]
        if "pretrained" in recorded and recorded.get("backbone") == name:
            return name, recorded["pretrained"]
        return name, None if name == TOY else self.PAPER_CLIP[1]

    def paper_arguments(self, clip: Backbone) -> dict[str, Any]:
        """Return the paper's values for this CLIP, for arguments that are left open; others stay ``None``."""
        del clip
        return {}

    def build_model(self, clip: Backbone, arguments: Mapping[str, Any]) -> nn.Module:
        """Build the torch model from those of the arguments that it takes."""
        taken = (inspect.signature(self.MODEL).parameters.keys() & arguments.keys()) - {"backbone"}
        return self.MODEL(clip, **{name: arguments[name] for name in taken})

    # ---- how anomalib runs the model ----

    def categories(self, batch: Batch) -> list[str | None]:
        """Say what each image of a batch belongs to: its own category, else, where batches know none, the data's."""
        known = categories_of(batch)
        return known if isinstance(batch, CategoryBatch) else [self.category] * len(known)

    def class_names(self, categories: Sequence[str | None]) -> list[str]:
        """Name what images of some categories show: ``class_name`` for all, else the category, else "object"."""
        return class_names_of(categories, self.hparams.get("class_name"))

    def context(self, categories: Sequence[str | None]) -> dict[str, Any]:
        """Return what the torch model takes beside images of some categories, one for each image or one for all."""
        return {"class_names": self.class_names(categories)} if self._takes_class_names else {}

    @property
    def _takes_class_names(self) -> bool:
        return isinstance(self.model, TakesClassNames)

    def _check_class_names(self, names: Sequence[str]) -> None:
        """Make sure, before anything long starts, that what images show can be put in words."""
        if self._takes_class_names:
            self.model.check_class_names(names)

    def forward(self, batch: torch.Tensor, *args: Any, **kwargs: Any) -> InferenceBatch:
        """Pre-process images ``(B, 3, H, W)``, 0..1, detect anomalies, post-process scores and maps."""
        del args, kwargs
        if is_exporting():
            return self._detect(batch)
        with torch.no_grad():
            return self._detect(batch)

    def _detect(self, batch: torch.Tensor) -> InferenceBatch:
        images = self.pre_processor(batch) if self.pre_processor else batch
        predictions = self.model(images, **self.context([self.category]))
        return self.post_processor(predictions) if self.post_processor else predictions

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Any:
        """Predict scores and maps of a batch."""
        del args, kwargs
        predictions = self.model(batch.image, **self.context(self.categories(batch)))
        return batch.update(**predictions._asdict())

    test_step = validation_step
    predict_step = validation_step

    def val_dataloader(self) -> list[DataLoader]:
        """Return no loader: where no datamodule brings validation data, validation does nothing.

        anomalib validates zero-shot models before each prediction, to fit thresholds; a folder of images has nothing to
        validate on, and scores are probabilities that 0.5 divides.
        """
        return []

    @property
    def learns(self) -> bool:
        """Whether fitting trains: not with learned weights, unless ``fine_tune`` says so."""
        return self.LEARNS and (self.arguments.learned is None or self.hparams["fine_tune"])

    @property
    def learning_type(self) -> LearningType:
        """``ONE_CLASS`` (anomalib's word for models that train) unless learned weights were given."""
        return LearningType.ONE_CLASS if self.learns else LearningType.ZERO_SHOT

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

    @classmethod
    def configure_visualizer(cls) -> HeatmapVisualizer:
        """Configure pictures that say label, score and threshold."""
        return HeatmapVisualizer()

    # ---- training ----

    def configure_augmentation(self) -> nn.Module | None:
        """Configure what changes a training batch's images and masks; nothing by default."""
        return None

    def configure_callbacks(self) -> list[Callback]:
        """Prepare training images first, run anomalib's components, write the table of predictions last."""
        components = super().configure_callbacks()
        components = components if isinstance(components, Sequence) else [components]
        given = self.arguments.components["predictions"]
        table = [Predictions()] if given is True else [given] if given else []
        if not (self.learns and self.hparams["feature_cache"]):
            return [TrainingImages(self.configure_augmentation()), *components, *table]
        kept = KeepFeatures(*(self.hparams[name] for name in ("feature_cache", "cache_size", "cache_dtype")))
        images = TrainingImages(self.configure_augmentation(), self.hparams["cache_variants"])
        return [images, kept, *components, *table]

    def frozen_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what of the model's features of training images never changes, from the cache where there is one."""
        with torch.no_grad():
            if self.feature_cache is None:
                return self.model.frozen_features(images)
            return self.feature_cache.lookup(images, self.model.frozen_features)

    def features_made_with(self) -> dict[str, Any]:
        """Return all that the features of a training image depend on beside its pixels, as plain data."""
        arguments = {name: self.hparams[name] for name in ("quick_gelu", *self.FEATURES_DEPEND_ON)}
        return {"model": type(self).__name__, **arguments, "tower": weights_hash(self.model.backbone.vision)}

    @LightningModule.trainer.setter  # type: ignore[attr-defined]
    def trainer(self, trainer: Any) -> None:
        """Take a trainer; where the user gave it no limit, it trains for the paper's number of epochs.

        Once it runs, Lightning's own 1,000 can no longer be told from a user's.
        """
        LightningModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]
        if trainer is None or any(isinstance(callback, Timer) for callback in trainer.callbacks):
            return
        if trainer.max_epochs is None and trainer.max_steps == -1:
            trainer.fit_loop.max_epochs = self.PAPER_EPOCHS

    def setup(self, stage: str) -> None:
        """Make ready: know what the images show, and that it can be put in words, before anything long starts.

        Raises:
            ValueError: If a class name is too long, or learning is asked for in a precision that has no room for it.
        """
        super().setup(stage)
        if stage == "fit" and self.learns and self.trainer.precision == "16-true":
            msg = "Nothing can be learned in 16-true: what Adam divides by is zero in float16. Give bf16-true or mixed "
            msg += "precision; what was learned can be tested in 16-true."
            raise ValueError(msg)
        datamodule = getattr(self.trainer, "datamodule", None)
        self.category = getattr(datamodule, "category", None) or self.category
        self._check_class_names(self.class_names([self.category, *_categories(datamodule)]))
        if stage == "fit" and self.arguments.learned is None:
            logger.info("Training for %s epochs.", self.trainer.max_epochs)

    def on_test_start(self) -> None:
        """Say so if nothing was learned, now that a checkpoint was restored."""
        if self.LEARNS and not self.has_learned:
            logger.warning("%s", self.nothing_learned)

    on_predict_start = on_test_start

    # ---- learned weights ----

    @classmethod
    def read_weights(cls, weights: str | Path | None) -> LearnedWeights | None:
        """Read a file of learned weights, see :func:`read_learned_weights`."""
        if weights is None:
            return None
        learned = read_learned_weights(weights, cls.__name__, cls.REFERENCE_KEYS, cls.REFERENCE_COMPANIONS)
        return cls._check_learned(learned)

    @classmethod
    def _check_learned(cls, learned: LearnedWeights) -> LearnedWeights:
        """Check what a file says its weights were made with, and add what the tensors themselves tell."""
        recorded = check_arguments(cls, learned.arguments, str(learned.path))
        told = {name: tell(learned.state) for name, tell in cls.LENGTHS.items()}
        told = {name: value for name, value in told.items() if value is not None}
        wrong = [f"{name} {recorded[name]}" for name in told if recorded.get(name, told[name]) != told[name]]
        if wrong:
            msg = f"{learned.path} is damaged: its tensors are not those of {', '.join(wrong)}, as it says."
            raise ValueError(msg)
        arguments = {name: value for name, value in {**recorded, **told}.items() if name not in cls.OF_THE_RUN}
        return replace(learned, arguments=arguments, told=told)

    def load_weights(self, learned: LearnedWeights) -> None:
        """Fill the model with learned weights.

        Raises:
            ValueError: If they were learned on another CLIP or with other arguments.
        """
        self._restore(learned)
        learned = replace(learned, state=fit_shapes(learned.state, self.state_dict()))
        check_fit(learned, self.state_dict())
        self.load_state_dict(learned.state, strict=False)

    def save_weights(self, path: str | Path) -> Path:
        """Write what was learned, with the thresholds, to a ``.safetensors`` file for ``weights=``."""
        return write_learned_weights(path, self.state_dict(), self._record())

    def on_train_epoch_end(self) -> None:
        """Leave the learned weights beside the checkpoints after each epoch: a run that is stopped has them too."""
        self.has_learned = True
        self._leave_weights()

    def on_fit_end(self) -> None:
        """Leave the learned weights, now with the last thresholds, and say where."""
        if path := self._leave_weights():
            logger.info("Learned weights are in %s; use them with --model.weights.", path)

    def on_validation_end(self) -> None:
        """Leave thresholds and references where training would leave what it learned, if nothing is trained.

        anomalib validates such models instead of training them; a validation by itself has no folder of its own.
        """
        if not self.learns and self.name in Path(self.trainer.default_root_dir).parts:
            self.on_fit_end()

    def _leave_weights(self) -> Path | None:
        trainer = self.trainer
        if not trainer.is_global_zero or trainer.fast_dev_run or trainer.barebones:
            return None
        return self.save_weights(Path(trainer.default_root_dir) / "weights" / "learned.safetensors")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the checkpoint is, and what its weights were made with."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[RECORD] = self._record()
        # What the weights held is in the checkpoint now, and where it is loaded there may be no compiler.
        checkpoint["hyper_parameters"] = {**self.hparams, "weights": None, "compile": False}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make this the model that the checkpoint was written by, but for arguments that the user gave."""
        learned = self._check_learned(from_checkpoint(Path("The checkpoint"), type(self).__name__, checkpoint))
        is_open = learned.arguments.keys() - self.arguments.given.keys()
        if any(self.hparams[name] != learned.arguments[name] for name in is_open):
            logger.info("The checkpoint's arguments take the place of those that were left open.")
            self._build(replace(self.arguments, learned=learned))
            self.model.to(self.device).train(self.training)
        self._restore(learned)
        super().on_load_checkpoint(checkpoint)
        checkpoint["state_dict"] = fit_shapes(learned.state, self.state_dict())
        check_fit(replace(learned, state=checkpoint["state_dict"]), self.state_dict())

    def _record(self) -> dict[str, Any]:
        """Plain data that says what learned weights are, and all that a result with them depends on."""
        return {
            "model": type(self).__name__,
            "version": anomalib_clipzoo.__version__,
            "arguments": {name: value for name, value in self.hparams.items() if name not in self.OF_THE_RUN},
            "fingerprint": self.model.backbone.fingerprint(),
            "category": self.category or "",
            "components": {name: component_record(getattr(self, name)) for name in KNOWN_COMPONENTS},
        }

    def _restore(self, learned: LearnedWeights) -> None:
        """Take over what a file says beside arguments and tensors; the papers' checkpoints say nothing."""
        self.has_learned = True
        if not learned.record:
            return
        self._check_clip(learned)
        self.category = learned.record.get("category") or self.category
        for name, record in learned.record.get("components", {}).items():
            if name not in KNOWN_COMPONENTS or not isinstance(record, dict) or not {"type", "config"} <= record.keys():
                msg = f"{learned.path} is damaged: what it says of the component {name!r} cannot be read."
                raise ValueError(msg)
            if self.arguments.components[name] is True:
                setattr(self, name, restored_component(name, getattr(self, name), record, learned.path))

    def _check_clip(self, learned: LearnedWeights) -> None:
        recorded, own = learned.record["arguments"], self.hparams
        same_activation = recorded.get("quick_gelu", own["quick_gelu"]) == own["quick_gelu"]
        if same_activation and learned.record.get("fingerprint") == self.model.backbone.fingerprint():
            return
        theirs, ours = (
            f"{a.get('backbone')!r} (pretrained {a.get('pretrained')!r}, quick_gelu {a.get('quick_gelu')})"
            for a in (recorded, own)
        )
        msg = (
            f"{learned.path} was learned on backbone {theirs}, but this model stands on {ours}: give it the same CLIP."
        )
        raise ValueError(msg)


def component_record(component: Any) -> dict[str, Any]:
    """Say in plain data what a pre- or post-processor is."""
    config = component.checkpoint_config() if hasattr(component, "checkpoint_config") else {}
    return {"type": type(component).__name__, "config": config}


def restored_component(name: str, component: Any, record: Mapping[str, Any], path: Path) -> Any:
    """Return the component that a file was written with, in place of the default one.

    Raises:
        ValueError: If it is of a type that only the user's own program knows.
    """
    kind = record["type"]
    if kind == "NoneType":
        return None
    if kind not in KNOWN_COMPONENTS[name]:
        msg = f"{path} was made with a {name} of type {kind}: give it as {name}=, results depend on it."
        raise ValueError(msg)
    if type(component).__name__ != kind:
        component = KNOWN_COMPONENTS[name][kind]()
    component.load_checkpoint_config(record["config"])
    return component


def _categories(datamodule: Any) -> set[str]:
    """Return all categories of a datamodule's images."""
    datasets = [getattr(datamodule, name, None) for name in ("train_data", "val_data", "test_data")]
    tables = [dataset.samples for dataset in datasets if dataset is not None and "category" in dataset.samples]
    return {category for table in tables for category in table["category"].dropna()}
