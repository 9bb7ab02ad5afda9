"""The gradients of single tasks, and which parameters several tasks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from palora.precision import wide

Rows = list[list[Tensor | None]]
"""T lists of one gradient a parameter; None where a task does not reach it."""


class TaskGradients:
    """∂L_t/∂p for every task t and trainable parameter p of a model: T backward passes, `.grad` untouched.

    A parameter is *shared* if the model says so (`shared_parameters()`); of a model that does not name its trunk, if
    more than one task reaches it. The others belong to a head.

    Attributes:
        parameters: P trainable parameters.
        rows: T lists of P gradients (:data:`Rows`).
        shared: P booleans.
    """

    def __init__(self, model: nn.Module, losses: Tensor, retain_graph: bool = False) -> None:
        """`losses` (T,), with their graph, which is gone afterwards unless `retain_graph`."""
        self.tasks = len(losses)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        kept = [True] * (self.tasks - 1) + [retain_graph]
        self.rows: Rows = [
            list(torch.autograd.grad(loss, self.parameters, retain_graph=keep, allow_unused=True))
            for loss, keep in zip(losses, kept, strict=True)
        ]
        self.shared = named_shared(model, self.parameters) or self.reached_by_several()

    def reached_by_several(self) -> list[bool]:
        """Which parameters more than one task has a gradient in that is not zero throughout.

        Not being None is not enough: losses that were stacked on their way hand zeros to each other's heads.
        """
        zero = torch.zeros((), dtype=torch.bool, device=self.parameters[0].device)
        some = [torch.stack([zero if g is None else g.any() for g in row]) for row in self.rows]
        counts = torch.stack(some).sum(0).tolist()
        return [count > min(1, self.tasks - 1) for count in counts]

    def gramian(self) -> Tensor:
        """G Gᵀ of the gradients of the shared parameters: (T, T), float64, on the CPU."""
        total = torch.zeros(self.tasks, self.tasks, dtype=torch.float64)
        for i, shared in enumerate(self.shared):
            if shared:
                stacked = wide(self.stacked(i).flatten(1))
                total += (stacked @ stacked.T).cpu()
        return total

    def stacked(self, index: int) -> Tensor:
        """The T gradients of one parameter, (T, *shape); zero where a task does not reach it."""
        zero = torch.zeros_like(self.parameters[index])
        found = [row[index] for row in self.rows]
        return torch.stack([zero if gradient is None else gradient for gradient in found])

    def write(self, shared: Tensor | Callable[[Tensor], Tensor], heads: Tensor) -> None:
        """Add to ``.grad``: in shared parameters Σ_t shared_t g_t, in the head of task t heads_t g_t.

        `shared` (T,) may instead be a function from the stacked gradients (T, *shape) to a gradient.
        """
        for i, parameter in enumerate(self.parameters):
            if all(row[i] is None for row in self.rows):
                continue
            stacked = self.stacked(i)
            if self.shared[i] and callable(shared):
                add_gradient(parameter, shared(stacked))
            else:
                weights = shared if self.shared[i] else heads
                assert isinstance(weights, Tensor)
                add_gradient(parameter, torch.tensordot(weights.to(stacked), stacked, dims=1))


def named_shared(model: nn.Module, parameters: list[nn.Parameter]) -> list[bool] | None:
    """Which of `parameters` the model itself calls shared (`shared_parameters()`); None if it does not say."""
    method = getattr(model, "shared_parameters", None)
    if method is None:
        return None
    shared = {id(p) for p in method()}
    return [id(p) in shared for p in parameters]


def add_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    """Add to ``.grad``, in the memory format of the parameter, as a backward pass would."""
    if parameter.grad is None:
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
    else:
        parameter.grad += gradient


def inner(left: Sequence[Tensor | None], right: Sequence[Tensor | None]) -> float:
    """⟨left, right⟩ of two gradients, parameter by parameter; None counts as zero."""
    products = [(x.to(y) * y).sum() for x, y in zip(left, right, strict=True) if x is not None and y is not None]
    return wide(torch.stack(products)).sum().item() if products else 0.0
