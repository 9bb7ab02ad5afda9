# mypy: allow-untyped-defs, allow-incomplete-defs
"""A shared input with arbitrary deltas: the products Z_e = X W_e^T once, Y_m = sum_e c[m, e] Z_e + b for every ray.

    X [BM, K] ── [W | D_1 | .. | D_T]^T ──> Z [BM, BN, E] ──┬── c[0] ──> Y_0 [BM, BN]
                                                            └── c[m] ──> Y_m [BM, BN]

The columns of the tile are pairs (output, element), elements next to each other, so that the sum over elements stays
within a thread or its neighbours. Z never leaves the registers.
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

MOST_ELEMENTS = 16  # what the registers of a program hold


@triton.jit
def linear_combine(
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
    M,
    x_row,
    x_col,
    w_out,
    w_in,
    d_task,
    bias_ray,
    bias_col,
    lam_ray,
    lam_task,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BE: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """x (rows, K), w (O, K) or None, d (T, O, K) with the strides of w, lam (M, T) -> y (M*rows, O)."""
    row_tile, column_tile = tile_of(tl.program_id(0), tl.cdiv(rows, BM), tl.cdiv(O, BN), GROUP)
    row = row_tile * BM + tl.arange(0, BM)
    column = tl.arange(0, BN * BE)
    k = tl.arange(0, BK)
    in_row = row < rows
    t = column % BE
    if w_ptr is not None:
        t -= 1
    column_o = column_tile * BN + column // BE
    in_column = (column_o < O) & (t < T)
    # Offsets from d; W is the element before D_0 and has a pointer of its own.
    from_d = tl.maximum(t, 0).to(tl.int64) * d_task + column_o.to(tl.int64) * w_out
    bases = d_ptr + from_d
    if w_ptr is not None:
        bases = tl.where(t < 0, w_ptr + column_o.to(tl.int64) * w_out, bases)
    x_offsets = grid_offsets(row, k, x_row, x_col)
    z = tl.zeros((BM, BN * BE), tl.float32)
    for k0 in range(0, K, BK):
        in_k = k < K - k0
        x = tl.load(x_ptr + step(k0, x_col) + x_offsets, mask=in_row[:, None] & in_k[None, :], other=0.0)
        w_at = bases[None, :] + (k.to(tl.int64) * w_in + step(k0, w_in))[:, None]
        w = tl.load(w_at, mask=in_k[:, None] & in_column[None, :], other=0.0)
        z = tl.dot(x, w, z, input_precision=PRECISION)
    z = tl.reshape(z, (BM, BN, BE))

    o = column_tile * BN + tl.arange(0, BN)
    in_o = o < O
    e = tl.arange(0, BE)
    task = e
    if w_ptr is not None:
        task = e - 1
    y_offsets = grid_offsets(row, o, O, 1)
    for m in range(M):
        lam_offsets = step(m, lam_ray) + task.to(tl.int64) * lam_task
        c = tl.load(lam_ptr + lam_offsets, mask=(task >= 0) & (task < T), other=0.0)
        c = tl.where(task < 0, 1.0, c)
        y = tl.sum(z * c[None, None, :], axis=2)
        if bias_ptr is not None:
            bias = tl.load(bias_ptr + step(m, bias_ray) + o.to(tl.int64) * bias_col, mask=in_o, other=0.0)
            y += bias.to(tl.float32)[None, :]
        y_at = y_ptr + step(m, O) * rows + y_offsets
        tl.store(y_at, y.to(y_ptr.dtype.element_ty), mask=in_row[:, None] & in_o[None, :])


def _shape(elements: int) -> tuple[int, int]:
    """(padded elements, columns of a tile): sixteen outputs a tile or more, so that whole sectors are stored."""
    padded = 1 << (elements - 1).bit_length()
    return padded, max(64, 16 * padded)


def run(x: Tensor, weight: Tensor | None, D: Tensor, bias: Tensor | None, lam: Tensor, y: Tensor) -> None:
    """Fill y (M*n, O): x (n, K), weight (O, K) and D (T, O, K) of equal strides; T + 1 <= MOST_ELEMENTS."""
    rows, K = x.shape
    O = y.shape[1]
    BE, columns = _shape(D.shape[0] + (weight is not None))
    shape = (rows, O * BE, K)
    tile = configs.choose(
        "linear_combine",
        x,
        shape,
        largest=LARGEST,
        narrow=columns,
        deepest=DEEPEST,
        scattered=scattered(x, D),
    )
    launch(
        linear_combine,
        triton.cdiv(rows, tile.rows) * triton.cdiv(O, tile.columns // BE),
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
        M=lam.shape[0],
        **strides(x, "x_row", "x_col"),
        **strides(D[0], "w_out", "w_in"),
        d_task=D.stride(0),
        **bias_strides(bias),
        **strides(lam, "lam_ray", "lam_task"),
        BM=tile.rows,
        BN=tile.columns // BE,
        BE=BE,
        BK=tile.depth,
        GROUP=8,
        PRECISION=configs.precision(x.dtype),
    )


LARGEST = 64 * 64  # a tile is kept once more, as the rays take their combinations
DEEPEST = 32  # an address a column and depth: the elements are not one matrix
