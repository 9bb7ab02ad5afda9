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
    """since: when its job began; infinitely late while the process starts."""

    process: BaseProcess
    pipe: Connection
    job: J
    since: float = float("inf")

    def give(self, job: J) -> None:
        self.job, self.since = job, time.monotonic()
        self.pipe.send(job)

    def answer(self) -> tuple[str, Any]:
        """ "ready", "done" with a result, or "lost" with a reason."""
        try:
            kind, value = self.pipe.recv()
            return kind, value
        except (EOFError, OSError):
            self.process.join()
            return "lost", f"its process ended with status {self.process.exitcode}"

    def stop(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()


def run(
    task: Callable[[J], Any], jobs: Sequence[J], processes: int, limit: float, until: float
) -> Iterator[tuple[J, Any]]:
    """(job, result) as they come, `Lost` in place of a result. ``task`` is a function of a module, jobs can be pickled.

    limit: seconds for one job. until: the time of ``time.monotonic`` after which no job is begun and those that run are
    given up without a word: a later run takes them.
    """
    context = multiprocessing.get_context("spawn")  # a CUDA context does not survive a fork
    waiting = list(reversed(jobs))
    workers: list[_Worker[J]] = []

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(task, theirs), daemon=True)
        process.start()
        theirs.close()
        workers.append(_Worker(process, ours, waiting.pop()))

    try:
        while (waiting or workers) and time.monotonic() < until:
            while waiting and len(workers) < processes:
                start()
            ready = wait([w.pipe for w in workers], timeout=0.2)
            for worker in [*workers]:
                if worker.pipe in ready:
                    kind, value = worker.answer()
                    if kind == "ready":
                        worker.give(worker.job)
                        continue
                    yield worker.job, Lost(value) if kind == "lost" else value
                    if kind == "done" and waiting:
                        worker.give(waiting.pop())
                        continue
                elif time.monotonic() - worker.since > limit:
                    yield worker.job, Lost(f"no answer in {limit:.0f} s")
                else:
                    continue
                worker.stop()
                workers.remove(worker)
    finally:
        for worker in workers:
            worker.stop()


def _serve(task: Callable[[Any], Any], pipe: Connection) -> None:
    """One job after the other. After an error the process is not used again: a CUDA context may be spoilt."""
    pipe.send(("ready", None))
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            answer = "done", task(job)
        except Exception as error:  # whatever a compiler or a driver raises is a finding
            lines = str(error).strip().splitlines()
            answer = "lost", f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
        pipe.send(answer)
