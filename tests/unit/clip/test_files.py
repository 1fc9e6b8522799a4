# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Files of weights from anywhere: none runs code, none is half understood."""

import io
import json
import random
import zipfile
from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file
from torch import nn

from anomalib_clipzoo.clip import Backbone
from anomalib_clipzoo.clip.config import asset
from anomalib_clipzoo.clip.files import check_tensors, load_clip_weights, read_file
from anomalib_clipzoo.clip.torchscript import read_torchscript
from anomalib_clipzoo.models.ada_clip import AdaClip
from anomalib_clipzoo.models.anomaly_clip import AnomalyClip
from anomalib_clipzoo.models.vcp_clip import VcpClip
from anomalib_clipzoo.models.win_clip_plus import WinClipPlus
from tests.tiny import TINY_CLIP, write_tiny_clip

ENDINGS = [".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".jit", ""]


@pytest.fixture
def config(tmp_path):
    return write_tiny_clip(tmp_path)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(1)
    return CLIP(**TINY_CLIP).state_dict()


# ---- TorchScript ----


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3).half())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Model(nn.Module):
    sizes: list[int]

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(Layer(), nn.Linear(3, 4))
        self.attention = nn.MultiheadAttention(4, 2)
        self.transposed = nn.Parameter(torch.randn(3, 5).T)
        self.part = nn.Parameter(torch.randn(4, 4)[1:3, 2:])
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.register_buffer("count", torch.tensor(224))
        self.same = self.transposed
        self.sizes = [1, 2, 3]
        self.word = "word"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[1](x) + len(self.sizes) + len(self.word)


class Writer(nn.Module):
    """TorchScript that writes into a file as soon as it is loaded."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, str, bool]:
        return self.weight, self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
        self.weight = torch.from_file(state[1], shared=True, size=8, dtype=torch.uint8).fill_(65)
        self.path, self.training = state[1], state[2]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("archive") / "model.pt"
    torch.jit.script(Model()).save(path)
    return path


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    path.write_bytes(bytes(8))
    return path


@pytest.fixture
def hostile(canary, tmp_path):
    path = tmp_path / "hostile.pt"
    torch.jit.script(Writer(str(canary))).save(path)
    canary.write_bytes(bytes(8))  # writing the archive may run its code
    return path


def rewritten(path: Path, target: Path, change) -> Path:
    """Copy an archive entry by entry: ``change`` returns the new content, or ``None`` to leave an entry out."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for info in source.infolist():
            content = change(info.filename.partition("/")[2], source.read(info))
            if content is not None:
                copy.writestr(info.filename, content, info.compress_type)
    return target


def test_torchscript_gives_the_tensors_that_torch_reads(archive):
    expected = torch.jit.load(archive).state_dict()
    given = read_torchscript(archive)
    assert set(given) == set(expected)
    for key, value in expected.items():
        assert torch.equal(given[key], value), key
        assert given[key].dtype == value.dtype
        assert given[key].stride() == value.stride()


def test_the_hostile_archive_is_one(hostile, canary):
    torch.jit.load(hostile)
    assert canary.read_bytes() == b"A" * 8


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_code_of_a_torchscript_archive_runs(ending, hostile, canary, config, tmp_path):
    path = hostile.rename(tmp_path / f"weights{ending}")
    with pytest.raises(ValueError, match=r"weights.*cannot be read as weights"):
        Backbone(config, path)
    for model in (AdaClip, AnomalyClip, VcpClip, WinClipPlus):
        with pytest.raises(ValueError, match=r"weights.*(cannot be read as weights|was not written by)"):
            model(backbone=config, pretrained=None, weights=path)
    assert canary.read_bytes() == bytes(8)


def test_the_way_out_is_said(hostile):
    with pytest.raises(ValueError, match=r"open it once with open_clip and save its state_dict as .safetensors"):
        read_file(hostile)


def test_code_behind_a_hidden_constants_file_does_not_run(hostile, canary, tmp_path):
    """Without the file by which they are told apart, the archive goes to ``torch.load``, which refuses it as well."""
    path = rewritten(hostile, tmp_path / "hidden.pt", lambda name, content: None if "constants" in name else content)
    with pytest.raises(ValueError, match=r"hidden.pt"):
        read_file(path)
    assert canary.read_bytes() == bytes(8)


def pickled(content: bytes, archive: Path, target: Path) -> Path:
    return rewritten(archive, target, lambda name, old: content if name == "data.pkl" else old)


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x005X\x03\x00\x00\x00cpuK\x10tQ"
NESTED = b")" + b"q\x00h\x00\x86" * 60  # a pair of pairs of pairs ...: to hash or print it would take for ever


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
        b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        b"\x80\x02" + STORAGE[:-1] + b".",  # no tensor at all
        b"\x80\x02}" + NESTED + b"K\x01(h\x00K\x01u.",
        b"\x80\x02}(" + NESTED + b"K\x01u.",
        b"\x80\x02}" + NESTED + b"b.",
        b"\x80\x02}}" + NESTED + b"K\x01\x86\x85b.",
        b"\x80\x02" + NESTED + b"Q.",
        b"\x80\x02(X\x07\x00\x00\x00storage" + NESTED + b"X\x01\x00\x00\x005X\x03\x00\x00\x00cpuK\x10tQ.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00J\x00\x00\x00\x7f\x85K\x00\x85t" + b"R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\xffK\x02\x85K\x01\x85t" + b"R.",
        b"\x80\x02r\xff\xff\xff\x7f.",
        b"\x80\x02e.",
        b"\x80\x02",
        b"",
        b".",
    ],
    ids=range(16),
)
def test_pickles_that_describe_no_modules(content, archive, tmp_path):
    path = pickled(content, archive, tmp_path / "changed.pt")
    try:
        assert read_torchscript(path) == {}
    except ValueError as error:
        assert len(str(error)) < 500  # noqa: PT017


