# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The command uses the seed that it is given."""

import pytest
import torch
from anomalib.cli import AnomalibCLI
from anomalib.data import AnomalibDataModule

MODEL = ("--model", "VcpClip", "--model.backbone", "toy")
DATA = ("--data", "ToyAD", "--data.category", "tile", "--data.num_workers", "0")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def made(*arguments: str, command: str = "train") -> AnomalibCLI:
    """Everything the command makes before it runs."""
    return AnomalibCLI([command, *MODEL, *DATA, *arguments], run=False)


def weights(cli: AnomalibCLI) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in cli.model.parameters() if weight.requires_grad])


def batches(datamodule: AnomalibDataModule) -> list[list[str]]:
    datamodule.prepare_data()
    datamodule.setup()
    return [batch.image_path for batch in datamodule.train_dataloader()]


def test_same_seed_same_prompts_and_same_batches():
    first, second = ([weights(cli), batches(cli.datamodule)] for cli in (made("--seed_everything", "7") for _ in "ab"))
    assert torch.equal(first[0], second[0])
    assert first[1] == second[1]


def test_anomalib_forgets_the_seed(unpatched):
    unpatched(AnomalibCLI, "before_instantiate_classes")
    assert not torch.equal(*(weights(made("--seed_everything", "7")) for _ in "ab"))


def test_other_seed_other_prompts_and_other_batches():
    first, second = ([weights(cli), batches(cli.datamodule)] for cli in (made("--seed_everything", s) for s in "78"))
    assert not torch.equal(first[0], second[0])
    assert first[1] != second[1]


@pytest.mark.parametrize("command", ["fit", "validate", "test", "train", "predict"])
def test_every_command_in_a_configuration_too(command, tmp_path):
    (tmp_path / "seed.yaml").write_text("seed_everything: 0\n")
    made("--config", "seed.yaml", command=command)
    drawn = torch.rand(1)
    torch.rand(5)
    made("--config", "seed.yaml", command=command)
    assert torch.equal(torch.rand(1), drawn)


@pytest.mark.parametrize("seed", [(), ("--seed_everything", "true"), ("--seed_everything", "false")])
def test_without_a_seed_runs_differ(seed):
    assert not torch.equal(weights(made(*seed)), weights(made(*seed)))
