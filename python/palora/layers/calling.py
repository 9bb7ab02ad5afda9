"""The call that `palora.check` compares: arguments in float64, fresh for every pass, and a loss of the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from palora.layers.comparing import leaves
from palora.layers.undisturbed import own
from palora.trees import map_tensors


class Call:
    """The arguments of a pass, fresh each time, and the loss that is differentiated."""

    def __init__(self, inputs: Any, targets: Any) -> None:
        self.kwargs: dict[str, Any] = dict(inputs) if isinstance(inputs, Mapping) else {}
        self.args: tuple[Any, ...] = ()
        if not isinstance(inputs, Mapping):
            self.args = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
        self.targets = None if targets is None else [_double(t) for t in leaves(targets)]

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = _double_all(self.args), _double_all(self.kwargs)
        return args, kwargs

    def loss(self, outputs: list[Tensor]) -> Tensor:
        """One ray's loss. The weighting depends on the outputs' shapes alone, so that all passes have the same."""
        total = torch.zeros((), dtype=torch.float64)
        for i, y in enumerate(y for y in outputs if y.requires_grad):
            if self.targets is not None and i < len(self.targets):
                target = self.targets[i].to(y.device)
                classes = not target.is_floating_point() and target.dim() < y.dim()
                value = F.cross_entropy(y, target) if classes else F.mse_loss(y, target.to(y.dtype).view_as(y))
            else:
                weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
                value = (y * weights.to(y.device)).sum()
            total = total + value.cpu()
        return total


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().double() if tensor.is_floating_point() else tensor.detach()


def _double_all(value: Any) -> Any:
    return own(map_tensors(lambda tensor: _double(tensor).clone(), value))
