# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What holds for the arguments of every model: checked, saved with what is learned, and brought back with it."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Trainer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torchvision.transforms.v2 import Compose, Normalize, Resize

import anomalib_clipzoo
from anomalib_clipzoo.clip import backbone
from anomalib_clipzoo.models.components.arguments import COMPONENTS
from anomalib_clipzoo.models.components.module import ClipZooModule
from anomalib_clipzoo.models.components.pre_processor import ClipPreProcessor
from anomalib_clipzoo.models.components.weights import RECORD
from anomalib_clipzoo.results.predictions import Predictions
from anomalib_clipzoo.results.visualizer import HeatmapVisualizer
from tests.tiny import write_tiny_clip

MODELS = [
    getattr(anomalib_clipzoo, name)
    for name in anomalib_clipzoo.__all__
    if issubclass(getattr(anomalib_clipzoo, name), ClipZooModule)
]
LEARNING = [model for model in MODELS if model.LEARNS]

# A value for each argument that a result depends on, other than what stands where it is left open.
OTHERWISE = {
    "quick_gelu": lambda model: not model.QUICK_GELU,
    "mean": [0.5, 0.4, 0.6],
    "std": [0.5, 0.3, 0.2],
    "image_size": [48, 32],
    "layers": [2, 3],
    "prompt_len": 3,
    "deep_prompt_len": 2,
    "use_global": False,
    "branch": "base",
    "base_weight": 0.7,
    "normal_prompts": ["a fine {}"],
    "abnormal_prompts": ["a bad {}"],
    "test_normal_prompts": ["a faultless {}"],
    "test_abnormal_prompts": ["a broken {}"],
    "top_pixels": 7,
    "sigma": 2.5,
    "dpam_layer": 2,
    "local_attention": "qq",
    "normal_states": ["fine {}"],
    "abnormal_states": ["bad {}", "torn {}"],
    "class_name": "gear",
    "n_ctx": 5,
    "depth": 2,
    "t_n_ctx": 2,
    "half_prompts": lambda model: model.__name__ == "AdaClip",
    "prompting_depth": 2,
    "prompting_length": 3,
    "prompting_branch": "V",
    "prompting_type": "S",
    "hsf": "most_anomalous",
    "k_clusters": 3,
    "templates": ["a sketch of a {}."],
    "scales": [1, 3],
    "stride": 1,
    "variant": "caoyunkang",
    "temperature": 0.3,
    "aggregation": "normal",
    "image_term": False,
    "patch_term": "none",
    "reference_mean": "arithmetic",
    "fusion": "harmonic",
    "score": "map",
    "tidy": True,
    "window_batch": 4,
    "precision": "bfloat16",
    "r_list": [1, 5],
    "interval": [0.2, 0.7],
    "rescore_windows": [1, 4],
    "set_size": 6,
    "divide_by_folder": True,
    "distance_precision": "int8",
    "release": "first",
    "false_alarm_rate": 0.2,
    "reference_layers": [1, 3],
    "reference_weight": 0.3,
    "coreset_ratio": 0.5,
    "reference_block": 3,
    "min_max": True,
    "image_token": "replace_prefix",
    "image_token_at_test": True,
    "scorebase_pooling": False,
    "soft_mean": False,
    "upsampling": "bilinear",
}
# They bear on training alone, so that a run may well want others: they are recorded, but do not come back.
OF_TRAINING = {
    *("lr", "temperature_lr", "local_weight", "image_weight", "image_token_prob", "augment", "dice_per_row"),
}


def open_arguments(model) -> list[str]:
    names = inspect.signature(model).parameters.keys() - COMPONENTS - model.OF_THE_RUN - OF_TRAINING
    return sorted(names - {"backbone", "pretrained"})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(params=MODELS, ids=lambda model: model.__name__)
def model_class(request):
    return request.param


@pytest.fixture(params=LEARNING, ids=lambda model: model.__name__)
def learning_class(request):
    return request.param


def build(model_class, tiny, **arguments):
    return model_class(**{"backbone": tiny, "pretrained": None, "visualizer": False, **arguments}).eval()


def predict(model) -> torch.Tensor:
    images = torch.rand(6, 3, 40, 50, generator=torch.Generator().manual_seed(1))  # a set for MuSc
    with torch.no_grad():
        return model(images).anomaly_map


def cases():
    return [(model, name) for model in MODELS for name in open_arguments(model)]


