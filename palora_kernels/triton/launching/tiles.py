# mypy: allow-untyped-defs, allow-incomplete-defs
"""What the kernels are made of. Offsets are int64 throughout: M multiplies the number of rows.

A factor of the layer is (T, *, r) or (T, r, *). Its concatenated columns, or rows, are j = t*r + i, j < R = T*r; the
kernels address them through the strides of the tensor as it is, so no factor is copied or transposed.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile_of(program, row_tiles, column_tiles, GROUP: tl.constexpr):
    """The (row tile, column tile) of a program of a 1-D grid.

    GROUP row tiles are walked together, column tile by column tile, so that the programs that run at the same time
    share both their rows and their columns through L2.
    """
    group = program // (GROUP * column_tiles)
    within = program % (GROUP * column_tiles)
    height = tl.minimum(row_tiles - group * GROUP, GROUP)
    return group * GROUP + within % height, within // height


@triton.jit
def grid_offsets(row, column, row_stride, column_stride, ROWS: tl.constexpr = 1, COLUMNS: tl.constexpr = 1):
    """Offsets of a tile of a strided matrix: row [X], column [Y] -> int64 [X, Y].

    ROWS or COLUMNS: what the starts of the runs along rows or along columns are multiples of; 1 and 1 say nothing.
    """
    offsets = row.to(tl.int64)[:, None] * row_stride + column.to(tl.int64)[None, :] * column_stride
    if ROWS * COLUMNS > 1:  # a hint holds only in the function that adds: inlining drops it from a result
        offsets = tl.multiple_of(offsets, [ROWS, COLUMNS])
    return offsets


@triton.jit
def factor_grid(k, j, r, task_stride, rank_stride, column_stride, ALIGN: tl.constexpr):
    """Offsets of a tile of a factor: k [X] along its vectors, j [Y] -> int64 [X, Y]; vectors start at multiples."""
    offsets = k.to(tl.int64)[:, None] * column_stride + factor_offsets(j, r, task_stride, rank_stride)[None, :]
    if ALIGN > 1:
        offsets = tl.multiple_of(offsets, [ALIGN, 1])
    return offsets


@triton.jit
def multiple(value, ALIGN: tl.constexpr):
    """value, which the launcher knows to be a multiple of ALIGN, so that the compiler knows it too.

    Triton itself only notices multiples of 16: rows of 468 numbers would be loaded one number at a time.
    """
    return value // ALIGN * ALIGN


@triton.jit
def step(index, stride):
    """index*stride in int64, to move the pointer of a loop."""
    return tl.cast(index, tl.int64) * stride


@triton.jit
def factor_offsets(j, r, task_stride, rank_stride):
    """Offsets of the concatenated columns j = t*r + i of a factor: j [Y] -> int64 [Y]."""
    return (j // r).to(tl.int64) * task_stride + (j % r).to(tl.int64) * rank_stride


@triton.jit
def lam_rows(lam_ptr, ray, j, in_row, in_column, r, lam_ray, lam_task):
    """lam[ray, task(j)] for a tile of rows that may belong to any rays: ray [X], j [Y] -> float32 [X, Y]."""
    offsets = grid_offsets(ray, j // r, lam_ray, lam_task)
    return tl.load(lam_ptr + offsets, mask=in_row[:, None] & in_column[None, :], other=0.0)


@triton.jit
def lam_of(lam_ptr, ray, j, in_column, r, lam_ray, lam_task):
    """lam[ray, task(j)] for one ray: j [Y] -> float32 [Y]."""
    offsets = step(ray, lam_ray) + (j // r).to(tl.int64) * lam_task
    return tl.load(lam_ptr + offsets, mask=in_column, other=0.0)