def test_modules_within_themselves_end(archive, tmp_path):
    itself = b"\x80\x02}q\x00(X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00u."
    assert read_torchscript(pickled(itself, archive, tmp_path / "changed.pt")) == {}


def test_packed_or_mistaken_storages(archive, tmp_path):
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as copy:
        for name in source.namelist():
            copy.writestr(name, source.read(name))
    longer = rewritten(archive, tmp_path / "long.pt", lambda name, old: old + bytes(4) if name == "data/0" else old)
    lacking = rewritten(archive, tmp_path / "lack.pt", lambda name, old: None if name == "data/0" else old)
    other = rewritten(archive, tmp_path / "other.pt", lambda name, old: b"big" if name == "byteorder" else old)
    cases = {packed: "is packed", longer: "larger or smaller", lacking: "data/0", other: "byte order"}
    for path, message in cases.items():
        with pytest.raises(ValueError, match=message):
            read_torchscript(path)


def test_damaged_torchscript(archive, tmp_path):
    """Whatever byte changes: the tensors are the same, or the archive is refused."""
    expected, content = read_torchscript(archive), archive.read_bytes()
    path, refused = tmp_path / "damaged.pt", 0
    generator = random.Random(0)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged[: generator.choice([len(damaged), len(damaged), generator.randrange(len(damaged))])])
        try:
            given = read_file(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
        else:
            assert all(torch.equal(given[key], value) for key, value in expected.items())
    assert refused > 100


# ---- other files ----


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_of_torch(zipped, state, tmp_path):
    buffer = io.BytesIO()
    small = {key: value for key, value in state.items() if value.numel() < 40}
    torch.save(small, buffer, _use_new_zipfile_serialization=zipped)
    path, generator, refused = tmp_path / "damaged.pth", random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(buffer.getvalue())
        for _ in range(generator.choice([1, 1, 20])):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged[: generator.choice([len(damaged), generator.randrange(len(damaged))])])
        try:
            read_file(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((32,), float("nan")), "NaN or infinite"),
        (torch.full((32,), float("inf")), "NaN or infinite"),
        (torch.full((32,), 1e300, dtype=torch.float64), "NaN or infinite"),
        (torch.zeros(32, dtype=torch.int32), "torch.int32, not of floating-point"),
        (torch.zeros(32, dtype=torch.complex64), "torch.complex64, not of floating-point"),
        (torch.zeros(32, dtype=torch.bool), "torch.bool, not of floating-point"),
        (torch.zeros(32).to_sparse(), "plain tensors"),
        (torch.zeros(32, device="meta"), "plain tensors"),
        (torch.zeros(1).expand(10**12), "plain tensors"),
        (torch.zeros(33), r"is \(33,\) instead of \(32,\)"),
        ("words", "plain tensors"),
    ],
)
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_tensors_that_are_no_weights(value, message, ending, state, config, tmp_path):
    plain = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    if ending == ".safetensors" and (not plain or value.numel() > 100):
        pytest.skip("safetensors cannot hold it")
    path = tmp_path / f"clip{ending}"
    (save_file if ending == ".safetensors" else torch.save)({**state, "ln_final.bias": value}, path)
    with pytest.raises(ValueError, match=rf"clip{ending} .*{message}"):
        Backbone(config, path)


def test_weights_in_any_precision(state, config, tmp_path):
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        torch.save({key: value.to(dtype) for key, value in state.items()}, tmp_path / "clip.pt")
        given = Backbone(config, tmp_path / "clip.pt").vision.projection
        assert given.dtype == torch.float32
        torch.testing.assert_close(given, state["visual.proj"], atol=0.02, rtol=0.1)


def test_check_tensors_names_file_and_tensor():
    check_tensors(Path("a.pt"), {"fine": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"a.pt .*two has values that are NaN"):
        check_tensors(Path("a.pt"), {"one": torch.zeros(2), "two": torch.tensor([0, float("nan")])})


# ---- the toy's pruned token embeddings ----


@pytest.mark.parametrize("damage", ["too_large", "negative", "fraction", "too_many", "no_rows", "wide"])
def test_pruned_token_embeddings_that_do_not_fit(damage, tmp_path):
    state = load_file(asset("toy_clip.safetensors"))
    ids, rows = state["token_embedding.ids"], state["token_embedding.weight"]
    changed = {
        "too_large": {"token_embedding.ids": ids + 49408 - int(ids.max())},
        "negative": {"token_embedding.ids": ids - int(ids.max())},
        "fraction": {"token_embedding.ids": ids.float()},
        "too_many": {"token_embedding.ids": torch.cat([ids, ids[:1]])},
        "no_rows": {},
        "wide": {"token_embedding.weight": rows[:, :100].contiguous()},
    }
    if damage == "no_rows":
        del state["token_embedding.weight"]
    path = tmp_path / "toy.safetensors"
    save_file({**state, **changed[damage]}, path)
    clip = CLIP(**json.loads(asset("toy_clip.json").read_text()))
    with pytest.raises(ValueError, match=r"toy.safetensors is damaged: its token embeddings"):
        load_clip_weights(clip, "toy", path)
