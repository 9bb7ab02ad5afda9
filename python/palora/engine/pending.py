"""Losses on their way to the host: steps go on while those before are still being read.

To read a loss, the host waits for the device. So each step's losses are copied without waiting, and looked at, step by
step in their order, when they have arrived: some steps later, or at once where all is on the host.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Taken:
    """A step that was taken."""

    epoch: int
    """From 1."""
    step: int
    """From 1, in the whole run."""
    tau: float
    lr: float
    rays: Tensor
    """(M, T), on the host."""
    losses: Tensor
    """(M, T)."""


class Arrival(Protocol):
    """When a copy is done: a CUDA event."""

    def query(self) -> bool:
        """Whether it is."""

    def synchronize(self) -> None:
        """Wait until it is."""


class Pending:
    """Calls `look` with every step that was added, in order, its losses on the host.

    `ahead`: the most steps that may wait; beyond them the host waits for the device, so that a loss that is not finite
    is found at most so many steps late.
    """

    def __init__(self, look: Callable[[Taken], None], ahead: int) -> None:
        self.look, self.ahead = look, ahead
        self.waiting: deque[tuple[Taken, Arrival | None]] = deque()

    def add(self, taken: Taken) -> None:
        """One more step, and a look at those whose losses are here."""
        losses, arrival = to_host(taken.losses)
        self.waiting.append((replace(taken, losses=losses), arrival))
        while self.waiting:
            arrival = self.waiting[0][1]
            if len(self.waiting) <= self.ahead and arrival is not None and not arrival.query():
                return
            self._first()

    def settle(self) -> None:
        """Look at all of them."""
        while self.waiting:
            self._first()

    def _first(self) -> None:
        taken, arrival = self.waiting.popleft()
        if arrival is not None:
            arrival.synchronize()
        self.look(taken)


def to_host(losses: Tensor) -> tuple[Tensor, Arrival | None]:
    """`losses` on the host, and when they are there; None: now."""
    if losses.device.type != "cuda":
        return losses.cpu(), None
    copy = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=True).copy_(losses, non_blocking=True)
    arrival = torch.cuda.Event()
    arrival.record(torch.cuda.current_stream(losses.device))
    return copy, arrival
