"""Does a step that is replayed from a CUDA graph train what the step itself trains, and how much faster?

``python -m palora.bench.device.graph_check`` prints one JSON object a case, on random data. Of a case:

- ``repeats``: whether two runs without a graph agree to the last bit, and how far losses and weights are apart; where
  they do not, PyTorch's own kernels add in another order each time, and no other run can agree either;
- ``graph``: the same of a run with a graph and one without, through a short batch, another number of rays and another
  learning rate; ``resumed``: of a run with a graph, and the one that goes on from a snapshot in its middle;
- ``diverged``: what was said of a loss that became NaN in a replay, and how many steps later;
- ``ms``: milliseconds a step, and of these the host's own, without and with a graph.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palora import models
from palora.data import Dataset, Split, TaskSpec
from palora.engine.config import RunConfig
from palora.engine.finite import Diverged, require_finite_losses
from palora.engine.graph import CudaGraph, Step
from palora.engine.pending import Pending, Taken
from palora.engine.setup import assemble_on
from palora.engine.state import TrainState
from palora.engine.trainer import AHEAD, forward_pass, initial_state, set_learning_rate
from palora.errors import PaloraError

STEPS, SHORT, MIDDLE, FEWER_RAYS, PLANTED = 30, 9, 15, range(20, 22), 12
"""Steps of a run, and what happens at which of them, from 0."""


class Normed(nn.Module):
    """Dropout, which draws numbers, and batch normalisation, which keeps statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(64, 128), nn.BatchNorm1d(128), nn.Dropout(0.3)
        self.heads = nn.ModuleList(nn.Linear(128, 10) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        z = self.drop(torch.relu(self.norm(self.first(x))))
        return tuple(head(z) for head in self.heads)


@dataclass(frozen=True)
class Case:
    """A model on random inputs of a shape."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], nn.Module]
    batch: int = 256
    settings: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("mlp", (64,), lambda: models.build("mlp", inputs=64, hidden=(128, 128), outputs=(10, 10))),
    Case("dropout", (64,), Normed),
    Case("lenet", (1, 28, 28), lambda: models.build("lenet")),
    Case("lenet bf16", (1, 28, 28), lambda: models.build("lenet"), settings={"precision": "bf16"}),
    Case("lenet, chunks of 2", (1, 28, 28), lambda: models.build("lenet"), settings={"ray_chunk": 2}),
    Case("resnet20", (3, 32, 32), lambda: models.build("resnet20", outputs=(10, 10)), batch=32),
)


class Run:
    """Steps of one model on the data of a case, one after the other."""

    def __init__(self, case: Case, graph: bool, device: str, before: dict[str, Any] | None = None) -> None:
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(2048, *case.shape, generator=generator)
        targets = tuple(torch.randint(10, (2048,), generator=generator) for _ in range(2))
        self.split = Split(inputs, targets)
        tasks = tuple(TaskSpec(name, loss="cross_entropy", metric="accuracy", outputs=10) for name in ("left", "right"))
        self.config = RunConfig(
            recipe="graph check",
            dataset="random",
            model=case.name,
            epochs=2,
            batch=case.batch,
            lr=1e-3,
            method_options={"rays": 5},
            lr_milestones=(1,),
            device=device,
            **{"ray_chunk": "all", **case.settings},
        )
        data = Dataset("random", self.split, self.split, self.split, tasks, note="Random numbers.")
        parts = assemble_on(self.config, data, case.make)
        self.state: TrainState = initial_state(parts, self.config)
        if before is not None:
            self.state.restore(copy.deepcopy(before))
        chunk = self.config.ray_chunk
        self.state.position.chunk = chunk if isinstance(chunk, int) else None
        recorder = CudaGraph(parts.device) if graph else None
        self.step = Step(parts, self.state, forward_pass(parts, self.config), recorder, required=graph)
        self.parts = parts
        parts.model.train()

    def rays(self, step: int) -> Tensor:
        rays = self.parts.method.rays(min((step + 1) / STEPS, 1.0))
        return rays[:3] if step in FEWER_RAYS else rays

    def batch(self, step: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        start = step * self.config.batch % (len(self.split) - self.config.batch + 1)
        size = self.config.batch // 3 if step == SHORT else self.config.batch
        rows = slice(start, start + size)
        return self.split.inputs[rows], tuple(target[rows] for target in self.split.targets)

    def take(self, first: int, last: int) -> list[Tensor]:
        """The steps from `first` on and before `last`; their losses, on the device."""
        found = []
        for step in range(first, last):
            self.state.position.epoch = int(step >= MIDDLE)
            set_learning_rate(self.state, self.config)
            found.append(self.step(*self.batch(step), self.rays(step)))
        return found

    def weights(self) -> list[Tensor]:
        moments = [value for state in self.state.optimizer.state.values() for value in state.values()]
        return [*self.state.model.state_dict().values(), *moments]


def apart(one: list[Tensor], other: list[Tensor]) -> dict[str, Any]:
    """Whether all are equal to the last bit, and the largest difference relative to the largest entry."""
    far = 0.0
    for x, y in zip(one, other, strict=True):
        x, y = x.double(), y.double()
        far = max(far, float((x - y).abs().max() / x.abs().max().clamp(min=1e-30)))
    return {"same bits": all(map(torch.equal, one, other)), "relative": far}


def whole(case: Case, graph: bool, device: str) -> list[Tensor]:
    """Losses and final weights and moments of a run."""
    run = Run(case, graph, device)
    return [*run.take(0, STEPS), *run.weights()]


def resumed(case: Case, device: str) -> list[Tensor]:
    """The same of a run with a graph that ends in the middle, and another that goes on from its snapshot."""
    run = Run(case, True, device)
    losses = run.take(0, MIDDLE)
    snapshot = copy.deepcopy(run.state.snapshot())
    run = Run(case, True, device, snapshot)
    return [*losses, *run.take(MIDDLE, STEPS), *run.weights()]


def diverged(case: Case, device: str) -> dict[str, Any]:
    """What is said of a NaN in step PLANTED, and how many steps had been taken when it was."""
    run = Run(case, True, device)

    def look(taken: Taken) -> None:
        require_finite_losses(taken.losses, taken.rays, ("left", "right"), 1, taken.step, Path("none"))

    pending = Pending(look, AHEAD)
    step = 0
    try:
        for step in range(STEPS):
            inputs, targets = run.batch(step)
            rays = run.rays(step)
            losses = run.step(inputs if step != PLANTED else torch.full_like(inputs, float("nan")), targets, rays)
            pending.add(Taken(1, step, 0.0, 0.0, rays, losses))
        pending.settle()
    except Diverged as error:
        return {"said": str(error), "planted": PLANTED, "steps taken": step + 1}
    return {"said": None, "planted": PLANTED, "steps taken": step + 1}


def milliseconds(case: Case, graph: bool, device: str, steps: int = 100) -> dict[str, float]:
    """A step's, its batch brought to the device and its losses read: in all, and until the host could go on."""
    run = Run(case, graph, device)
    pending = Pending(lambda taken: None, AHEAD)

    def take(count: int) -> None:
        for _ in range(count):
            rays = run.rays(0)
            pending.add(Taken(1, 1, 0.0, 0.0, rays, run.step(*run.batch(0), rays)))

    take(10)
    torch.cuda.synchronize()
    begun = time.perf_counter()
    take(steps)
    host = time.perf_counter()
    torch.cuda.synchronize()
    return {"step": 1e3 * (time.perf_counter() - begun) / steps, "host": 1e3 * (host - begun) / steps}


def check(case: Case, device: str, timed: bool = True) -> dict[str, Any]:
    """All that is asked of a case."""
    plain = whole(case, False, device)
    found: dict[str, Any] = {
        "case": case.name,
        "repeats": apart(plain, whole(case, False, device)),
        "graph": apart(plain, captured := whole(case, True, device)),
        "resumed": apart(captured, resumed(case, device)),
        "diverged": diverged(case, device),
    }
    if timed:
        times = {"as it stands": False, "graph": True}
        found["ms"] = {name: milliseconds(case, graph, device) for name, graph in times.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m palora.bench.device.graph_check", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="default: all of them")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise PaloraError("CUDA graphs need a CUDA device, and PyTorch finds none.")
    print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__}))
    for case in CASES:
        if not given.case or case.name in given.case:
            print(json.dumps(check(case, given.device)), flush=True)


if __name__ == "__main__":
    main()
