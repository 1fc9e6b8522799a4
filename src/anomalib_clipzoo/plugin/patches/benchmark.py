# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Patches of anomalib's benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pandas import DataFrame


class _Unbuilt:
    """A job whose model or data could not be made; it fails when it is run, as the runner expects of jobs."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def run(self, task_id: int | None = None) -> NoReturn:
        del task_id
        raise self.error


def seed_each(generate: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Seed each experiment before its model is made, and let one that cannot be made fail alone.

    Models were made before the seed was set: one configuration gave two results. An entry with a mistake took the
    results of all others along.
    """

    def generate_jobs(self: Any, args: dict[str, Any], previous_stage_result: Any) -> Iterator[Any]:
        from anomalib.pipelines.components.utils import get_iterator_from_grid_dict
        from lightning.pytorch import seed_everything

        for experiment in get_iterator_from_grid_dict(args):
            seed_everything(experiment["seed"], workers=True)
            try:
                yield from generate(self, experiment, previous_stage_result)
            except Exception as error:
                yield _Unbuilt(error)

    return generate_jobs


def collect_all(collect: Callable[..., DataFrame]) -> Callable[..., DataFrame]:  # noqa: ARG001
    """Collect results with different columns; a value that one run has and another has not ended the benchmark."""

    def collect_results(results: list[dict[str, Any]]) -> DataFrame:
        from pandas import DataFrame

        return DataFrame(results)

    return collect_results
