# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""What anomalib gets wrong and the users of any model meet, mended in the running process.

All was seen in anomalib 2.7.0, and no release mends any of it yet; the tests say when one does. Each entry of
:data:`PATCHES` can be switched off, see :data:`SWITCH`; ``docs/upstream.md`` describes the defects one by one.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import TYPE_CHECKING

from . import argument_errors, benchmark, command, engine, images
from .patch import Patch

if TYPE_CHECKING:
    from types import ModuleType

logger = logging.getLogger(__name__)

SWITCH = "ANOMALIB_CLIPZOO_UNPATCHED"
"""Environment variable: names of patches to leave out, with commas in between, or ``all``."""

ALL = "all"

_COMMAND = "anomalib.cli.cli"
_ENGINE = "anomalib.engine.engine"
_VISUALIZER = "anomalib.visualization.image.visualizer"
_BENCHMARK = "anomalib.pipelines.benchmark"

PATCHES = (
    Patch("seed", f"{_COMMAND}:AnomalibCLI.before_instantiate_classes", command.seed_before_construction),
    Patch("errors", f"{_COMMAND}:AnomalibCLI.init_parser", argument_errors.end_with_the_cause),
    Patch("errors", f"{_COMMAND}:AnomalibCLI.init_parser", command.let_constructor_errors_through),
    Patch("errors", f"{_COMMAND}:AnomalibCLI.instantiate_classes", command.raise_constructor_errors),
    Patch("errors", f"{_COMMAND}:main", command.end_with_one_line),
    Patch("logs", f"{_COMMAND}:configure_logger", command.log_once),
    Patch("memory", f"{_COMMAND}:AnomalibCLI._prepare_subcommand_kwargs", command.keep_no_predictions),
    Patch("unreadable", f"{_COMMAND}:AnomalibCLI._run_subcommand", command.tell_unreadable),
    Patch("unreadable", f"{_ENGINE}:Engine.predict", engine.read_what_can_be_read),
    Patch("resume", f"{_ENGINE}:Engine.train", engine.test_what_was_learned),
    Patch("validate", f"{_ENGINE}:Engine.validate", engine.validate_in_a_folder_of_its_own),
    Patch("latest", f"{_ENGINE}:create_versioned_dir", engine.make_way_for_the_link),
    Patch("paths", "anomalib.data.utils.path:contains_non_printable_characters", images.let_printable_paths_through),
    Patch("heatmaps", f"{_VISUALIZER}:generate_output_filename", images.keep_folders),
    Patch("heatmaps", f"{_VISUALIZER}:ImageVisualizer.on_test_batch_end", images.tell_folder),
    Patch("dry-runs", f"{_VISUALIZER}:ImageVisualizer.on_test_batch_end", images.draw_unless_dry),
    Patch("benchmark", f"{_BENCHMARK}.generator:BenchmarkJobGenerator.generate_jobs", benchmark.seed_each),
    Patch("benchmark", f"{_BENCHMARK}.job:BenchmarkJob.collect", benchmark.collect_all),
)


def mend(host: ModuleType) -> None:
    """Apply the patches of one of anomalib's packages, but for those that are switched off."""
    for patch in PATCHES:
        if f"{patch.module}.".startswith(f"{host.__name__}.") and not switched_off() & {patch.name, ALL}:
            patch.apply()


@cache
def switched_off() -> frozenset[str]:
    """Read :data:`SWITCH`, and say so where it names what there is not."""
    names = frozenset(filter(None, (name.strip() for name in os.environ.get(SWITCH, "").split(","))))
    known = {ALL, *(patch.name for patch in PATCHES)}
    if names - known:
        logger.warning("%s names %s; there are %s.", SWITCH, ", ".join(sorted(names - known)), ", ".join(sorted(known)))
    return names
