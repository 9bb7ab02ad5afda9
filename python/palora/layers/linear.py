"""The adapted fully connected layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import palora_kernels
from palora.layers.adapter import Adapter, shallow_copy
from palora.layers.routing import route


class PaLoRALinear(Adapter, nn.Linear):
    """``y = (W + alpha/r * sum_t lambda_t A_t B_t) x + b`` for the active rays (PaLoRA, Eq. 2).

    Drop-in for torch.nn.Linear. Calls need active rays: ``with palora.at(model, rays): model(x)``.

    Args:
        in_features, out_features, bias, device, dtype: as torch.nn.Linear.
        tasks: T. rank: r, of each task's adapter. alpha: the scale's numerator.

    Attributes:
        weight (O, K), bias (O,): the common part. lora_A (T, O, r), zero at the start; lora_B (T, r, K).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        tasks: int,
        rank: int,
        alpha: float = 1.0,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.install(tasks, rank, alpha, "matricised")

    @classmethod
    def from_linear(cls, module: nn.Linear, tasks: int, rank: int, alpha: float = 1.0) -> PaLoRALinear:
        """An adapted layer over the same weight and bias Parameters as ``module``."""
        adapted = shallow_copy(module)
        adapted.__class__ = cls
        adapted.install(tasks, rank, alpha, "matricised")
        return adapted

    def factor_shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return (self.out_features, self.rank), (self.rank, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """x (P, ..., in_features) -> (M*n, ..., out_features), ray-major; at one ray also (in_features,)."""
        rows, rays, shared, layout = route(self, x)
        A, B = self.factors()
        y = palora_kernels.linear(rows, self.base_weight(), self.bias, A, B, self.scaled(rays), shared=shared)
        y = self.for_hooks(y)
        return y if layout is None else layout.restored(y)
