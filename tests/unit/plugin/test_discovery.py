# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Plug-ins reach anomalib in every import order; each order needs a process of its own, as imports happen once."""

import json
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import EntryPoint, distribution
from pathlib import Path
from types import ModuleType

import pytest

import anomalib_clipzoo
from anomalib_clipzoo import plugin
from anomalib_clipzoo.plugin import discovery, hosts

MODEL = """
from anomalib import LearningType
from anomalib.models.components import AnomalibModule

class {name}(AnomalibModule):
    def __init__(self, size: int = 3) -> None:
        super().__init__(pre_processor=False, post_processor=False, evaluator=False, visualizer=False)
        self.size = size

    @property
    def learning_type(self) -> LearningType:
        return LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict:
        return {{}}
"""

DATA = """
from anomalib.data import AnomalibDataModule

class {name}(AnomalibDataModule):
    def __init__(self, size: int = 3) -> None:
        super().__init__(train_batch_size=1, eval_batch_size=1, num_workers=0)
        self.size = size

    def _setup(self, _stage: str | None = None) -> None:
        pass
"""

# What each process asks anomalib for once its own imports are done.
REPORT = """
import json, sys
from types import ModuleType
import anomalib, anomalib.cli, anomalib.data, anomalib.models
from anomalib.data import get_datamodule
from anomalib.models import get_model, list_models
from functools import reduce
from importlib import import_module
from importlib.metadata import distribution
from anomalib_clipzoo.plugin.patches import PATCHES

def attribute(place):
    module, _, path = place.partition(":")
    return reduce(getattr, path.split("."), import_module(module))

def home(thing):
    cls = thing if isinstance(thing, type) else type(thing)
    return cls.__module__ + ":" + cls.__name__

def found(package, name):
    return home(getattr(package, name)) if hasattr(package, name) else None

def report():
    ours = distribution("anomalib-clipzoo").entry_points
    our_models, our_data = ours.select(group="anomalib.models"), ours.select(group="anomalib.data")
    models = {name: found(anomalib.models, name) for name in ("OneModel", "TinyModel", "Broken", "Padim", "NoModel")}
    return {
        "models": models,
        "image": [found(anomalib.models.image, name) for name in ("OneModel", "TinyModel")],
        "data": {name: found(anomalib.data, name) for name in ("OneData", "TinyData", "Folder")},
        "listed": sorted(list_models()),
        "by name": [home(get_model("tiny_model")), get_model("one_model", size=5).size],
        "by class path": [
            home(get_model({"class_path": path, "init_args": {"size": 7}}))
            for path in ("TinyModel", "anomalib.models.TinyModel", "tinyzoo.TinyModel", "tinyzoo.tiny.TinyModel",
                         "tinyzoo.tiny.model.TinyModel")
        ],
        "datamodule": [
            home(get_datamodule({"class_path": "TinyData", "init_args": {"size": 7}})),
            get_datamodule({"data": {"class_path": "onefile.OneData", "init_args": {"size": 7}}}).size,
        ],
        "ours": {entry_point.name: found(anomalib.models, entry_point.name) for entry_point in our_models}
        | {entry_point.name: found(anomalib.data, entry_point.name) for entry_point in our_data},
        "imported": [name for name in ("thief", "zzz_second", "other_case", "alias") if name in sys.modules],
        "unpatched": [patch.place for patch in PATCHES if not hasattr(attribute(patch.place), "__wrapped__")],
        "left behind": [type(anomalib) is not ModuleType]
        + [str(finder) for finder in sys.meta_path if "anomalib_clipzoo" in str(finder)],
    }
"""

MODULES = {
    "tinyzoo/__init__.py": "def __getattr__(name):\n"
    "    if name != 'TinyModel':\n        raise AttributeError(name)\n"
    "    from .tiny import TinyModel\n    return TinyModel\n",
    "tinyzoo/tiny/__init__.py": "from .model import TinyModel\n",
    "tinyzoo/tiny/model.py": MODEL.format(name="TinyModel"),
    "tinyzoo/data.py": DATA.format(name="TinyData"),
    "onefile.py": MODEL.format(name="OneModel") + DATA.format(name="OneData"),
    "broken.py": "import a_package_that_nobody_has\n",
    "exits.py": "raise SystemExit('I want out')\n",
    "nomodel.py": "def NoModel():\n    pass\n",
    "thief.py": MODEL.format(name="Padim"),
    "other_case.py": MODEL.format(name="PADIM"),
    "alias.py": MODEL.format(name="WinClip"),
    "zzz_second.py": MODEL.format(name="TinyModel"),
    "report.py": REPORT,
}

