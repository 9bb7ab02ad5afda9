"""What tools and transforms ask of the ops beside their values: a batching rule, and a number of operations.

Rules of ``torch.func.vmap`` are met in the backward alone, where gradients come as a batch (``is_grads_batched=True``,
TorchJD's engines): the forward of a transformed call is the reference backend's. One after the other is what they do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from palora_kernels.flops import FORMULAS
from palora_kernels.library import LIBRARY


def one_by_one(op: Any) -> Any:
    """A rule of vmap for an op that returns a tensor or several: called for every element, its results stacked."""

    def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        found = []
        for i in range(info.batch_size):
            found.append(op(*[_element(a, dim, i) for a, dim in zip(arguments, in_dims, strict=True)]))
        if isinstance(found[0], Tensor):
            return torch.stack(found), 0
        stacked = tuple(torch.stack(tensors) for tensors in zip(*found, strict=True))
        return stacked, (0,) * len(stacked)

    return rule


def _element(argument: Any, dim: Any, i: int) -> Any:
    return argument.select(dim, i) if isinstance(argument, Tensor) and isinstance(dim, int) else argument


for _name, _formula in FORMULAS.items():
    _op = getattr(torch.ops.palora, _name)
    register_flop_formula(_op)(_formula)
    torch.library.register_vmap(f"palora::{_name}", one_by_one(_op.default), lib=LIBRARY)
