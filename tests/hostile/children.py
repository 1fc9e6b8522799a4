# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Cases that may do anything, in child processes with little memory, each with little time.

A child does one case after the other, forked from a process that has imported everything. One that dies or hangs is
replaced, and the case that it was at is to blame.
"""

import multiprocessing
import os
import resource
import signal
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

MEMORY = 6 * 2**30  # bytes of address space, most of it what libraries reserve
SECONDS = 30  # for a case, which takes a fraction of one; machines are shared
BATCH = 100
RIGHT, REFUSED, WRONG = "right", "refused", "wrong"

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.hostile.preload", "tests.hostile.test_hostile"])


@dataclass(frozen=True)
class Case:
    """Something hostile.

    Attributes:
        name: What it is.
        run: A function that a child process can import; it returns what must be finite, or nothing.
        arguments: Its arguments.
        names: Words one of which an error must have: the file or the argument.
    """

    name: str
    run: Callable[..., Any]
    arguments: tuple[Any, ...]
    names: tuple[str, ...]


class Hangs(BaseException):
    """A case's time is over."""


def outcomes(cases: Sequence[Case], at_once: int = 2) -> dict[str, list[str]]:
    """Run cases and sort them into ``right``, ``refused`` (with a clear error) and ``wrong``, with what went wrong."""
    batches = [cases[start : start + BATCH] for start in range(0, len(cases), BATCH)]
    with ThreadPoolExecutor(at_once) as pool:
        ended = [outcome for batch in pool.map(_outcomes, batches) for outcome in batch]
    return {kind: [text for other, text in ended if other == kind] for kind in (RIGHT, REFUSED, WRONG)}


def _outcomes(batch: Sequence[Case]) -> list[tuple[str, str]]:
    ended: list[tuple[str, str]] = []
    while len(ended) < len(batch):
        left = batch[len(ended) :]
        results, blame = _child(left)
        ended += [_judge(case, *result) for case, result in zip(left, results, strict=False)]
        if len(results) < len(left):
            ended.append((WRONG, f"{left[len(results)].name}: {blame}"))
    return ended


def _child(cases: Sequence[Case]) -> tuple[list[tuple[str, str]], str]:
    """Let a child process do cases; return what came of them, and what became of the child if they are not all."""
    receiver, sender = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_work, args=(cases, sender))
    process.start()
    sender.close()
    results: list[tuple[str, str]] = []
    blame = "it hangs beyond the reach of signals"
    try:
        while len(results) < len(cases) and receiver.poll(3 * SECONDS):
            results.append(receiver.recv())
    except EOFError:
        process.join()
        blame = f"the process ended with {process.exitcode}"
    process.kill()
    process.join()
    return results, blame


def _judge(case: Case, kind: str, message: str) -> tuple[str, str]:
    if kind == REFUSED and not any(name in message for name in case.names):
        return WRONG, f"{case.name}: the error names none of {case.names}: {message[:300]}"
    return kind, f"{case.name}: {message}"


def _work(cases: Sequence[Case], sender: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _time_is_over)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for case in cases:
        signal.alarm(SECONDS)
        result = _result(case)
        signal.alarm(0)
        sender.send(result)


def _time_is_over(*_: Any) -> None:
    raise Hangs


def _result(case: Case) -> tuple[str, str]:
    try:
        result = case.run(*case.arguments)
    except (ValueError, FileNotFoundError) as error:
        return REFUSED, str(error)
    except BaseException:  # whatever it is, it should have been one of those
        return WRONG, traceback.format_exc()[-600:]
    finite = result is None or bool(result.isfinite().all())
    return (RIGHT, "") if finite else (WRONG, "values that are not finite")
