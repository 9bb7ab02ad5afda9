# mypy: allow-untyped-defs, allow-incomplete-defs
"""Y = sum of partial products + (S o Lam) A^T + b, from what `linear_splitk` left: its second launch.

The splits are added in order, split 0 first, and Y is rounded once. S stays in float32 until it is multiplied by Lam;
the first column of tiles stores it for the backward.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.triton.launching import configs, tuning
from palora_kernels.triton.launching.launch import launch
from palora_kernels.triton.launching.operands import Factor, alignment, padded, strides
from palora_kernels.triton.launching.tiles import factor_offsets, grid_offsets, lam_rows, multiple, step
from palora_kernels.triton.launching.tuning import Tile
from palora_kernels.triton.linear.product import bias_strides
from palora_kernels.triton.linear.splitk import Partial


@triton.jit
def linear_splitk_sum(
    partial_ptr, bias_ptr, out_ptr, lam_ptr, s_ptr, y_ptr, rows, all_rows, O, R, r, n, width, s_start,
    bias_ray, bias_col, out_task, out_rank, out_col, lam_ray, lam_task,
    SPLITS: tl.constexpr, BASE: tl.constexpr, BIAS_PER_RAY: tl.constexpr, O_ALIGN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BR: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """partial (SPLITS, rows, width), out (R, O), lam (M, T) -> y (all_rows, O) or None, and s (rows, R).

    Row p of y belongs to ray p // n and is made of row p % rows of the sums: for a shared input all_rows is M*rows.
    BASE: the partial sums have columns for y. COLUMNS: R, rounded up to whole BR.
    """
    O = multiple(O, O_ALIGN)
    width = multiple(width, 16)
    s_start = multiple(s_start, 16)
    column_tiles = 1
    if y_ptr is not None:
        column_tiles = tl.cdiv(O, BN)
    column_tile = tl.program_id(0) % column_tiles
    row = (tl.program_id(0) // column_tiles) * BM + tl.arange(0, BM)
    o = column_tile * BN + tl.arange(0, BN)
    in_row = row < all_rows
    in_o = o < O
    in_y = in_row[:, None] & in_o[None, :]
    of = row % rows
    ray = row // n
    dtype = s_ptr.dtype.element_ty

    acc = tl.zeros((BM, BN), tl.float32)
    for j0 in tl.static_range(0, COLUMNS, BR):
        j = j0 + tl.arange(0, BR)
        in_j = j < R
        in_s = in_row[:, None] & in_j[None, :]
        s_offsets = s_start + grid_offsets(of, j, width, 1)
        s = tl.zeros((BM, BR), tl.float32)
        for i in tl.static_range(SPLITS):
            s += tl.load(partial_ptr + step(i, width) * rows + s_offsets, mask=in_s, other=0.0)
        if y_ptr is not None:
            lam = lam_rows(lam_ptr, ray, j, in_row, in_j, r, lam_ray, lam_task)
            out_offsets = factor_offsets(j, r, out_task, out_rank)[:, None] + o.to(tl.int64)[None, :] * out_col
            out = tl.load(out_ptr + out_offsets, mask=in_j[:, None] & in_o[None, :], other=0.0)
            if BASE and j0 == 0:  # here, so that all loads are on their way before the first is waited for
                base_offsets = grid_offsets(of, o, width, 1)
                for i in tl.static_range(SPLITS):
                    acc += tl.load(partial_ptr + step(i, width) * rows + base_offsets, mask=in_y, other=0.0)
            acc = tl.dot((s * lam).to(dtype), out, acc, input_precision=PRECISION)
        in_s = (row < rows)[:, None] & in_j[None, :] & (column_tile == 0)
        tl.store(s_ptr + grid_offsets(row, j, R, 1), s.to(dtype), mask=in_s)
    if y_ptr is not None:
        if bias_ptr is not None:
            if BIAS_PER_RAY:
                acc += tl.load(bias_ptr + grid_offsets(ray, o, bias_ray, bias_col), mask=in_y, other=0.0).to(tl.float32)
            else:
                bias = tl.load(bias_ptr + o.to(tl.int64) * bias_col, mask=in_o, other=0.0)
                acc += bias.to(tl.float32)[None, :]
        tl.store(y_ptr + grid_offsets(row, o, O, 1), acc.to(dtype), mask=in_y)


def run(partial: Partial, bias: Tensor | None, out: Factor, lam: Tensor, s: Tensor, y: Tensor | None, n: int) -> None:
    """Fill s (rows, R), and y (rows, O) or, for a shared input, (M*rows, O) if it is wanted."""
    rows, R = s.shape
    all_rows, O = (rows, 0) if y is None else y.shape
    BR = min(padded(R), _WIDEST)
    tile = choose(s, all_rows, O, R, partial.splits)
    launch(
        linear_splitk_sum,
        triton.cdiv(all_rows, tile.rows) * (1 if y is None else triton.cdiv(O, tile.columns)),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        partial_ptr=partial.workspace,
        bias_ptr=bias,
        out_ptr=out.tensor,
        lam_ptr=lam,
        s_ptr=s,
        y_ptr=y,
        rows=rows,
        all_rows=all_rows,
        O=O,
        R=R,
        r=max(out.rank, 1),
        n=max(n, 1),
        width=partial.width,
        s_start=partial.s_start,
        **bias_strides(bias),
        **out.strides("out"),
        **strides(lam, "lam_ray", "lam_task"),
        SPLITS=partial.splits,
        BASE=partial.s_start > 0,
        BIAS_PER_RAY=bias is not None and bias.dim() == 2,
        O_ALIGN=alignment(O),
        BM=tile.rows,
        BN=tile.columns,
        BR=BR,
        COLUMNS=max(triton.cdiv(R, BR), 1) * BR,
        PRECISION=configs.precision(s.dtype),
    )


_WIDEST = 32  # columns of S at a time
# Small, so that all processors read: the sums come from L2 and are not read again.
TILES = [
    Tile(32, 64, _WIDEST, 8, 1),
    Tile(16, 128, _WIDEST, 8, 1),
    Tile(16, 64, _WIDEST, 4, 1),
    Tile(16, 32, _WIDEST, 4, 1),
]
_START = 1 << 13  # bytes that a processor could read while a program starts


def choose(s: Tensor, rows: int, O: int, R: int, splits: int) -> Tile:
    target = configs.target_of(s.device)

    def cost(tile: Tile) -> float:
        """Bytes that the busiest processor reads, two programs at a time."""
        programs = -(-rows // tile.rows) * -(-O // tile.columns)
        return -(-programs // (2 * target.processors)) * (4 * splits * tile.rows * (tile.columns + R) + _START)

    name = tuning.tile_key("linear_splitk_sum", configs.kind(s.dtype), rows, O, R)
    return configs.settle(name, s.device, TILES, cost)
