# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""AnomalyClip beyond its figures: arguments, states, streams, text features once, weights in and out, bad input."""

import copy
import logging
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
from torch.nn import functional

from anomalib_clipzoo.clip.attention import project_qkv
from anomalib_clipzoo.models.anomaly_clip import AnomalyClip
from tests.tiny import write_tiny_clip

PATCHES = 16


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


def build(tiny, **arguments) -> AnomalyClip:
    return AnomalyClip(**{"backbone": tiny, "pretrained": None, **arguments})


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def batch(count: int = 2) -> ImageBatch:
    masks = torch.zeros(count, 32, 32, dtype=torch.bool)
    masks[0, 4:20, 8:16] = True
    return ImageBatch(image=images(count), gt_mask=masks, gt_label=masks.flatten(1).any(dim=1))


def train_one_step(model: AnomalyClip, count: int = 2) -> torch.Tensor:
    """Take one optimizer step, as Lightning does."""
    model.log = lambda *_, **__: None
    optimizer = model.configure_optimizers()
    loss = model.training_step(batch(count))
    loss.backward()
    optimizer.step()
    return loss


# ---- arguments ----


def test_defaults_follow_the_backbone(tiny):
    model = build(tiny)
    assert model.hparams.image_size == [32, 32]
    assert model.hparams.layers == [4]  # the last alone
    assert (model.hparams.n_ctx, model.hparams.depth, model.hparams.t_n_ctx) == (12, 3, 4)
    assert model.model.dual_path.first_dual == 4 - round(4 * 20 / 24) + 2
    assert model.pre_processor.image_size == (32, 32)
    assert model.learning_type is LearningType.ONE_CLASS


@pytest.mark.parametrize("arguments", [{}, {"image_size": (32, 48)}, {"layers": [1, 2, 4]}, {"local_attention": "qq"}])
@torch.no_grad()
def test_scores_and_maps_are_probabilities(tiny, arguments):
    model = build(tiny, **arguments).eval()
    height, width = model.hparams.image_size
    output = model.model(torch.randn(3, 3, height, width))
    assert output.pred_score.shape == (3,)
    assert output.anomaly_map.shape == (3, height, width)
    for values in output.pred_score, output.anomaly_map:
        assert values.min() >= 0
        assert values.max() <= 1
        assert values.std() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": [2, 9]}, r"layers \[2, 9\].*from 1 to 4"),
        ({"layers": []}, r"layers \[\].*from 1 to 4"),
        ({"dpam_layer": 0}, r"dpam_layer=0 is not what AnomalyClip takes"),
        ({"dpam_layer": 6}, r"dpam_layer 6 is not within 1 .* to 5"),
        ({"local_attention": "qk"}, "local_attention='qk' is not what AnomalyClip takes: 'vv' or 'qq' or 'kk'"),
        ({"image_size": 50}, "multiple of the backbone's patch size 8"),
        ({"n_ctx": 0}, "n_ctx=0 is not what AnomalyClip takes: a whole number above 0"),
        ({"n_ctx": 73}, r"n_ctx 73 .*'damaged object.' make a prompt of 78 tokens.* room for 77"),
        ({"depth": 0}, "depth=0 is not what AnomalyClip takes"),
        ({"depth": 4}, "depth 4 is not within 1 .* to 3"),
        ({"t_n_ctx": 0}, r"t_n_ctx=0 is not what AnomalyClip takes"),
        ({"t_n_ctx": 13}, r"t_n_ctx 13 is not within 1 to n_ctx \(12\)"),
        ({"normal_states": []}, "at least one word each"),
        ({"abnormal_states": "damaged"}, r"abnormal_states='damaged' is not what AnomalyClip takes: a list of text"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message, tiny):
    with pytest.raises(ValueError, match=message):
        build(tiny, **arguments)


def test_longest_possible_prompt(tiny):
    assert build(tiny, n_ctx=72).eval().model(images()).pred_score.isfinite().all()


def test_depth_1_has_no_learned_tokens_inside(tiny):
    model = build(tiny, depth=1)
    assert {name for name, value in model.named_parameters() if value.requires_grad} == {
        "model.prompts.normal",
        "model.prompts.abnormal",
    }


# ---- states ----


@torch.no_grad()
def test_states_are_an_ensemble_that_shares_its_learned_words(tiny):
    states = ["damaged {}", "cracked", "{} with a missing part"]
    several = build(tiny, abnormal_states=states).model
    expected = []
    for state in states:
        alone = build(tiny, abnormal_states=[state]).model
        alone.load_state_dict(several.state_dict())
        expected.append(alone.encode_text()[1])
    text = several.encode_text()
    torch.testing.assert_close(text[1], functional.normalize(torch.stack(expected).mean(dim=0), dim=0))
    torch.testing.assert_close(text.norm(dim=-1), torch.ones(2))
    assert not torch.allclose(text[1], expected[0])


