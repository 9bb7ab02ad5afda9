# mypy: allow-untyped-defs, allow-incomplete-defs
"""Y = X W^T + (S o Lam) A^T + b in one launch; with the roles swapped, dX = G W + (U0 o Lam) B.

    X rows x K ──┬── W^T ──> acc  [BM, BN]  ──────────────── + ── + b ──> Y
                 └── B^T ──> S    [BM, BR]  ── o Lam ── A^T ─┘
                             (kept for the backward)

The K loop feeds both accumulators from the same tile of X. Lam is gathered per row, so a tile may hold rows of any
rays, down to one row a ray. With a shared input the tile holds n common rows: acc and S are formed once and the
epilogue writes M results, one for each ray.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.launch import launch
from palora_kernels.triton.launching.operands import (
    Adapters,
    alignment,
    padded,
    run_alignment,
    scattered,
    strides,
)
from palora_kernels.triton.launching.tiles import (
    factor_grid,
    factor_offsets,
    grid_offsets,
    lam_of,
    lam_rows,
    multiple,
    step,
    tile_of,
)

LARGEST_FUSED = 64  # columns of S that fit beside the tile; half of it in float32


def widest(dtype: torch.dtype) -> int:
    """Columns of S that a program holds: more than these are computed before (``split``) and read piece by piece."""
    return LARGEST_FUSED if dtype.itemsize == 2 else LARGEST_FUSED // 2


@triton.jit
def linear_product(
    x_ptr,
    w_ptr,
    bias_ptr,
    into_ptr,
    out_ptr,
    lam_ptr,
    s_ptr,
    y_ptr,
    rows,
    O,
    K,
    R,
    r,
    n,
    M,
    x_row,
    x_col,
    w_out,
    w_in,
    bias_ray,
    bias_col,
    into_task,
    into_rank,
    into_col,
    out_task,
    out_rank,
    out_col,
    lam_ray,
    lam_task,
    SHARED: tl.constexpr,
    S_FROM: tl.constexpr,
    BIAS_PER_RAY: tl.constexpr,
    K_ALIGN: tl.constexpr,
    O_ALIGN: tl.constexpr,
    X_ALIGN: tl.constexpr,
    W_IN_ALIGN: tl.constexpr,
    W_OUT_ALIGN: tl.constexpr,
    INTO_ALIGN: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BR: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """x (rows, K), w (O, K) or None, into (R, K), out (R, O), lam (M, T), s (.., R), y (rows or M*rows, O).

    S_FROM "x": S is computed here and written to s if s is there; R <= BR. "memory": s holds S, (rows, R).
    "rays": s holds one matrix a ray, (M*rows, R), and sum over m of S_m o Lam_m is added.
    SHARED: every ray sees the rows of x; y has M blocks of them. Else row p belongs to ray p // n.
    *_ALIGN: powers of two that divide K, O and the starts of the contiguous runs of x, of w along K or O, and of into.
    """
    K = multiple(K, K_ALIGN)
    O = multiple(O, O_ALIGN)
    row_tile, column_tile = tile_of(tl.program_id(0), tl.cdiv(rows, BM), tl.cdiv(O, BN), GROUP)
    row = row_tile * BM + tl.arange(0, BM)
    o = column_tile * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    j = tl.arange(0, BR)
    in_row = row < rows
    in_o = o < O
    in_j = j < R
    dtype = x_ptr.dtype.element_ty

    acc = tl.zeros((BM, BN), tl.float32)
    s = tl.zeros((BM, BR), tl.float32)
    if (w_ptr is not None) or S_FROM == "x":
        x_offsets = grid_offsets(row, k, x_row, x_col, 1, X_ALIGN)
        w_offsets = grid_offsets(k, o, w_in, w_out, W_IN_ALIGN, W_OUT_ALIGN)
        into_offsets = factor_grid(k, j, r, into_task, into_rank, into_col, INTO_ALIGN)
        for k0 in range(0, K, BK):
            in_k = k < K - k0
            x = tl.load(x_ptr + step(k0, x_col) + x_offsets, mask=in_row[:, None] & in_k[None, :], other=0.0)
            if w_ptr is not None:
                w = tl.load(w_ptr + step(k0, w_in) + w_offsets, mask=in_k[:, None] & in_o[None, :], other=0.0)
                acc = tl.dot(x, w, acc, input_precision=PRECISION)
            if S_FROM == "x":
                into = tl.load(
                    into_ptr + step(k0, into_col) + into_offsets, mask=in_k[:, None] & in_j[None, :], other=0.0
                )
                s = tl.dot(x, into, s, input_precision=PRECISION)

    if S_FROM == "x":
        s_offsets = grid_offsets(row, j, R, 1)
        in_s = in_row[:, None] & in_j[None, :]
        out_offsets = factor_offsets(j, r, out_task, out_rank)[:, None] + o.to(tl.int64)[None, :] * out_col
        out = tl.load(out_ptr + out_offsets, mask=in_j[:, None] & in_o[None, :], other=0.0)
        if s_ptr is not None:
            if column_tile == 0:
                tl.store(s_ptr + s_offsets, s.to(dtype), mask=in_s)

    y_offsets = grid_offsets(row, o, O, 1)
    in_y = in_row[:, None] & in_o[None, :]
    if SHARED:
        if bias_ptr is not None and not BIAS_PER_RAY:
            bias = tl.load(bias_ptr + o.to(tl.int64) * bias_col, mask=in_o, other=0.0)
            acc += bias.to(tl.float32)[None, :]
        for m in range(M):
            if S_FROM == "x":
                lam = lam_of(lam_ptr, m, j, in_j, r, lam_ray, lam_task)
                y = tl.dot((s * lam[None, :]).to(dtype), out, acc, input_precision=PRECISION)
            else:
                y = acc
                for j0 in range(0, R, BR):
                    jj = j0 + j
                    scaled = tl.load(
                        s_ptr + grid_offsets(row, jj, R, 1), mask=in_row[:, None] & (jj < R)[None, :], other=0.0
                    ).to(tl.float32)
                    scaled *= lam_of(lam_ptr, m, jj, jj < R, r, lam_ray, lam_task)[None, :]
                    out_offsets = factor_offsets(jj, r, out_task, out_rank)[:, None] + o.to(tl.int64)[None, :] * out_col
                    out = tl.load(out_ptr + out_offsets, mask=(jj < R)[:, None] & in_o[None, :], other=0.0)
                    y = tl.dot(scaled.to(dtype), out, y, input_precision=PRECISION)
            if bias_ptr is not None and BIAS_PER_RAY:
                bias = tl.load(bias_ptr + step(m, bias_ray) + o.to(tl.int64) * bias_col, mask=in_o, other=0.0)
                y += bias.to(tl.float32)[None, :]
            tl.store(y_ptr + step(m, 1) * rows * O + y_offsets, y.to(dtype), mask=in_y)
    else:
        ray = row // n
        if S_FROM == "x":
            scaled = s * lam_rows(lam_ptr, ray, j, in_row, in_j, r, lam_ray, lam_task)
            acc = tl.dot(scaled.to(dtype), out, acc, input_precision=PRECISION)
        else:
            for j0 in range(0, R, BR):
                jj = j0 + j
                in_s = in_row[:, None] & (jj < R)[None, :]
                if S_FROM == "rays":
                    scaled = tl.zeros((BM, BR), tl.float32)
                    for m in range(M):
                        s_m = tl.load(s_ptr + step(m, 1) * rows * R + grid_offsets(row, jj, R, 1), mask=in_s, other=0.0)
                        scaled += s_m.to(tl.float32) * lam_of(lam_ptr, m, jj, jj < R, r, lam_ray, lam_task)[None, :]
                else:
                    scaled = tl.load(s_ptr + grid_offsets(row, jj, R, 1), mask=in_s, other=0.0).to(tl.float32)
                    scaled *= lam_rows(lam_ptr, ray, jj, in_row, jj < R, r, lam_ray, lam_task)
                out_offsets = factor_offsets(jj, r, out_task, out_rank)[:, None] + o.to(tl.int64)[None, :] * out_col
                out = tl.load(out_ptr + out_offsets, mask=(jj < R)[:, None] & in_o[None, :], other=0.0)
                acc = tl.dot(scaled.to(dtype), out, acc, input_precision=PRECISION)
        if bias_ptr is not None:
            if BIAS_PER_RAY:
                bias_offsets = grid_offsets(ray, o, bias_ray, bias_col)
                acc += tl.load(bias_ptr + bias_offsets, mask=in_y, other=0.0).to(tl.float32)
            else:
                bias = tl.load(bias_ptr + o.to(tl.int64) * bias_col, mask=in_o, other=0.0)
                acc += bias.to(tl.float32)[None, :]
        tl.store(y_ptr + y_offsets, acc.to(dtype), mask=in_y)


def run(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    adapters: Adapters,
    s: Tensor | None,
    y: Tensor,
    *,
    s_from: str,
    shared: bool = False,
) -> None:
    """Fill y (rows, O), or (M*rows, O) if ``shared``; weight is (O, K) with any strides. See `linear_product`."""
    rows, K = x.shape
    into, lam = adapters.into, adapters.lam
    O, R = y.shape[1], into.columns
    BR = min(padded(R), widest(x.dtype))
    tile = choose(x, weight, rows, O, K, BR, one=not shared and s_from != "rays")
    w_in, w_out = (1, 1) if weight is None else (run_alignment(*weight.stride()[::-1]), run_alignment(*weight.stride()))
    launch(
        linear_product,
        triton.cdiv(rows, tile.rows) * triton.cdiv(O, tile.columns),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        x_ptr=x,
        w_ptr=weight,
        bias_ptr=bias,
        into_ptr=into.tensor,
        out_ptr=adapters.out.tensor,
        lam_ptr=lam,
        s_ptr=s,
        y_ptr=y,
        rows=rows,
        O=O,
        K=K,
        R=R,
        r=max(into.rank, 1),
        n=max(adapters.n, 1),
        M=lam.shape[0],
        **strides(x, "x_row", "x_col"),
        **strides(weight, "w_out", "w_in"),
        **bias_strides(bias),
        **into.strides("into"),
        **adapters.out.strides("out"),
        **strides(lam, "lam_ray", "lam_task"),
        SHARED=shared,
        S_FROM=s_from,
        BIAS_PER_RAY=bias is not None and bias.dim() == 2,
        K_ALIGN=alignment(K),
        O_ALIGN=alignment(O),
        X_ALIGN=run_alignment(x.stride(1), x.stride(0)),
        W_IN_ALIGN=w_in,
        W_OUT_ALIGN=w_out,
        INTO_ALIGN=run_alignment(into.column_stride, into.task_stride, into.rank_stride),
        BM=tile.rows,
        BN=tile.columns,
        BK=tile.depth,
        BR=BR,
        GROUP=8,
        PRECISION=configs.precision(x.dtype),
    )


def _largest(BR: int, kind: str, target: configs.Target, one: bool) -> int:
    """S takes registers beside the accumulator, and 32-bit operands twice as many: larger tiles would spill.

    ``one``: the accumulator is the only one. That of a shared input is kept while each ray's results are made.
    """
    few, many = {"half": (128 * 128, 64 * 64), "tf32": (128 * 64, 64 * 64), "ieee": (128 * 64, 64 * 32)}[kind]
    usual = few if BR <= 16 or (kind == "half" and BR <= 32) else many
    return configs.largest(kind, target, usual) if one else usual


def choose(x: Tensor, weight: Tensor | None, rows: int, O: int, K: int, BR: int, one: bool) -> configs.Tile:
    shape, apart = (rows, O, K), scattered(x, weight)
    largest = _largest(BR, configs.kind(x.dtype), configs.target_of(x.device), one)
    return configs.choose("linear_product", x, shape, side=BR, largest=largest, scattered=apart)


def bias_strides(bias: Tensor | None) -> dict[str, int]:
    if bias is None:
        return {"bias_ray": 0, "bias_col": 0}
    return {"bias_ray": bias.stride(0) if bias.dim() == 2 else 0, "bias_col": bias.stride(-1)}