ENTRY_POINTS = {
    "tinyzoo": """
        [anomalib.models]
        TinyModel = tinyzoo.tiny:TinyModel
        [anomalib.data]
        TinyData = tinyzoo.data:TinyData
        """,
    "onefile": """
        [anomalib.models]
        OneModel = onefile:OneModel
        [anomalib.data]
        OneData = onefile:OneData
        """,
    "tinyzoo_again": """
        [anomalib.models]
        TinyModel = tinyzoo.tiny:TinyModel
        """,
    "troublemakers": """
        [anomalib.models]
        Broken = broken:Broken
        Exits = exits:Exits
        NoModel = nomodel:NoModel
        Padim = thief:Padim
        PADIM = other_case:PADIM
        Renamed = alias:WinClip
        TinyModel = zzz_second:TinyModel
        Missing = onefile:Missing
        Malformed = onefile:One Model
        [anomalib.data]
        Broken = broken:Broken
        """,
}

SAY = "import json, report\nprint(json.dumps(report.report()))\n"
NO_HOOK = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}

ORDERS = {
    "models first": "from anomalib.models import TinyModel, OneModel\n" + SAY,
    "torch first": "import torch\nfrom anomalib.models.image import TinyModel\n" + SAY,
    "data first": "from anomalib.data import OneData, TinyData\n" + SAY,
    "engine first": "from anomalib.engine import Engine\n" + SAY,
    "plug-in first": "from onefile import OneModel\n" + SAY,
}

# Without the hook: anomalib is as it comes, until this package is imported. open_clip is kept from being imported to
# show that registering does not ask for it (anomalib's own WinClip tries to, and does without).
BY_HAND = """
import json, sys, time
asked = []
class NoOpenClip:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "open_clip":
            asked.append(name)
            raise ImportError(name)
sys.meta_path.insert(0, NoOpenClip)

start = time.process_time()  # which other programs on the machine disturb least
import anomalib.models
seconds = time.process_time() - start
by_itself = sorted(anomalib.models.list_models())
asked.clear()
modules = set(sys.modules)

start = time.process_time()
import anomalib_clipzoo
cost = time.process_time() - start
added = sorted({name.partition(".")[0] for name in set(sys.modules) - modules})
import report
print(json.dumps(report.report() | {
    "by itself": by_itself, "cost": cost / seconds, "added": added, "asked": asked,
}))
"""

# torch alone, without the hook, then what the hook does, timed with a fresh module each time. Installed packages have
# their bytecode beside them; here it is written first, whatever the settings of this run.
COST = """
import json, os, sys, time
import torch
sys.dont_write_bytecode = False
sys.pycache_prefix = "bytecode"

def seconds():
    for name in [name for name in sys.modules if name.startswith("anomalib_clipzoo")]:
        del sys.modules[name]
    sys.meta_path[:] = [finder for finder in sys.meta_path if "anomalib_clipzoo" not in str(finder)]
    start = time.perf_counter()
    from anomalib_clipzoo.plugin import autoload
    autoload()
    return time.perf_counter() - start

def lookouts():
    return sum("anomalib_clipzoo" in str(finder) for finder in sys.meta_path)

cost = min(seconds() for _ in range(20))
from anomalib_clipzoo.plugin import autoload
autoload()
twice = lookouts()
os.environ["ANOMALIB_CLIPZOO_AUTOLOAD"] = "0"
seconds()
print(json.dumps({
    "cost": cost, "installed twice": twice, "switched off": lookouts(),
    "imported": [name for name in ("anomalib", "lightning", "open_clip") if name in sys.modules],
}))
"""

