"""Dynamic weight average: the task that falls slowest counts most (Liu, Johns & Davison, 2019, Eq. 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from palora.methods.base import Options, option
from palora.methods.point import SinglePoint
from palora_kernels.typed import Range


@dataclass(frozen=True)
class DWAOptions(Options):
    """The papers average over 25 steps, with temperature 2."""

    dwa_window: Annotated[int, Range(1, 1_000_000)] = option(25, "Steps over which losses are averaged.")
    dwa_temperature: Annotated[float, Range(0, 1e6, above=True)] = option(2.0, "Larger: more equal weights.")


class DynamicWeightAverage(SinglePoint):
    """Minimise Σ_t w_t L_t / T with w = T softmax(r/τ), r_t the last window's mean of L_t over that of the one before.

    Windows slide with every step, as in the comparisons of the papers (TorchJD's `DWA` compares epochs, of
    which a run on MultiMNIST has ten). Until two windows are full, w = 1.
    """

    name = "dwa"
    summary = "dynamic weight average: the slower a loss falls, the more it counts, one point"
    Options = DWAOptions

    def __init__(self, tasks: int, options: DWAOptions | None = None, seed: int = 0) -> None:
        super().__init__(tasks, options, seed)
        self.history = torch.empty(0, tasks)

    def weights(self) -> Tensor:
        """(T,), of mean 1, from the losses of the steps so far."""
        window = self.options.dwa_window
        if len(self.history) < 2 * window:
            return torch.ones(self.tasks)
        ratio = self.history[window:].mean(0) / self.history[:window].mean(0)
        return self.tasks * (ratio / self.options.dwa_temperature).softmax(0)

    def objective(self, losses: Tensor, rays: Tensor) -> Tensor:
        return (self.weights().to(losses) * losses).sum() / self.tasks

    def after_step(self, losses: Tensor, rays: Tensor) -> None:
        self.history = torch.cat([self.history, losses.cpu()])[-2 * self.options.dwa_window :]

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = state["history"]
