"""What every preference schedule is: from progress τ to M rays, with a state that resumes bit for bit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from palora.rays.checks import number, whole


class Schedule(ABC):
    """Call it with the progress of training to get the rays of a step.

    ``schedule(tau)`` returns a float32 CPU tensor of shape (rays, tasks): entries >= 0, each row sums to 1.
    `tau` runs from 0 to 1 (the recipes pass (step + 1) / total); anything else is a ValueError. A schedule
    may depend on how often it was called; `state_dict` and `load_state_dict` carry that over to a resumed
    run.
    """

    most_tasks: ClassVar[int] = 1024
    most_rays: ClassVar[int] = 65_536

    def __init__(self, tasks: int, rays: int) -> None:
        self.tasks = whole("tasks", tasks, 2, most=self.most_tasks)
        self.rays = whole("rays", rays, 1, most=self.most_rays)

    def __call__(self, tau: float) -> Tensor:
        return self._sample(number("tau", tau, 0, 1, "a number from 0 to 1")).float()

    @abstractmethod
    def _sample(self, tau: float) -> Tensor:
        """The rays at a checked `tau`, (rays, tasks) float64."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What has to be kept to continue the sequence of rays exactly."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict` of a schedule with the same arguments."""

    def _value(self, state: dict[str, Any], key: str) -> Any:
        if set(state) != {key}:
            raise ValueError(
                f"`state` should be a state_dict of {type(self).__name__} with the one key {key!r}. "
                f"Found the keys {sorted(state)}."
            )
        return state[key]
