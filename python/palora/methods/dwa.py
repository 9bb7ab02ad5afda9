"""Dynamic weight average: the task that falls slowest counts most (Liu, Johns & Davison, 2019, Eq. 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from palora.methods.base import option
from palora.methods.point import SinglePoint


@dataclass(frozen=True)
class DWAOptions:
    """The papers average over 25 steps, with temperature 2."""

    dwa_window: int = option(25, "Steps over which losses are averaged.")
    dwa_temperature: float = option(2.0, "Larger: more equal weights.")

    def __post_init__(self) -> None:
        if self.dwa_window < 1:
            raise ValueError(f"`dwa_window` should be an integer >= 1. Found {self.dwa_window}.")
        if not self.dwa_temperature > 0:
            raise ValueError(f"`dwa_temperature` should be positive. Found {self.dwa_temperature}.")


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
