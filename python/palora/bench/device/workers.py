"""Processes that share a list of jobs, and outlive the jobs that end them: an illegal access spoils its process for
good, and a kernel that never returns has to be killed."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

J = TypeVar("J")


@dataclass(frozen=True)
class Lost:
    """A job without a result: it raised, its process died, or it took too long."""

    reason: str


@dataclass
class _Worker(Generic[J]):
    process: BaseProcess
    pipe: Connection
    job: J | None = None
    since: float = 0.0

    def give(self, job: J) -> None:
        self.job, self.since = job, time.monotonic()
        self.pipe.send(job)

    def stop(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()


def run(
    task: Callable[[J], Any],
    jobs: Sequence[J],
    processes: int,
    limit: float,
    until: float,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[J, Any]]:
    """(job, result) as they come, `Lost` in place of a result. ``task`` is a function of a module, jobs can be pickled.

    limit: seconds for one job, the start of its process included. until: ``clock``'s time after which no job is begun
    and those that run are given up, without a word: a later run takes them.
    """
    context = multiprocessing.get_context("spawn")  # a CUDA context does not survive a fork
    waiting = list(reversed(jobs))
    workers: list[_Worker[J]] = []

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(task, theirs), daemon=True)
        process.start()
        theirs.close()
        worker: _Worker[J] = _Worker(process, ours)
        workers.append(worker)
        worker.give(waiting.pop())

    try:
        while (waiting or workers) and clock() < until:
            while waiting and len(workers) < processes:
                start()
            ready = wait([w.pipe for w in workers], timeout=0.2)
            for worker in [*workers]:
                job = worker.job
                assert job is not None
                if worker.pipe in ready:
                    try:
                        good, value = worker.pipe.recv()
                    except (EOFError, OSError):
                        worker.process.join()
                        good, value = False, f"its process ended with status {worker.process.exitcode}"
                    yield job, value if good else Lost(value)
                    if good and waiting:
                        worker.give(waiting.pop())
                        continue
                elif time.monotonic() - worker.since > limit:
                    yield job, Lost(f"no answer in {limit:.0f} s")
                else:
                    continue
                worker.stop()
                workers.remove(worker)
    finally:
        for worker in workers:
            worker.stop()


def _serve(task: Callable[[Any], Any], pipe: Connection) -> None:
    """One job after the other. After an error the process is not used again: a CUDA context may be spoilt."""
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            answer = True, task(job)
        except Exception as error:  # whatever a compiler or a driver raises is a finding
            lines = str(error).strip().splitlines()
            answer = False, f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
        pipe.send(answer)
