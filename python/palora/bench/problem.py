"""One op on one set of tensors: ours, the loop over rays, the floor, and the definition that checks all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from palora.bench.case import Case, Run

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 3e-2, torch.float16: 5e-3}
PARTS = ("forward", "backward", "forward + backward")
Op = Callable[..., Tensor]


@dataclass
class Problem:
    """All functions take the tensors of ``case`` by name (``plain`` those of ``plain_case``) and return the output.

    Attributes:
        grad: what the backward starts from. shared: the rays see the same rows. eager: ours in plain PyTorch.
        others: more columns of the table, such as merging per ray. wanted: what ``reference`` gives, once asked for.
    """

    name: str
    case: dict[str, Tensor]
    ours: Op
    theirs: Op
    plain: Op
    plain_case: dict[str, Tensor]
    reference: Op
    eager: Op
    shared: bool
    others: dict[str, Op] = field(default_factory=dict)
    wanted: list[Tensor] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        with torch.no_grad():
            y = self.ours(**self.case)
        x = self.plain_case["x"]
        grad = torch.randn(y.shape, dtype=x.dtype, device=x.device)
        nhwc = grad.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        self.grad = grad.contiguous(memory_format=torch.channels_last) if nhwc else grad

    @property
    def tolerance(self) -> float:
        """Sums of float32 and float64 are rounded as often as they are long; in 16 bits operands and results are."""
        weight = self.case["weight"]
        return TOLERANCE[weight.dtype] * (weight.shape[-1] ** 0.5 if weight.element_size() > 2 else 1.0)

    def prepared(self, op: Op, part: str) -> Callable[[], Run]:
        """What runs once, before the clock: leaves are made and, for the backward alone, the forward pass is done.
        It returns what is timed."""
        case = self.plain_case if op is self.plain else self.case

        def prepare() -> Run:
            leaves = _leaves(case)
            inputs = [t for t in leaves.values() if t.requires_grad]
            if part == "forward":
                return lambda: _without_grad(op, leaves)
            if part == "backward":
                y = op(**leaves)
                return lambda: torch.autograd.grad(y, inputs, self.grad, retain_graph=True)
            return lambda: torch.autograd.grad(op(**leaves), inputs, self.grad)

        return prepare

    def timed(self, backward: bool) -> Case:
        """The row of the table that times everything in one go."""
        part = PARTS[2] if backward else PARTS[0]
        columns = {"ours": self.ours, "authors": self.theirs, "floor": self.plain, **self.others}
        runs = {name: self.prepared(op, part)() for name, op in columns.items()}
        return Case(
            self.name,
            runs.pop("ours"),
            runs.pop("authors"),
            runs.pop("floor"),
            self.error,
            self.tolerance,
            runs,
        )

    def error(self, op: Op | None = None) -> float:
        """Largest error of output and gradients of ``op``, ours if there is none, against the reference in float64,
        each over its largest value."""
        if not self.wanted:
            self.wanted = self._results(self.reference, True)
        pairs = zip(self._results(op or self.ours, False), self.wanted, strict=True)
        return max(relative(got, want) for got, want in pairs)

    def _results(self, op: Op, wide: bool) -> list[Tensor]:
        leaves = _leaves({k: v.double() if wide else v for k, v in self.case.items()})
        y = op(**leaves)
        inputs = [t for t in leaves.values() if t.requires_grad]
        return [y.detach(), *torch.autograd.grad(y, inputs, self.grad.to(y.dtype))]


def relative(got: Tensor, want: Tensor) -> float:
    """The largest difference over the largest value; infinite where something is not a number."""
    if want.numel() == 0:
        return 0.0
    error = float((got.double() - want.double()).abs().max() / want.abs().max().clamp(min=1e-30))
    return error if error == error else float("inf")


def _without_grad(op: Op, leaves: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return op(**leaves)


def _leaves(case: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().requires_grad_(name != "lam") for name, tensor in case.items()}
