"""The definition. Everything else in this package is checked against this file.

For ray ``m`` the layer's weight is ``W_m = W + sum_t lam[m, t] * D_t`` (PaLoRA, Eq. 1), where ``D_t = A_t B_t`` viewed
as the weight for low-rank adapters (Eq. 2; ``lam`` already carries the factor alpha/r). The ops loop over the rays,
merge, and apply torch's own layer. They are compositions of differentiable PyTorch ops, so every transform (double
backward, ``torch.func``) works on them, at the price of M passes and M merged weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def opmath_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which weights are added: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def low_rank_deltas(A: Tensor, B: Tensor, shape: Sequence[int]) -> Tensor:
    """``D_t = A_t B_t`` viewed as a weight: A (T, p, r), B (T, r, q) -> (T, *shape), in float32 or wider."""
    wide = opmath_dtype(A.dtype)
    return (A.to(wide) @ B.to(wide)).reshape(A.shape[0], *shape)


def merged_weight(weight: Tensor | None, deltas: Tensor, lam: Tensor) -> Tensor:
    """``W + sum_t lam[t] D_t`` for one ray: deltas (T, *shape), lam (T,) -> shape; added wide, rounded once."""
    dtype = deltas.dtype if weight is None else weight.dtype
    wide = opmath_dtype(dtype)
    total = torch.tensordot(lam.to(wide), deltas.to(wide), dims=1)
    if weight is not None:
        total = weight.to(wide) + total
    return total.to(dtype)


def _rows_of_ray(x: Tensor, m: int, rays: int, shared: bool) -> Tensor:
    if shared:
        return x
    n = x.shape[0] // rays
    return x[m * n : (m + 1) * n]


def _bias_of_ray(bias: Tensor | None, m: int) -> Tensor | None:
    return bias if bias is None or bias.dim() == 1 else bias[m]


def linear(x: Tensor, weight: Tensor | None, bias: Tensor | None, D: Tensor, lam: Tensor, shared: bool) -> Tensor:
    """x (P, K), weight (O, K), bias (O,) or (M, O), D (T, O, K), lam (M, T) -> (M*n, O)."""
    outputs = []
    for m in range(lam.shape[0]):
        merged = merged_weight(weight, D, lam[m]).to(x.dtype)
        outputs.append(F.linear(_rows_of_ray(x, m, lam.shape[0], shared), merged, _bias_of_ray(bias, m)))
    return torch.cat(outputs)


def conv2d(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    D: Tensor,
    lam: Tensor,
    geometry: tuple[list[int], list[int], list[int], int],
    shared: bool,
) -> Tensor:
    """x (P, C, H, W), weight (O, C/groups, kh, kw), D (T, O, C/groups, kh, kw), lam (M, T) -> (M*n, O, Ho, Wo).

    geometry: stride, padding, dilation, groups.
    """
    outputs = []
    for m in range(lam.shape[0]):
        merged = merged_weight(weight, D, lam[m]).to(x.dtype)
        rows = _rows_of_ray(x, m, lam.shape[0], shared)
        outputs.append(F.conv2d(rows, merged, _bias_of_ray(bias, m), *geometry))  # type: ignore[arg-type]
    return torch.cat(outputs)
