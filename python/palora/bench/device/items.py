"""What `make gpu-check` times, and in which order: an `Item` is what one process measures in a few seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from palora.bench import models, ops
from palora.bench.device import values
from palora.bench.device.rows import REQUESTS
from palora.bench.problem import Problem

LARGE = [  # M, n, K, O, T, r
    (5, 1024, 2048, 2048, 2, 8),
    (4, 1024, 4096, 4096, 2, 8),
    (4, 1024, 4096, 4096, 4, 8),
    (4, 1024, 4096, 4096, 4, 16),
    (1, 64, 4096, 4096, 3, 8),
]
LINEAR = [REQUESTS, *LARGE, *ops.LINEAR]
OPS = {"linear": len(LINEAR), "conv2d": len(ops.CONV), "linear_delta": 1}
STEPS: dict[str, Callable[..., models.Named]] = {
    "lenet": models.lenet_steps,
    "mlp": models.mlp_steps,
    "resnet18": models.resnet18_steps,
    "segnet": models.segnet_steps,
}
TELLING = {"linear": (0, 2, 4, 3, 5, 7), "conv2d": tuple(range(OPS["conv2d"]))}
TUNED = {"linear": (5, 2, 4, 1, 7, 8, 11), "conv2d": (1, 2, 4, 0, 5)}  # first; the other shapes after everything else
COMPILED = {"linear": (2, 7, 8), "conv2d": (1, 2), "lenet": (5,), "mlp": (5,)}
MOST_COMPILED = 11  # rays: a longer loop takes torch.compile minutes
KINDS = ("rates", *OPS, "steps", "tune", "compiled", "plain")
_TOGETHER = 24  # items that are prepared at once, where a run may end after any of them


@dataclass(frozen=True)
class Item:
    """what: "rates", "row" (an op), "step" (a network); or "tune", "compiled", or "plain" (cuDNN, benchmark off).

    subject: an op or a network of `STEPS`. index: of the op's shape; the rays of a network. seconds: for a column.
    """

    what: str
    subject: str
    index: int
    precision: str
    seconds: float

    @property
    def name(self) -> str:
        what = "" if self.what in ("row", "step") else f"{self.what} "
        return f"{what}{self.subject} {self.index} {self.precision}".replace("  ", " ")

    @property
    def kind(self) -> str:
        """As `KINDS` has it."""
        return {"row": self.subject, "step": "steps"}.get(self.what, self.what)

    @property
    def benchmark(self) -> bool:
        """Whether cuDNN tries its algorithms. PyTorch remembers one for each shape, whichever way it was found, so a
        process keeps to one way. Off, as PyTorch is, for networks, whose many shapes it would take long to try."""
        return self.what != "plain" and self.subject not in STEPS


def phases(precisions: list[str], seconds: float) -> Iterator[list[Item]]:
    """What matters most first, each phase in the order in which it is timed: a run that is cut short leaves the rest
    to the next."""
    first = precisions[0]

    def of(what: str, indices: dict[str, tuple[int, ...]], precision: str = first) -> list[Item]:
        return [Item(what, subject, i, precision, seconds) for subject, some in indices.items() for i in some]

    def steps(rays: int, precision: str) -> list[Item]:
        return of("step", dict.fromkeys(STEPS, (rays,)), precision)

    every = {op: tuple(range(count)) for op, count in OPS.items()}
    plain = {"conv2d": every["conv2d"]}
    seen = [Item("rates", "", 0, first, seconds), *of("row", TELLING), *of("plain", plain), *steps(5, first)]
    yield seen
    second = [*of("tune", TUNED), *of("compiled", COMPILED)]
    yield second
    rest = [item for rays in (11, 1) for item in steps(rays, first)] + of("row", every)
    for precision in precisions[1:]:
        rest.append(Item("rates", "", 0, precision, seconds))
        rest += of("row", every, precision) + of("plain", plain, precision)
        # In full float32 a step is made of the library's products.
        rest += [item for rays in (5, 11, 1) for item in steps(rays, precision) if precision != "float32"]
    rest += of("tune", every)
    rest = [item for item in rest if item not in seen and item not in second]
    for start in range(0, len(rest), _TOGETHER):
        yield rest[start : start + _TOGETHER]


def problem(item: Item, device: torch.device) -> Problem:
    """The tensors and functions of an op's item."""
    dtype = values.DTYPES[item.precision]
    if item.subject == "linear":
        shape = LINEAR[item.index]
        found = ops.linear(shape, device, dtype)
        # The definition merges a weight a ray: 64 of them in float64 are more than processes that share a GPU have.
        return replace(found, reference=found.theirs) if shape[0] > MOST_COMPILED else found
    if item.subject == "conv2d":
        return ops.conv(ops.CONV[item.index], device, dtype, True)
    return ops.delta(ops.DELTA, device, dtype)


def steps(item: Item, device: torch.device) -> models.Named:
    """The network of a step's item."""
    precision = torch.bfloat16 if item.precision == "bfloat16" else None
    options: dict[str, dict[str, Any]] = {"lenet": {"channels_last": True}, "segnet": {"chunk": None, "optimise": True}}
    more = options.get(item.subject, {})
    name, found, tolerance = STEPS[item.subject](device, precision=precision, rays=item.index, **more)
    return f"{name}, {item.index} rays", found, tolerance
