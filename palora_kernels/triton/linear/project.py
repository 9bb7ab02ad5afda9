# mypy: allow-untyped-defs, allow-incomplete-defs
"""S = X B^T, skinny: (rows, K) x (R, K) -> (rows, R). The first half of the split plan, and U0 = G A on its own."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.launch import launch
from palora_kernels.triton.launching.operands import (
    Factor,
    alignment,
    padded,
    run_alignment,
    scattered,
    strides,
)
from palora_kernels.triton.launching.tiles import factor_grid, grid_offsets, multiple, step


@triton.jit
def linear_project(
    x_ptr,
    into_ptr,
    s_ptr,
    rows,
    K,
    R,
    r,
    x_row,
    x_col,
    into_task,
    into_rank,
    into_col,
    K_ALIGN: tl.constexpr,
    X_ALIGN: tl.constexpr,
    INTO_ALIGN: tl.constexpr,
    BM: tl.constexpr,
    BR: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """x (rows, K), into (R, K) -> s (rows, R); programs of one row tile follow each other."""
    K = multiple(K, K_ALIGN)
    column_tiles = tl.cdiv(R, BR)
    row = (tl.program_id(0) // column_tiles) * BM + tl.arange(0, BM)
    j = (tl.program_id(0) % column_tiles) * BR + tl.arange(0, BR)
    k = tl.arange(0, BK)
    in_row = row < rows
    in_j = j < R
    x_offsets = grid_offsets(row, k, x_row, x_col, 1, X_ALIGN)
    into_offsets = factor_grid(k, j, r, into_task, into_rank, into_col, INTO_ALIGN)
    s = tl.zeros((BM, BR), tl.float32)
    for k0 in range(0, K, BK):
        in_k = k < K - k0
        x = tl.load(x_ptr + step(k0, x_col) + x_offsets, mask=in_row[:, None] & in_k[None, :], other=0.0)
        into = tl.load(into_ptr + step(k0, into_col) + into_offsets, mask=in_k[:, None] & in_j[None, :], other=0.0)
        s = tl.dot(x, into, s, input_precision=PRECISION)
    tl.store(s_ptr + grid_offsets(row, j, R, 1), s.to(s_ptr.dtype.element_ty), mask=in_row[:, None] & in_j[None, :])


def run(x: Tensor, into: Factor) -> Tensor:
    """S (rows, R) in the dtype of x."""
    rows, K = x.shape
    R = into.columns
    s = x.new_empty(rows, R)
    BR = min(padded(R), 64)
    tile = choose(x, rows, BR, K)
    launch(
        linear_project,
        triton.cdiv(rows, tile.rows) * triton.cdiv(R, BR),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        x_ptr=x,
        into_ptr=into.tensor,
        s_ptr=s,
        rows=rows,
        K=K,
        R=R,
        r=max(into.rank, 1),
        **strides(x, "x_row", "x_col"),
        **into.strides("into"),
        K_ALIGN=alignment(K),
        X_ALIGN=run_alignment(x.stride(1), x.stride(0)),
        INTO_ALIGN=run_alignment(into.column_stride, into.task_stride, into.rank_stride),
        BM=tile.rows,
        BR=BR,
        BK=tile.depth,
        PRECISION=configs.precision(x.dtype),
    )
    return s


def choose(x: Tensor, rows: int, BR: int, K: int) -> configs.Tile:
    """Only the rows of the tile count: its columns are the BR of the factor."""
    return configs.choose("linear_project", x, (rows, BR, K), narrow=BR, scattered=scattered(x))