COMMAND = "import sys\nfrom anomalib.cli.cli import main\nsys.argv[0] = 'anomalib'\nmain()\n"
BY_NAME = ("train", "--model", "TinyModel", "--model.size", "4", "--data", "TinyData", "--print_config")
BY_PATH = ("train", "--model", "anomalib_clipzoo.VcpClip", "--model.backbone", "toy", "--print_config")


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future]:
    """Run all processes, two at a time, among packages that bring plug-ins good and bad."""
    folder = tmp_path_factory.mktemp("plugins")
    for name, text in MODULES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name, text in ENTRY_POINTS.items():
        metadata = folder / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("\n".join(line.strip() for line in text.splitlines()))

    def run(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "300"} | variables
        command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=folder)

    with ThreadPoolExecutor(max_workers=2) as pool:
        futures = {order: pool.submit(run, code) for order, code in ORDERS.items()}
        futures["by hand"] = pool.submit(run, BY_HAND, **NO_HOOK)
        futures["command by name"] = pool.submit(run, COMMAND, *BY_NAME)
        futures["command by path"] = pool.submit(run, COMMAND, *BY_PATH, **NO_HOOK)
        futures["cost"] = pool.submit(run, COST, **NO_HOOK)
    return futures


def answer(process: Future) -> dict:
    """Read the JSON that a process printed last."""
    result = process.result()
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=[*ORDERS, "by hand"])
def report(request: pytest.FixtureRequest, processes: dict[str, Future]) -> dict:
    return answer(processes[request.param])


def test_plugins_are_attributes_of_anomalib(report: dict) -> None:
    assert report["models"]["TinyModel"] == "tinyzoo.tiny.model:TinyModel"
    assert report["models"]["OneModel"] == "onefile:OneModel"
    assert report["data"]["TinyData"] == "tinyzoo.data:TinyData"
    assert report["data"]["OneData"] == "onefile:OneData"
    assert "tinyzoo.tiny.model:TinyModel" in report["image"]


def test_get_model_and_list_models(report: dict) -> None:
    assert {"tiny_model", "one_model", "padim"} <= set(report["listed"])
    assert report["by name"] == ["tinyzoo.tiny.model:TinyModel", 5]
    assert report["by class path"] == ["tinyzoo.tiny.model:TinyModel"] * 5


def test_get_datamodule(report: dict) -> None:
    assert report["datamodule"] == ["tinyzoo.data:TinyData", 7]


def test_what_this_package_declares_is_there(report: dict) -> None:
    assert {"VcpClip", "CrossDataset", "MultiCategory", "ToyAD"} <= set(report["ours"])
    for name, place in report["ours"].items():
        assert place is not None, name
        assert place.startswith("anomalib_clipzoo.")
        assert place.endswith(f":{name}")


def test_anomalib_keeps_its_own(report: dict) -> None:
    assert report["models"]["Padim"] == "anomalib.models.image.padim.lightning_model:Padim"
    assert report["data"]["Folder"] == "anomalib.data.datamodules.image.folder:Folder"
    assert report["imported"] == []  # importing them would have made a second class of the name


def test_bad_plugins_are_left_out(report: dict) -> None:
    assert report["models"]["Broken"] is None
    assert report["models"]["NoModel"] is None


def test_every_patch_is_applied(report: dict) -> None:
    assert report["unpatched"] == []


def test_nothing_is_left_behind(report: dict) -> None:
    assert report["left behind"] == [False]


def test_each_bad_plugin_is_logged_once(processes: dict[str, Future]) -> None:
    log = [line for line in processes["models first"].result().stderr.splitlines() if line.startswith("Skipped")]
    reasons = {
        "Skipped Broken (broken:Broken): ModuleNotFoundError: No module named 'a_package_that_nobody_has'": 2,
        "Skipped Exits (exits:Exits): SystemExit: I want out": 1,
        "Skipped Malformed (onefile:One Model): ValueError: the entry point must bear the name of its class": 1,
        "Skipped Missing (onefile:Missing): AttributeError: module 'onefile' has no attribute 'Missing'": 1,
        "Skipped NoModel (nomodel:NoModel): TypeError: not a subclass of AnomalibModule": 1,
        "Skipped PADIM (other_case:PADIM): ValueError: anomalib.models has that name already": 1,
        "Skipped Padim (thief:Padim): ValueError: anomalib.models has that name already": 1,
        "Skipped Renamed (alias:WinClip): ValueError: the entry point must bear the name of its class": 1,
        "Skipped TinyModel (zzz_second:TinyModel): ValueError: anomalib.models has that name already": 1,
    }
    assert {line: log.count(line) for line in log} == reasons