@torch.no_grad()
def test_a_state_without_a_gap_comes_before_the_object(tiny):
    model = build(tiny, normal_states=["{}", "", "perfect"], abnormal_states=["damaged"])
    model.model.prompts.abnormal.copy_(model.model.prompts.normal)
    plain, empty, _, damaged = model.model.prompts.encode(model.model.backbone.text)[0]
    other = build(tiny, class_name="gadget", abnormal_states=["damaged {}"]).model
    other.prompts.load_state_dict(model.model.prompts.state_dict())
    assert torch.equal(plain, empty)
    assert not torch.allclose(other.prompts.encode(other.backbone.text)[0, 1], damaged)  # another word for any object


# ---- the two streams ----


@torch.no_grad()
def test_class_token_is_that_of_plain_clip(tiny):
    model = build(tiny, layers=[2, 4]).model
    vision = model.backbone.vision
    expected = vision(images(), (4,)).tokens[0][:, 0]
    torch.testing.assert_close(model.dual_path(vision, images()).class_token, expected)


@torch.no_grad()
def test_without_dual_layers_the_local_stream_is_clips_own(tiny):
    model = build(tiny, layers=[2, 4], dpam_layer=1).model
    vision = model.backbone.vision
    for given, expected in zip(model.dual_path(vision, images()).local, vision(images(), (2, 4)).tokens, strict=True):
        torch.testing.assert_close(given, expected)


