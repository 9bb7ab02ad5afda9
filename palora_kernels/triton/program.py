"""A list of steps that a plan comes down to, and what runs it. `capture` writes them, `replay` keeps them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from palora_kernels.triton import launch

Tensors = Sequence[Tensor | None]
# What to call; how to take its arguments from the values; the values that nothing reads after it.
Step = tuple[Callable[..., Any], Callable[[list[Any]], Sequence[Any]], tuple[int, ...]]


class Program:
    """Steps over a list of values: constants, the tensors given, their addresses; then each step appends one."""

    def __init__(self, constants: list[Any], steps: list[Step], result: int, device: int) -> None:
        self.constants = constants
        self.steps = steps
        self.result = result
        self.device = device

    def __call__(self, tensors: Tensors) -> Any:
        if launch.elsewhere(self.device):
            with torch.cuda.device(self.device):
                return self._run(tensors)
        return self._run(tensors)

    def _run(self, tensors: Tensors) -> Any:
        values = [*self.constants, *tensors, *[None if t is None else t.data_ptr() for t in tensors]]
        append = values.append
        for do, take, dead in self.steps:
            append(do(*take(values)))
            for index in dead:
                values[index] = None
        return values[self.result]