@pytest.mark.parametrize(("model_class", "name"), cases(), ids=lambda value: getattr(value, "__name__", value))
def test_every_argument_comes_back_with_weights_and_checkpoint(model_class, name, tiny, tmp_path):
    value = OTHERWISE[name]
    value = value(model_class) if callable(value) else value
    model = build(model_class, tiny, **{name: value})
    assert model.hparams[name] == value != build(model_class, tiny).hparams[name] or name == "stride"
    path = model.save_weights(tmp_path / "learned.safetensors")
    again = model_class(weights=path, visualizer=False).eval()  # neither backbone nor anything else is typed again
    assert again.hparams[name] == value
    assert again.hparams.backbone == tiny
    assert torch.equal(predict(again), predict(model))
    checkpoint = checkpoint_of(model)
    opened = model_class(backbone=tiny, pretrained=None, visualizer=False).eval()
    opened.on_load_checkpoint(checkpoint)
    opened.load_state_dict(checkpoint["state_dict"])
    assert torch.equal(predict(opened), predict(model))


def checkpoint_of(model) -> dict:
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(checkpoint)
    return checkpoint


def test_what_the_user_gives_comes_before_what_weights_bring(model_class, tiny, tmp_path):
    path = build(model_class, tiny, image_size=48).save_weights(tmp_path / "learned.safetensors")
    assert build(model_class, tiny, weights=path).hparams.image_size == [48, 48]
    assert model_class(weights=path, image_size=64, visualizer=False).hparams.image_size == [64, 64]


def test_the_datas_category_comes_back(model_class, tiny, tmp_path):
    model = build(model_class, tiny)
    model.category = "gear"
    again = model_class(weights=model.save_weights(tmp_path / "learned.safetensors"), visualizer=False).eval()
    assert again.category == "gear"
    assert torch.equal(predict(again), predict(model))


@pytest.mark.parametrize(
    "arguments",
    [
        {"image_size": np.array([48, 32])},
        {"sigma": np.float32(2.5), "image_size": np.int64(48)},
        {"layers": {2, 4}},
        {"lr": np.float32(5e-4)},
    ],
    ids=str,
)
def test_numbers_of_numpy_are_saved(arguments, model_class, tiny, tmp_path):
    names = inspect.signature(model_class).parameters
    model = build(model_class, tiny, **{name: value for name, value in arguments.items() if name in names})
    path = model.save_weights(tmp_path / "learned.safetensors")
    assert model_class(weights=path, visualizer=False).hparams.image_size == model.hparams.image_size
    torch.save(checkpoint_of(model), tmp_path / "model.ckpt")
    torch.load(tmp_path / "model.ckpt", weights_only=True)


@pytest.mark.parametrize(
    "arguments",
    [
        {"sigma": -1},
        {"sigma": float("nan")},
        {"sigma": 1e9},
        {"temperature": float("nan")},
        {"base_weight": 1e9},
        {"use_global": "perhaps"},
        {"dpam_layer": 1.5},
        {"lr": float("inf")},
        {"window_batch": float("nan")},
        {"class_name": ""},
        {"class_name": "  "},
        {"image_size": 10**9},
        {"image_size": [16, -16]},
        {"layers": "all"},
        {"layers": [1, None]},
        {"normal_states": [3]},
        {"k_shot": -1},
        {"k_shot": True},
        {"reference_weight": 1.1},
        {"coreset_ratio": 0},
        {"reference_block": 0},
        {"false_alarm_rate": 0},
        {"mean": [0.5, 0.5]},
        {"mean": [127, 127, 127]},
        {"std": [0.5, 0.5, 0]},
        {"false_alarm_rate": 1.0},
        {"lr": {"a": "dictionary"}},
        {"weights": ""},
    ],
    ids=str,
)
def test_nonsense_is_refused_by_name(arguments, model_class, tiny):
    ((name, _),) = arguments.items()
    if name not in inspect.signature(model_class).parameters:
        pytest.skip("not an argument of this model")
    with pytest.raises((ValueError, FileNotFoundError), match=f"{name}|weights at"):
        build(model_class, tiny, **arguments)


def test_words_for_yes_and_no_mean_what_they_say(tiny):
    assert build(anomalib_clipzoo.VcpClip, tiny, use_global="false").hparams.use_global is False


# ---- what a file says ----


def rewrite(path: Path, change) -> Path:
    """Change the record of a file of learned weights, or its tensors."""
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()[RECORD])
    tensors = load_file(path)
    record = change(record, tensors) or record
    save_file(tensors, path, {RECORD: json.dumps(record)})
    return path


