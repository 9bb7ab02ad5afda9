"""Tiny runs for the tests of engine and command line: LeNet on a few pairs of the bundled digits."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palora import data, recipes
from palora.data import Dataset
from palora.engine import RunConfig, train
from palora.engine.progress import Silent

load = data.load  # tests put `small_set` in its place


@cache
def small_set() -> Dataset:
    """The bundled pairs, made once."""
    return load("multimnist-small", limit=512)


def tiny(**overrides: Any) -> RunConfig:
    """2 epochs of 6 steps; every step is recorded. The random schedule has a state to carry over."""
    settings: dict[str, Any] = {
        "epochs": 2,
        "batch": 16,
        "limit": 96,
        "log_every": 1,
        "checkpoint_every": 4,
        "divisions": 2,
        **overrides,
    }
    if settings.get("method", "palora") == "palora":
        settings.setdefault("method_options", {"schedule": "dirichlet", "rays": 3})
    return recipes.get("multimnist-small").configure(**settings)


class DropoutNet(nn.Module):
    """Two tasks, with dropout (draws random numbers) and batch normalisation (keeps statistics)."""

    def __init__(self, hidden: int = 12, inputs: int = 784, outputs: int = 10, dtype: Any = None) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden, dtype=dtype)
        self.norm = nn.BatchNorm1d(hidden, dtype=dtype)
        self.drop = nn.Dropout(0.3)
        self.heads = nn.ModuleList(nn.Linear(hidden, outputs, dtype=dtype) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        z = self.drop(torch.relu(self.norm(self.first(x.flatten(1)))))
        return tuple(head(z) for head in self.heads)


class At(Silent):
    """Calls `action` once step `step` of the run is over."""

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self.left, self.action = step, action

    def start(self, tasks: Sequence[str], epochs: int, step: int, steps: int) -> None:
        self.left -= step

    def step(self, epoch: int, losses: Sequence[float], rays: int) -> None:
        self.left -= 1
        if self.left == 0:
            self.action()


if __name__ == "__main__":  # a run that is killed in the middle of a step's bookkeeping
    folder, threads, step = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    train(
        tiny(),
        folder,
        show=At(step, lambda: os.kill(os.getpid(), signal.SIGKILL)),
        make_model=DropoutNet,
    )
