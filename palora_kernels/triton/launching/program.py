"""What a plan comes down to, as a function of its tensors. `capture` finds the steps, `replay` keeps the programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from palora_kernels.triton.launching import launch

Tensors = Sequence[Tensor | None]


class Step(NamedTuple):
    """``what(*values)``. A value is named by "t" (a tensor given), "p" (its address), "v" (the result of a step) or "c"
    (a constant) and its number."""

    what: Callable[..., Any]
    values: list[str]
    over: list[str]  # results that nothing reads after it: their memory is given back


class Program:
    """The steps as Python source, compiled once: a step then costs its call and nothing else.

    ``names`` are those of the results in order, ``result`` what is returned, ``tensors`` how many are given.
    """

    def __init__(
        self, tensors: int, constants: list[Any], steps: list[Step], names: list[str], result: str, device: int
    ) -> None:
        self.steps = steps
        self.device = device
        scope: dict[str, Any] = {f"c{i}": constant for i, constant in enumerate(constants)}
        scope |= {f"f{i}": step.what for i, step in enumerate(steps)}
        read = {value for step in steps for value in step.values}
        lines = [f"p{i} = t{i}.data_ptr()" for i in range(tensors) if f"p{i}" in read]
        for i, (step, name) in enumerate(zip(steps, names, strict=True)):
            lines.append(f"{name} = f{i}({', '.join(step.values)})")
            if step.over:
                lines.append(f"del {', '.join(step.over)}")
        given = ", ".join(f"t{i}" for i in range(tensors))
        source = "\n    ".join([f"def run({given}):", *lines, f"return {result}"])
        exec(compile(source, "<program of a plan>", "exec"), scope)
        self.run: Callable[..., Any] = scope["run"]

    def __call__(self, tensors: Tensors) -> Any:
        if launch.elsewhere(self.device):
            with torch.cuda.device(self.device):
                return self.run(*tensors)
        return self.run(*tensors)