def test_command_finds_model_and_datamodule_by_name(processes: dict[str, Future]) -> None:
    result = processes["command by name"].result()
    assert result.returncode == 0, result.stderr
    assert "class_path: tinyzoo.TinyModel" in result.stdout
    assert "class_path: tinyzoo.data.TinyData" in result.stdout
    assert "size: 4" in result.stdout


def test_command_finds_model_by_path_without_the_hook(processes: dict[str, Future]) -> None:
    result = processes["command by path"].result()
    assert result.returncode == 0, result.stderr
    assert "class_path: anomalib_clipzoo.VcpClip" in result.stdout
    assert "backbone: toy" in result.stdout


def test_without_the_hook_nothing_is_registered_until_the_package_is_imported(processes: dict[str, Future]) -> None:
    by_itself = answer(processes["by hand"])["by itself"]
    assert "padim" in by_itself
    assert "tiny_model" not in by_itself


def test_registering_takes_a_twentieth_of_the_import_of_anomalib_at_most(processes: dict[str, Future]) -> None:
    assert answer(processes["by hand"])["cost"] < 0.05


def test_registering_imports_nothing_but_plugins(processes: dict[str, Future]) -> None:
    by_hand = answer(processes["by hand"])
    assert by_hand["asked"] == []
    assert set(by_hand["added"]) == {"anomalib_clipzoo", "nomodel", "onefile", "tinyzoo"}


def test_hook_takes_less_than_a_millisecond(processes: dict[str, Future]) -> None:
    cost = answer(processes["cost"])
    assert cost["cost"] < 1e-3
    assert cost["imported"] == []


def test_hook_is_installed_once_and_can_be_switched_off(processes: dict[str, Future]) -> None:
    cost = answer(processes["cost"])
    assert cost["installed twice"] == 1
    assert cost["switched off"] == 0


def test_register_never_raises(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        msg = "no"
        raise RuntimeError(msg)

    monkeypatch.setitem(sys.modules, "anomalib", ModuleType("anomalib"))
    monkeypatch.setattr(hosts, "_serve", fail)
    plugin.autoload()
    assert "could not be registered" in caplog.text


def test_switch_keeps_autoload_but_not_register_from_working(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("anomalib")
    monkeypatch.setitem(sys.modules, "anomalib", package)
    monkeypatch.setattr(hosts, "_serve", lambda: None)
    monkeypatch.setenv(plugin.SWITCH, "0")
    plugin.autoload()
    assert type(package) is ModuleType
    plugin.register()
    assert type(package) is not ModuleType


def test_what_anomalib_registered_itself_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    host = ModuleType("anomalib.data")
    host.Future = Future  # type: ignore[attr-defined]
    discovery._register(EntryPoint("Future", "concurrent.futures:Future", "anomalib.data"), host)
    assert host.Future is Future
    assert caplog.text == ""


def test_public_names_are_what_the_distribution_declares() -> None:
    declared = distribution("anomalib-clipzoo").entry_points
    groups = [declared.select(group=group) for group in discovery.BASE_CLASSES]
    assert sorted(anomalib_clipzoo.__all__) == sorted(entry_point.name for group in groups for entry_point in group)
    assert set(anomalib_clipzoo.__all__) <= set(dir(anomalib_clipzoo))
    for entry_point in (entry_point for group in groups for entry_point in group):
        assert getattr(anomalib_clipzoo, entry_point.name) is entry_point.load()


def test_version_is_the_distributions() -> None:
    assert anomalib_clipzoo.__version__ == distribution("anomalib-clipzoo").version


def test_unknown_public_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'VcpCplip'"):
        _ = anomalib_clipzoo.VcpCplip


def test_package_imports_neither_torch_nor_anomalib() -> None:
    code = "import sys, anomalib_clipzoo; print([name for name in ('torch', 'anomalib') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
    assert Path(anomalib_clipzoo.__file__).with_name("py.typed").is_file()
