# mypy: allow-untyped-defs, allow-incomplete-defs
"""Y = sum_e (c_e o X) W_e^T + b: the basis plan for stacked rays, in one launch, and its dX with the roles swapped.

The elements W_e are W (c = 1) and the deltas D_t (c = lam[ray, t]), K of each after the other in one long reduction:

    [ X | lam_1 o X | lam_2 o X ] [ W | D_1 | D_2 ]^T

Rows are scaled one by one, so a tile may hold rows of any rays. With a shared input dX = sum_e G_e W_e takes operands
that were combined before, one matrix an element.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.launch import launch
from palora_kernels.triton.launching.operands import scattered, strides
from palora_kernels.triton.launching.tiles import grid_offsets, step, tile_of
from palora_kernels.triton.linear.product import bias_strides


@triton.jit
def linear_basis(
    x_ptr,
    w_ptr,
    d_ptr,
    bias_ptr,
    lam_ptr,
    y_ptr,
    rows,
    O,
    K,
    T,
    n,
    x_element,
    x_row,
    x_col,
    w_out,
    w_in,
    d_task,
    bias_ray,
    bias_col,
    lam_ray,
    lam_task,
    SCALED: tl.constexpr,
    BIAS_PER_RAY: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """x (rows, K), w (O, K) or None, d (T, O, K) with the strides of w, lam (M, T) -> y (rows, O).

    SCALED: row p is multiplied by lam[p // n, t] for element t. Else element e has its own x, x_element further on.
    """
    row_tile, column_tile = tile_of(tl.program_id(0), tl.cdiv(rows, BM), tl.cdiv(O, BN), GROUP)
    row = row_tile * BM + tl.arange(0, BM)
    o = column_tile * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    in_row = row < rows
    in_o = o < O
    ray = row // n
    x_offsets = grid_offsets(row, k, x_row, x_col)
    w_offsets = grid_offsets(k, o, w_in, w_out)
    steps = tl.cdiv(K, BK)
    elements = T
    if w_ptr is not None:
        elements += 1
    acc = tl.zeros((BM, BN), tl.float32)
    for i in range(elements * steps):
        e = i // steps
        k0 = (i % steps) * BK
        in_k = k < K - k0
        x_at = x_ptr + step(e, x_element) + step(k0, x_col)
        x = tl.load(x_at + x_offsets, mask=in_row[:, None] & in_k[None, :], other=0.0)
        if w_ptr is not None:
            w_at = tl.where(e == 0, w_ptr, d_ptr + step(e - 1, d_task))
        else:
            w_at = d_ptr + step(e, d_task)
        w = tl.load(w_at + step(k0, w_in) + w_offsets, mask=in_k[:, None] & in_o[None, :], other=0.0)
        if SCALED:
            t = e
            if w_ptr is not None:
                t = e - 1
            c = tl.load(lam_ptr + ray.to(tl.int64) * lam_ray + step(t, lam_task), mask=in_row & (t >= 0), other=1.0)
            x = (x.to(tl.float32) * c[:, None]).to(x.dtype)
        acc = tl.dot(x, w, acc, input_precision=PRECISION)
    in_y = in_row[:, None] & in_o[None, :]
    if bias_ptr is not None:
        if BIAS_PER_RAY:
            acc += tl.load(bias_ptr + grid_offsets(ray, o, bias_ray, bias_col), mask=in_y, other=0.0).to(tl.float32)
        else:
            bias = tl.load(bias_ptr + o.to(tl.int64) * bias_col, mask=in_o, other=0.0)
            acc += bias.to(tl.float32)[None, :]
    tl.store(y_ptr + grid_offsets(row, o, O, 1), acc.to(y_ptr.dtype.element_ty), mask=in_y)


def run(
    x: Tensor,
    weight: Tensor | None,
    D: Tensor,
    bias: Tensor | None,
    lam: Tensor,
    y: Tensor,
    *,
    n: int,
    scaled: bool,
) -> None:
    """Fill y (rows, O): x (rows, K), or (E, rows, K) if not ``scaled``; weight (O, K) and D (T, O, K) of one layout."""
    rows, K = x.shape[-2:]
    O = y.shape[1]
    elements = D.shape[0] + (weight is not None)
    tile = configs.choose(
        "linear_basis",
        x,
        (rows, O, K * elements),
        largest=largest(configs.kind(x.dtype)),
        scattered=scattered(x, D),
    )
    launch(
        linear_basis,
        triton.cdiv(rows, tile.rows) * triton.cdiv(O, tile.columns),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        x_ptr=x,
        w_ptr=weight,
        d_ptr=D,
        bias_ptr=bias,
        lam_ptr=lam,
        y_ptr=y,
        rows=rows,
        O=O,
        K=K,
        T=D.shape[0],
        n=max(n, 1),
        x_element=0 if scaled else x.stride(0),
        x_row=x.stride(-2),
        x_col=x.stride(-1),
        **strides(D[0], "w_out", "w_in"),
        d_task=D.stride(0),
        **bias_strides(bias),
        **strides(lam, "lam_ray", "lam_task"),
        SCALED=scaled,
        BIAS_PER_RAY=bias is not None and bias.dim() == 2,
        BM=tile.rows,
        BN=tile.columns,
        BK=tile.depth,
        GROUP=8,
        PRECISION=configs.precision(x.dtype),
    )


def largest(kind: str) -> int:
    """Exact float32 products need more registers beside the accumulator."""
    return 64 * 64 if kind == "ieee" else 128 * 128