@pytest.mark.parametrize(("local_attention", "own"), [("qq", 0), ("kk", 1), ("vv", 2)])
@torch.no_grad()
def test_local_stream_of_one_dual_layer(tiny, local_attention, own):
    """Written out with plain matrix products: tokens plus attention of their own kind to values."""
    model = build(tiny, layers=[4], dpam_layer=2, local_attention=local_attention).model
    vision = model.backbone.vision
    tokens = vision(images(), (3,)).tokens[0]
    block = vision.blocks[3]
    projected = project_qkv(block.attn, block.ln_1(tokens))
    kind, value = projected[own], projected[2]
    weights = (kind @ kind.transpose(-2, -1) / kind.shape[-1] ** 0.5).softmax(dim=-1)
    attended = block.attn.out_proj((weights @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(model.dual_path(vision, images()).local[0], tokens + attended)


@torch.no_grad()
def test_nothing_is_computed_that_no_output_needs(tiny, monkeypatch):
    """Of the last layer's own stream only the class token goes on, and no local stream beyond the last tap."""
    rows, attentions = [], []
    attend = functional.scaled_dot_product_attention
    monkeypatch.setattr(
        "anomalib_clipzoo.clip.attention.functional.scaled_dot_product_attention",
        lambda query, *rest, **options: attentions.append(query.shape[-2]) or attend(query, *rest, **options),
    )
    model = build(tiny, layers=[2], dpam_layer=5).model
    for block in model.backbone.vision.blocks:
        block.mlp.register_forward_hook(lambda _module, inputs, _output: rows.append(inputs[0].shape[1]))
    model.dual_path(model.backbone.vision, images())
    everything = 1 + PATCHES
    assert rows == [everything, everything, everything, 1]
    assert attentions == [everything] * 2 + [everything] * 2 + [everything, 1]  # two dual layers, two plain ones


# ---- text features, once per set of prompts ----


@pytest.fixture
def counted(tiny):
    """A model in evaluation that counts how often texts are encoded."""
    model = build(tiny).model
    model.encoded = 0
    encode = model.encode_text

    def count() -> torch.Tensor:
        model.encoded += 1
        return encode()

    model.encode_text = count
    return model.eval()


@torch.no_grad()
def test_texts_are_encoded_once(counted):
    for _ in range(3):
        counted(images())
    assert counted.encoded == 1
    counted.train().eval()
    counted(images())
    assert counted.encoded == 1  # nothing has changed


def change_by_hand(module):
    with torch.no_grad():
        module.model.prompts.normal.copy_(torch.randn_like(module.model.prompts.normal))


def change_data(module):
    module.model.prompts.deep[0].data.mul_(-3)


def load(module):
    state = {name: value + 0.5 for name, value in module.state_dict().items() if ".prompts." in name}
    module.load_state_dict(state, strict=False)


def train_in_evaluation_mode(module):
    train_one_step(module)


def train_and_evaluate(module):
    train_one_step(module.train())
    module.eval()


@pytest.mark.parametrize(
    "change",
    [change_by_hand, change_data, load, train_in_evaluation_mode, train_and_evaluate],
)
def test_texts_are_never_stale(tiny, change):
    module = build(tiny).eval()
    before = module.model(images())
    change(module)
    with torch.no_grad():
        given = module.model(images())
        expected, _ = module.model.compare(module.model.image_features(images()), module.model.encode_text())
    torch.testing.assert_close(given.pred_score, expected.softmax(dim=-1)[:, 1])
    assert not torch.allclose(given.pred_score, before.pred_score)


def test_texts_encoded_without_gradient_do_not_hinder_later_training(tiny):
    module = build(tiny).eval()
    with torch.inference_mode():
        module.model(images())
    picture = images().requires_grad_()
    module.model(picture).pred_score.sum().backward()
    assert picture.grad.abs().sum() > 0
    assert train_one_step(module.train()).isfinite()


def test_exported_graph_holds_no_text_tower(tiny):
    module = build(tiny).eval()
    module.model(images())
    program = torch.export.export(module.model, (images(),))
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    used = {
        spec.target for spec in program.graph_signature.input_specs if spec.target and placeholders[spec.arg.name].users
    }
    assert not any(".text." in name or "prompts." in name for name in used)
    torch.testing.assert_close(program.module()(images()).pred_score, module.model(images()).pred_score)


def test_copies_and_half_precision(tiny):
    module = build(tiny).eval()
    expected = module.model(images()).anomaly_map
    torch.testing.assert_close(copy.deepcopy(module).model(images()).anomaly_map, expected)
    low = copy.deepcopy(module).bfloat16().model(images().bfloat16()).anomaly_map
    assert (low.float() - expected).abs().max() < 0.1


# ---- training ----


@pytest.mark.parametrize("arguments", [{}, {"layers": [1, 4]}, {"depth": 1}, {"abnormal_states": ["bent", "cut"]}])
def test_every_learned_parameter_takes_part(tiny, arguments):
    """Training on several devices breaks on a parameter without a gradient."""
    model = build(tiny, **arguments)
    train_one_step(model)
    for name, value in model.model.named_parameters():
        assert (value.grad is not None) == (not name.startswith("backbone.")), name


def test_a_batch_of_one_image_trains(tiny):
    model = build(tiny)
    before = model.model.prompts.normal.detach().clone()
    assert train_one_step(model, count=1).isfinite()
    assert not torch.equal(model.model.prompts.normal, before)


def test_weight_of_the_local_loss(tiny):
    model = build(tiny, local_weight=0.0)
    logits = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    labels = torch.tensor([True, False])
    maps = torch.rand(1, 2, 32, 32)
    expected = functional.cross_entropy(logits, labels.long())
    torch.testing.assert_close(model.loss(logits, maps, labels, torch.zeros(2, 32, 32)), expected)
    assert build(tiny).loss(logits, maps, labels, torch.zeros(2, 32, 32)) > expected


# ---- weights ----


def test_weights_out_and_in(tiny, tmp_path):
    torch.manual_seed(3)
    arguments = {"image_size": 48, "layers": [2, 4], "dpam_layer": 3, "local_attention": "kk"}
    arguments |= {"n_ctx": 5, "depth": 2, "t_n_ctx": 3, "abnormal_states": ["bent", "cut"], "class_name": "thing"}
    model = build(tiny, **arguments)
    again = build(tiny, weights=model.save_weights(tmp_path / "learned.safetensors"))
    pictures = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected, given = model.eval().model(pictures), again.eval().model(pictures)
    assert torch.equal(given.anomaly_map, expected.anomaly_map)
    assert torch.equal(given.pred_score, expected.pred_score)
    assert again.learning_type is LearningType.ZERO_SHOT


def reference_file(path: Path, *, n_ctx: int = 12, depth: int = 3, t_n_ctx: int = 4, width: int = 32) -> Path:
    """Write a checkpoint as the reference code does, with all that it saves."""
    shapes = {f"ctx_{kind}": (1, 1, n_ctx, width) for kind in ("pos", "neg")}
    for kind in ("pos", "neg"):
        shapes[f"token_prefix_{kind}"] = (1, 1, 1, width)
        shapes[f"token_suffix_{kind}"] = (1, 1, 76 - n_ctx, width)
    for index in range(depth - 1):
        shapes[f"compound_prompts_text.{index}"] = (t_n_ctx, width)
        shapes[f"compound_prompt_projections.{index}.weight"] = (896, width)
        shapes[f"compound_prompt_projections.{index}.bias"] = (896,)
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    state |= {f"tokenized_prompts_{kind}": torch.zeros(1, 1, 77, dtype=torch.int32) for kind in ("pos", "neg")}
    torch.save({"prompt_learner": state}, path)
    return path


def test_lengths_of_a_reference_checkpoint_win_with_one_line(tiny, tmp_path, caplog):
    path = reference_file(tmp_path / "epoch_15.pth", n_ctx=7, depth=2, t_n_ctx=3)
    with caplog.at_level(logging.INFO):
        model = build(tiny, weights=path)
    assert (model.hparams.n_ctx, model.hparams.depth, model.hparams.t_n_ctx) == (7, 2, 3)
    assert [record.getMessage() for record in caplog.records if "n_ctx" in record.getMessage()] == [
        f"The prompts in {path} have n_ctx 7, depth 2, t_n_ctx 3: the model is made to fit."
    ]
    state = torch.load(path, weights_only=True)["prompt_learner"]
    assert torch.equal(model.model.prompts.abnormal, state["ctx_neg"])
    assert torch.equal(model.model.prompts.deep[0], state["compound_prompts_text.0"])


def test_no_line_where_the_lengths_are_the_papers(tiny, tmp_path, caplog):
    build(tiny, weights=reference_file(tmp_path / "epoch_15.pth"))
    assert "made to fit" not in caplog.text


@pytest.mark.parametrize("given", [{"n_ctx": 12}, {"depth": 3}, {"t_n_ctx": 4}, {"n_ctx": 7, "t_n_ctx": 2}], ids=str)
def test_lengths_that_the_user_set_must_be_those_of_the_weights(given, tiny, tmp_path):
    path = reference_file(tmp_path / "epoch_15.pth", n_ctx=7, depth=2, t_n_ctx=3)
    with pytest.raises(ValueError, match=r"epoch_15.pth does not fit.* have n_ctx 7, depth 2, t_n_ctx 3: leave"):
        build(tiny, weights=path, **given)
    assert build(tiny, weights=path, n_ctx=7, depth=2, t_n_ctx=3).learning_type is LearningType.ZERO_SHOT


def test_reference_checkpoint_deeper_than_the_text_tower(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"depth 9 is not within 1 .* to 3"):
        build(tiny, weights=reference_file(tmp_path / "epoch_15.pth", depth=9))


def test_reference_checkpoint_of_another_width(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"does not fit this model.*prompts.abnormal is \(1, 1, 12, 48\) instead of"):
        build(tiny, weights=reference_file(tmp_path / "epoch_15.pth", width=48))


def test_reference_checkpoint_without_a_part(tiny, tmp_path):
    path = reference_file(tmp_path / "epoch_15.pth")
    state = torch.load(path, weights_only=True)
    del state["prompt_learner"]["ctx_neg"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"lacks model.prompts.abnormal"):
        build(tiny, weights=path)


def test_reference_checkpoint_of_another_model(tiny, tmp_path):
    torch.save({"prompt_embeddings": torch.zeros(1, 1, 32)}, tmp_path / "train_visa.pth")
    with pytest.raises(ValueError, match=r"not a checkpoint of AnomalyClip's reference code.*prompt_embeddings"):
        build(tiny, weights=tmp_path / "train_visa.pth")


def test_checkpoint_written_on_a_gpu_loads_without_one(tiny, tmp_path):
    path = reference_file(tmp_path / "epoch_15.pth")
    expected = build(tiny, weights=path).model.prompts.normal
    moved = tmp_path / "from_gpu.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(moved, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):  # where each storage says on which device it was
                assert b"X\x03\x00\x00\x00cpu" in content
                content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            target.writestr(name, content)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(moved, weights_only=True)
    model = build(tiny, weights=moved)
    assert torch.equal(model.model.prompts.normal, expected)
    assert model.model.prompts.normal.device.type == "cpu"


def test_checkpoints_hold_the_prompts_alone(tiny):
    module = build(tiny)
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": {}}
    module._trainer = SimpleNamespace(callbacks=[])
    module.on_save_checkpoint(checkpoint)
    held = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("model.")}
    assert all(not value.numel() for name, value in held.items() if name.startswith("model.references."))
    learned = {name for name in held if not name.startswith("model.references.")}
    assert learned == {f"model.prompts.{name}" for name in ("normal", "abnormal", "deep.0", "deep.1")}
