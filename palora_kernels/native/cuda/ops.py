"""The CUDA operators ``palora_native::*`` as functions that make their results.

Axes of size 1 stand for as many equal entries as needed; the last axis of a plane or matrix is adjacent in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.reference import opmath_dtype


def _stream(x: Tensor) -> int:
    """The cudaStream_t of the device of ``x``; 0 on the CPU, where the tests run these operators."""
    return torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0


def update(
    y: Tensor,
    left: Tensor,
    right: Tensor,
    lam: Tensor | None,
    *,
    base: Tensor | None = None,
    bias: Tensor | None = None,
    batches_per_ray: int = 1,
    rows_per_ray: int | None = None,
) -> Tensor:
    """y = base + (left o lam) right^T + bias, added in the arithmetic type and rounded once.

    Args:
        y: (b, rows, columns), written; may be ``base``.
        left: (s, T, rows, r); right: (s, T, columns, r); base: (s, rows, columns). Batch i reads source ``i % s``.
        lam: (M, T), or None for ones; bias: (M, rows, columns).
        batches_per_ray, rows_per_ray: the ray of an element is ``batch // batches_per_ray + row // rows_per_ray``;
            without ``rows_per_ray`` all rows of a batch belong to one ray.
    """
    rows = max(y.shape[1], 1) if rows_per_ray is None else max(rows_per_ray, 1)
    torch.ops.palora_native.low_rank_update.default(
        base, left, right, None if lam is None else lam.contiguous(), bias, max(batches_per_ray, 1), rows, _stream(y), y
    )
    return y


def combine(out: Tensor, z: Tensor, c: Tensor, *, base: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """out[g, a] = base[g, a] + sum_b c[g, a, b] z[g, b] + bias[g, a].

    out (G, A, rows, columns), written; z (G, B, rows, columns); c (G, A, B) in the arithmetic type; bias
    (G, A, p, columns), of which row i reads row ``i % p``.
    """
    torch.ops.palora_native.combine.default(base, z, c.contiguous(), bias, _stream(out), out)
    return out


def weighed(s: Tensor, lam: Tensor, *, samples: int, over_rays: bool = False) -> Tensor:
    """s o Lam (samples, R, positions): s (sources, R, positions), lam (M, T), sample i reading source ``i % sources``.

    With ``over_rays`` the sum of ``s[m * samples + i] o lam[m]`` over m.
    """
    out = s.new_empty(samples, s.shape[1], s.shape[2])
    torch.ops.palora_native.weigh.default(s, lam.contiguous(), over_rays, _stream(out), out)
    return out


def sum_over_rays(x: Tensor, rays: int) -> Tensor:
    """(M*n, ...) -> (n, ...), added in the arithmetic type; any dense layout, which the result shares."""
    out = torch.empty_like(x[: x.shape[0] // rays])
    ones = torch.ones(1, 1, rays, dtype=opmath_dtype(x.dtype), device=x.device)
    flat = x.as_strided((1, rays, 1, out.numel()), (x.numel(), out.numel(), out.numel(), 1))
    combine(out.as_strided((1, 1, 1, out.numel()), (1, 1, 1, 1)), flat, ones)
    return out


def _wide(x: Tensor, *size: int) -> Tensor:
    return torch.empty(size, dtype=opmath_dtype(x.dtype), device=x.device)


def column_sums(x: Tensor, y: Tensor | None = None) -> Tensor:
    """x (G, rows, columns), times y (G, rows, columns) if given -> (G, columns) in the arithmetic type."""
    out = _wide(x, x.shape[0], x.shape[2])
    torch.ops.palora_native.column_sums.default(x, y, _stream(x), out)
    return out


def plane_sums(x: Tensor, y: Tensor | None = None) -> Tensor:
    """x (samples, channels, positions), times y (sources, ...) if given -> (samples, channels)."""
    out = _wide(x, x.shape[0], x.shape[1])
    torch.ops.palora_native.plane_sums.default(x, y, _stream(x), out)
    return out


def dots(x: Tensor, y: Tensor) -> Tensor:
    """<x_g, y_gt>: x (G, rows, columns), y (G, T, rows, columns) -> (G, T) in the arithmetic type."""
    out = _wide(x, x.shape[0], y.shape[1])
    torch.ops.palora_native.dots.default(x, y, _stream(x), out)
    return out