DAMAGE = {
    "no arguments": lambda record, _: {**record, "arguments": [1, 2]},
    "a number for a name": lambda record, _: {**record, "model": 3},
    "no fingerprint": lambda record, _: {**record, "fingerprint": None},
    "a list": lambda record, _: [record],
    "nonsense sigma": lambda record, _: {**record, "arguments": {**record["arguments"], "sigma": "wide"}},
    "huge image": lambda record, _: {**record, "arguments": {**record["arguments"], "image_size": 10**12}},
    "a newer argument": lambda record, _: {**record, "arguments": {**record["arguments"], "from_the_future": 1}},
    "not a number": lambda _, tensors: fill(tensors, torch.nan),
    "infinite": lambda _, tensors: fill(tensors, torch.inf),
    "whole numbers": lambda _, tensors: tensors.update({first_of(tensors): tensors[first_of(tensors)].int()}),
    "complex numbers": lambda _, tensors: tensors.update({first_of(tensors): tensors[first_of(tensors)].cfloat()}),
    "a tensor missing": lambda _, tensors: drop(tensors, first_of(tensors)),
    "thresholds missing": lambda _, tensors: drop(tensors, "post_processor._image_threshold"),
}


def fill(tensors: dict[str, torch.Tensor], value: float) -> None:
    tensors[first_of(tensors)].fill_(value)


def drop(tensors: dict[str, torch.Tensor], name: str) -> None:
    del tensors[name]


def first_of(tensors: dict[str, torch.Tensor]) -> str:
    return min(name for name, value in tensors.items() if name.startswith("model.") and value.is_floating_point())


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_by_name(damage, learning_class, tiny, tmp_path):
    path = build(learning_class, tiny).save_weights(tmp_path / "learned.safetensors")
    with pytest.raises(ValueError, match=r"learned\.safetensors"):
        build(learning_class, tiny, weights=rewrite(path, DAMAGE[damage]))


def test_prompts_that_a_file_says_it_has_must_be_there(tiny, tmp_path):
    path = build(anomalib_clipzoo.VcpClip, tiny).save_weights(tmp_path / "learned.safetensors")

    def drop_prompts(_, tensors):
        for name in [name for name in tensors if name.startswith("model.deep_prompts.")]:
            drop(tensors, name)

    with pytest.raises(ValueError, match="damaged: its tensors are not those of deep_prompt_len 1, as it says"):
        build(anomalib_clipzoo.VcpClip, tiny, weights=rewrite(path, drop_prompts))


def test_crane_is_not_anomaly_clip(tiny, tmp_path):
    width, context = 32, 12
    state = {f"ctx_{kind}": torch.zeros(1, 1, context, width) for kind in ("pos", "neg")}
    state |= {f"token_prefix_{kind}": torch.zeros(1, 1, 1, width) for kind in ("pos", "neg")}
    state |= {f"compound_prompts_text.{layer}": torch.zeros(4, width) for layer in range(2)}
    torch.save({"prompt_learner": state}, tmp_path / "crane_epoch_5.pth")
    with pytest.raises(ValueError, match=r"not a checkpoint of AnomalyClip's.*compound_prompt_projections"):
        build(anomalib_clipzoo.AnomalyClip, tiny, weights=tmp_path / "crane_epoch_5.pth")


def test_learned_weights_have_the_mode_that_the_umask_says(tiny, tmp_path):
    (tmp_path / "plain").write_text("")
    path = build(anomalib_clipzoo.VcpClip, tiny).save_weights(tmp_path / "learned.safetensors")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert {file.name for file in tmp_path.iterdir()} == {"plain", "learned.safetensors"}


# ---- components ----


def test_thresholds_come_back_with_what_they_were_fitted_on(model_class, tiny, tmp_path):
    model = build(model_class, tiny, false_alarm_rate=0.2)
    model.post_processor._image_threshold.fill_(0.25)
    model.post_processor._pixel_threshold.fill_(0.75)
    model.post_processor._write_provenance({"false_alarm_rate": 0.2, "normal_images": 9})
    again = model_class(weights=model.save_weights(tmp_path / "learned.safetensors"), visualizer=False).eval()
    assert again.post_processor.provenance == {"false_alarm_rate": 0.2, "normal_images": 9}
    assert again.post_processor.false_alarm_rate == 0.2
    assert torch.equal(predict(again), predict(model))


