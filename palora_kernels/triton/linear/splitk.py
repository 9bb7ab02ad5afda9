# mypy: allow-untyped-defs, allow-incomplete-defs
"""Partial sums of X [W; B]^T for few rows: the reduction over K is cut into splits, one program each.

    X rows x K ── W^T | B^T ──> [rows, O | R] of each split, in float32

With few rows W is all there is to read, and a program a column of tiles would leave the memory waiting for it. B's
rows are more columns of the same launch, so X is read for them once more and no launch waits for S.
`linear_splitk_sum` adds the splits up and makes Y of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.triton.launching import configs, tuning
from palora_kernels.triton.launching.configs import Target
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
from palora_kernels.triton.launching.tuning import Tile


@triton.jit
def linear_splitk(
    x_ptr, w_ptr, into_ptr, partial_ptr, rows, O, K, R, r, x_row, x_col, w_out, w_in, into_task, into_rank, into_col,
    width, s_start, splits,
    K_ALIGN: tl.constexpr, O_ALIGN: tl.constexpr, X_ALIGN: tl.constexpr, W_IN_ALIGN: tl.constexpr,
    W_OUT_ALIGN: tl.constexpr, INTO_ALIGN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """x (rows, K), w (O, K) or None, into (R, K) -> partial (splits, rows, width): x w^T, and x into^T at s_start.

    Programs of one column tile follow each other, so that w comes from memory once; then the columns of one split.
    *_ALIGN as in linear_product.
    """
    K = multiple(K, K_ALIGN)
    O = multiple(O, O_ALIGN)
    width = multiple(width, 16)
    s_start = multiple(s_start, 16)
    row_tiles = tl.cdiv(rows, BM)
    o_tiles = 0
    if w_ptr is not None:
        o_tiles = tl.cdiv(O, BN)
    column_tiles = o_tiles + tl.cdiv(R, BR)
    row_tile = tl.program_id(0) % row_tiles
    column_tile = (tl.program_id(0) // row_tiles) % column_tiles
    split = tl.program_id(0) // row_tiles // column_tiles
    chunk = tl.cdiv(tl.cdiv(K, splits), BK) * BK
    start = split * chunk
    last = tl.minimum(start + chunk, K)

    row = row_tile * BM + tl.arange(0, BM)
    k = tl.arange(0, BK)
    in_row = row < rows
    x_offsets = grid_offsets(row, k, x_row, x_col, 1, X_ALIGN)
    to = partial_ptr + step(split, width) * rows
    if column_tile < o_tiles:
        if w_ptr is not None:
            o = column_tile * BN + tl.arange(0, BN)
            in_o = o < O
            w_offsets = grid_offsets(k, o, w_in, w_out, W_IN_ALIGN, W_OUT_ALIGN)
            acc = tl.zeros((BM, BN), tl.float32)
            for k0 in range(start, last, BK):
                in_k = k < K - k0
                x = tl.load(x_ptr + step(k0, x_col) + x_offsets, mask=in_row[:, None] & in_k[None, :], other=0.0)
                w = tl.load(w_ptr + step(k0, w_in) + w_offsets, mask=in_k[:, None] & in_o[None, :], other=0.0)
                acc = tl.dot(x, w, acc, input_precision=PRECISION)
            tl.store(to + grid_offsets(row, o, width, 1), acc, mask=in_row[:, None] & in_o[None, :])
    else:
        j = (column_tile - o_tiles) * BR + tl.arange(0, BR)
        in_j = j < R
        into_offsets = factor_grid(k, j, r, into_task, into_rank, into_col, INTO_ALIGN)
        s = tl.zeros((BM, BR), tl.float32)
        for k0 in range(start, last, BK):
            in_k = k < K - k0
            x = tl.load(x_ptr + step(k0, x_col) + x_offsets, mask=in_row[:, None] & in_k[None, :], other=0.0)
            into = tl.load(into_ptr + step(k0, into_col) + into_offsets, mask=in_k[:, None] & in_j[None, :], other=0.0)
            s = tl.dot(x, into, s, input_precision=PRECISION)
        tl.store(to + s_start + grid_offsets(row, j, width, 1), s, mask=in_row[:, None] & in_j[None, :])


@dataclass(frozen=True)
class Partial:
    """``workspace`` (splits, rows, width) in float32: the first columns for Y, those from ``s_start`` on for S."""

    workspace: Tensor
    splits: int
    width: int
    s_start: int


def run(x: Tensor, weight: Tensor | None, into: Factor) -> Partial:
    """x (rows, K), weight (O, K) with any strides; without it only S is formed."""
    rows, K = x.shape
    O, R = 0 if weight is None else weight.shape[0], into.columns
    tile = choose(x, weight, into, rows, O, K)
    s_start = -(-O // 16) * 16
    width = s_start + -(-R // 16) * 16
    workspace = x.new_empty(tile.splits * rows * width, dtype=torch.float32)
    BR = min(padded(R), tile.columns)
    launch(
        linear_splitk,
        triton.cdiv(rows, tile.rows) * (triton.cdiv(O, tile.columns) + triton.cdiv(R, BR)) * tile.splits,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        x_ptr=x,
        w_ptr=weight,
        into_ptr=into.tensor,
        partial_ptr=workspace,
        rows=rows,
        O=O,
        K=K,
        R=R,
        r=max(into.rank, 1),
        **strides(x, "x_row", "x_col"),
        **strides(weight, "w_out", "w_in"),
        **into.strides("into"),
        width=width,
        s_start=s_start,
        splits=tile.splits,
        K_ALIGN=alignment(K),
        O_ALIGN=alignment(O),
        X_ALIGN=run_alignment(x.stride(1), x.stride(0)),
        W_IN_ALIGN=1 if weight is None else run_alignment(weight.stride(1), weight.stride(0)),
        W_OUT_ALIGN=1 if weight is None else run_alignment(weight.stride(0), weight.stride(1)),
        INTO_ALIGN=run_alignment(into.column_stride, into.task_stride, into.rank_stride),
        BM=tile.rows,
        BN=tile.columns,
        BK=tile.depth,
        BR=BR,
        PRECISION=configs.precision(x.dtype),
    )
    return Partial(workspace, tile.splits, width, s_start)


# --------------------------------------------------------------------------------------------------------------- tiles

# Many bytes on their way at once, in deep stages: that is what a product with few rows waits for.
_TILES = {
    "half": [
        Tile(128, 128, 64, 8, 4),
        Tile(128, 64, 64, 4, 4),
        Tile(64, 128, 128, 8, 4),
        Tile(64, 128, 64, 4, 4),
        Tile(64, 256, 64, 8, 4),
        Tile(64, 64, 128, 4, 4),
        Tile(64, 64, 64, 4, 5),
        Tile(32, 128, 128, 4, 4),
        Tile(32, 128, 64, 8, 4),
        Tile(32, 64, 128, 8, 4),
        Tile(16, 128, 128, 4, 4),
        Tile(16, 128, 64, 8, 4),
        Tile(16, 64, 128, 4, 4),
    ],
    "tf32": [
        Tile(64, 128, 32, 8, 4),
        Tile(64, 64, 64, 4, 4),
        Tile(64, 64, 32, 4, 4),
        Tile(32, 64, 64, 4, 4),
        Tile(32, 64, 32, 4, 4),
        Tile(16, 64, 64, 4, 4),
        Tile(16, 64, 32, 4, 4),
    ],
    "ieee": [
        Tile(64, 64, 16, 8, 2),
        Tile(64, 32, 16, 4, 3),
        Tile(32, 64, 16, 4, 3),
        Tile(32, 32, 16, 4, 3),
        Tile(16, 64, 16, 4, 3),
        Tile(16, 32, 16, 4, 3),
    ],
}
SPLITS = (1, 2, 3, 4, 6, 8)  # with 16 an earlier form of linear_splitk_sum spilled
_START = 1 << 16  # bytes that a processor could read while a program starts and fills its stages
_PRODUCTS = {"half": 64, "tf32": 32, "ieee": 4}  # multiply-adds of a processor in the time it reads a byte


def listed(kind: str, target: Target, deepest: int | None = None) -> list[Tile]:
    return configs.candidates(kind, target, deepest=deepest, tiles=_TILES[kind])


def _cost(tile: Tile, kind: str, target: Target, rows: int, O: int, R: int, K: int) -> float:
    """Bytes that the busiest processor reads, and its share of the partial sums, which are written and read."""
    programs = -(-rows // tile.rows) * (-(-O // tile.columns) + -(-R // tile.columns)) * tile.splits
    depth = -(-K // (tile.splits * tile.depth)) * tile.depth
    operands = (tile.rows + tile.columns) * depth * (2 if kind == "half" else 4)
    products = tile.rows * tile.columns * depth / _PRODUCTS[kind]
    sums = 8 * tile.splits * rows * (O + R) / target.processors
    return -(-programs // target.processors) * (max(operands, products) + _START) + sums


def choose(x: Tensor, weight: Tensor | None, into: Factor, rows: int, O: int, K: int) -> Tile:
    """A tile with its number of splits. Offered to `bench --tune` are those as tall as the rows, each with the three
    numbers of splits that the arithmetic likes best."""
    kind, target, R = configs.kind(x.dtype), configs.target_of(x.device), into.columns
    fitting = min(max(tuning.bucket(rows), 16), 128)

    def cost(tile: Tile) -> float:
        return _cost(tile, kind, target, rows, O, R, K)

    def split(tile: Tile) -> list[Tile]:
        allowed = [s for s in SPLITS if s == 1 or s * 2 * tile.depth <= K]
        return sorted((replace(tile, splits=s) for s in allowed), key=cost)[:3]

    tiles = listed(kind, target, configs.SHALLOW if scattered(x, weight) else None)
    least = min(fitting, 32 if kind == "ieee" else 64)
    tall = [t for t in tiles if least <= t.rows <= fitting]
    name = tuning.tile_key("linear_splitk", kind, rows, O, K)
    tile = configs.settle(name, x.device, [s for t in tall for s in split(t)], cost)
    return tile if tile.splits else split(tile)[0]
