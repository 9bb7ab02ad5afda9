"""What a run costs: the time of each epoch and the memory it held, in costs.jsonl.

They stand apart from metrics.jsonl, because that is the same, bit for bit, when a run is repeated.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from palora.engine.run import RunFolder
from palora.files import writing


class Stopwatch:
    """Measures the two halves of an epoch and writes its line."""

    def __init__(self, run: RunFolder) -> None:
        self.file = run.costs_file
        self.begun = self.trained = time.monotonic()

    def start(self) -> None:
        """An epoch begins, or goes on where it was stopped: what came before the stop is not counted."""
        self.begun = time.monotonic()

    def validation(self) -> None:
        """Its steps are done, their losses looked at, and the validation begins."""
        self.trained = time.monotonic()

    def stop(self, epoch: int) -> None:
        """The epoch is over: add its line."""
        record = {
            "epoch": epoch,
            "train_seconds": round(self.trained - self.begun, 3),
            "validation_seconds": round(time.monotonic() - self.trained, 3),
            "peak_memory": peak_memory(),
            "peak_device_memory": peak_device_memory(),
        }
        with writing(self.file), self.file.open("a") as file:
            file.write(json.dumps(record) + "\n")


@dataclass(frozen=True)
class Costs:
    """Of a whole run; None where it was not recorded. Seconds, and bytes."""

    train_seconds: float | None = None
    validation_seconds: float | None = None
    peak_memory: int | None = None
    peak_device_memory: int | None = None


def read_costs(path: Path | str) -> Costs:
    """The sum of the epochs of a run folder and the most memory; of an epoch that was repeated the last line counts.

    Runs of versions that did not record costs, and damaged lines, give None.
    """
    epochs: dict[int, dict[str, Any]] = {}
    file = RunFolder(path).costs_file
    for line in file.read_text(errors="replace").splitlines() if file.exists() else []:
        try:
            record = json.loads(line)
            epochs[int(record["epoch"])] = record
        except (ValueError, TypeError, KeyError):
            continue

    def values(name: str) -> list[float]:
        return [r[name] for r in epochs.values() if isinstance(r.get(name), (int, float))]

    def total(name: str) -> float | None:
        return round(sum(values(name)), 3) if values(name) else None

    def most(name: str) -> int | None:
        return int(max(values(name))) if values(name) else None

    seconds = total("train_seconds"), total("validation_seconds")
    return Costs(*seconds, most("peak_memory"), most("peak_device_memory"))


def peak_memory() -> int | None:
    """Bytes: the most that this process has held so far; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes, but bytes on macOS
    return most if sys.platform == "darwin" else most * 1024


def peak_device_memory() -> int | None:
    """Bytes: the most that this process has held on the GPU; None without one."""
    used = torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.cuda.max_memory_allocated() if used else None
