"""The shape every model here shares: one trunk, one head per task."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from palora_kernels.typed import shown

WIDEST = 2**20  # rows or columns of a layer, and layers


class MultiTaskModel(nn.Module):
    """Shared trunk and T task heads (hard parameter sharing).

    `forward` maps a batch of n rows to a tuple of T outputs with n rows each. Only BatchNorm sees several
    rows at once, so that the rows of several preference rays can be stacked along the batch dimension.
    Outputs are raw: class scores before the softmax, values before any scaling.

    The parameter lists are read from the modules each time: after `palora.adapt` they hold the adapters too.
    """

    trunk: nn.Module
    heads: nn.ModuleList

    def __init__(self, trunk: nn.Module, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(heads)

    @property
    def last_shared_layer(self) -> nn.Module:
        """The deepest part of the trunk, whose output every head reads."""
        raise NotImplementedError

    def shared_parameters(self) -> list[nn.Parameter]:
        """Parameters of the trunk."""
        return list(self.trunk.parameters())

    def task_parameters(self, task: int) -> list[nn.Parameter]:
        """Parameters of one task's head. IndexError if there is no such task."""
        return list(self.heads[task].parameters())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = self.trunk(x)
        return tuple(head(features) for head in self.heads)


def positive(name: str, value: int) -> int:
    """Return `value` if it is an integer >= 1 and at most :data:`WIDEST`, else raise ValueError naming the argument."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` should be an integer >= 1. Found {shown(value)}.")
    if value > WIDEST:
        raise ValueError(f"`{name}` should be at most {WIDEST:,}. Found {shown(value)}.")
    return value


def positives(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """Return `values` as a tuple if it is a non-empty sequence of integers >= 1, else raise ValueError."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) == 0:
        raise ValueError(f"`{name}` should be a non-empty sequence of integers >= 1. Found {shown(values)}.")
    if len(values) > 1024:
        raise ValueError(f"`{name}` should have at most 1,024 entries. Found {len(values):,}.")
    return tuple(positive(f"{name}[{i}]", value) for i, value in enumerate(values))