def test_components_of_the_users_own_come_back(model_class, tiny, tmp_path):
    transform = Compose([Resize((32, 32), antialias=True), Normalize([0.5] * 3, [0.5] * 3)])
    model = build(model_class, tiny, pre_processor=PreProcessor(transform), post_processor=PostProcessor())
    path = model.save_weights(tmp_path / "learned.safetensors")
    again = model_class(weights=path, visualizer=False).eval()
    assert type(again.post_processor) is PostProcessor
    assert torch.equal(predict(again), predict(model))
    bare = build(model_class, tiny, post_processor=False)
    path = bare.save_weights(tmp_path / "bare.safetensors")
    assert model_class(weights=path, visualizer=False).post_processor is None


def test_pixel_statistics_of_the_users_own_pre_processor_come_back(model_class, tiny, tmp_path):
    own = ClipPreProcessor((32, 32), mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
    model = build(model_class, tiny, pre_processor=own)
    again = model_class(weights=model.save_weights(tmp_path / "learned.safetensors"), visualizer=False).eval()
    assert again.pre_processor.mean == (0.5, 0.5, 0.5)
    assert torch.equal(predict(again), predict(model))
    given = model_class(weights=tmp_path / "learned.safetensors", mean=[0.4, 0.4, 0.4], visualizer=False)
    assert (given.pre_processor.mean, given.pre_processor.std) == ((0.4, 0.4, 0.4), (0.25, 0.25, 0.25))


def test_another_activation_than_in_training_is_said(model_class, tiny, monkeypatch, caplog):
    trained = not model_class.QUICK_GELU
    monkeypatch.setattr(backbone, "trained_with_quick_gelu", lambda *_: trained)
    build(model_class, tiny)
    assert f"give quick_gelu={trained}" in caplog.text
    caplog.clear()
    build(model_class, tiny, quick_gelu=trained)
    assert "quick_gelu" not in caplog.text


def test_a_component_that_only_the_user_has_is_asked_for(tiny, tmp_path):
    class Own(PreProcessor):
        pass

    model_class = anomalib_clipzoo.VcpClip
    transform = Resize((32, 32), antialias=True)
    path = build(model_class, tiny, pre_processor=Own(transform)).save_weights(tmp_path / "learned.safetensors")
    with pytest.raises(ValueError, match="pre_processor of type Own: give it as pre_processor="):
        build(model_class, tiny, weights=path)
    assert build(model_class, tiny, weights=path, pre_processor=Own(transform)).pre_processor


def test_the_table_of_predictions_is_on_unless_it_is_turned_off(model_class, tiny):
    kinds = [
        [type(callback) for callback in build(model_class, tiny, predictions=on).configure_callbacks()]
        for on in (True, False)
    ]
    assert kinds[0] == [*kinds[1], Predictions]
    own = Predictions(worst=3)
    assert build(model_class, tiny, predictions=own).configure_callbacks()[-1] is own
    assert isinstance(model_class(backbone=tiny, pretrained=None).visualizer, HeatmapVisualizer)


# ---- training ----


@pytest.mark.parametrize(
    ("limits", "epochs"),
    [
        ({}, None),
        ({"max_epochs": 1000}, 1000),
        ({"max_epochs": 3}, 3),
        ({"max_steps": 5}, -1),
        ({"max_time": {"hours": 1}}, -1),
    ],
    ids=str,
)
def test_epochs_are_the_papers_unless_the_user_says_how_long(limits, epochs, learning_class, tiny, tmp_path):
    model = build(learning_class, tiny)
    trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_checkpointing=False, **limits)
    seen = []
    model.setup = lambda stage: seen.append(trainer.max_epochs)
    model.train_dataloader = lambda: torch.utils.data.DataLoader([0])
    model.on_fit_start = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(SystemExit):
        trainer.fit(model)
    assert seen == [epochs if epochs is not None else learning_class.PAPER_EPOCHS]


def test_learned_weights_go_on_learning_where_that_is_wanted(learning_class, tiny, tmp_path):
    path = build(learning_class, tiny).save_weights(tmp_path / "learned.safetensors")
    assert build(learning_class, tiny, weights=path).learning_type is LearningType.ZERO_SHOT
    model = build(learning_class, tiny, weights=path, fine_tune=True)
    assert model.learning_type is LearningType.ONE_CLASS
    batch = ImageBatch(
        image=torch.rand(2, 3, 32, 32), gt_mask=torch.ones(2, 32, 32).bool(), gt_label=torch.ones(2).bool()
    )
    model.log = lambda *_, **__: None
    optimizer = model.configure_optimizers()
    before = {name: value.clone() for name, value in model.state_dict().items() if name.startswith("model.")}
    model.train().training_step(batch).backward()
    optimizer.step()
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items() if name in before)
