# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Seeds the runs of anomalib's command.

The command takes ``--seed_everything``, in configuration files too, and promises to use it before it makes model and
data. anomalib 2.7 reads the option and forgets it: no two runs learn from the same batches, whatever the seed.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomalib.cli import AnomalibCLI


def keep_promise(command: type[AnomalibCLI]) -> None:
    """Have a command use the seed that it is given, with any model; without one it stays as it was.

    Args:
        command: The class of the command.
    """
    prepare = command.before_instantiate_classes

    @wraps(prepare)
    def seed_and_prepare(self: AnomalibCLI) -> None:
        seed = (self.config.get(self.subcommand) or {}).get("seed_everything")
        if isinstance(seed, int) and not isinstance(seed, bool):  # True, the default, asks for no seed in particular
            from lightning.pytorch import seed_everything

            seed_everything(seed, workers=True)
        prepare(self)

    command.before_instantiate_classes = seed_and_prepare  # type: ignore[method-assign]
