# mypy: allow-untyped-defs, allow-incomplete-defs
"""dlam[m, t] = <G_m, Z_mt> with Z_mt = X_m D_t^T: the products are formed tile by tile and never written.

    X [BM, K] ── D_t^T ──> Z [BM, BN] ── o G_m [BM, BN] ── sum over columns ──> V [M*n, T, column tiles]

For a shared input one Z serves all rays. `linear_sums` adds V over the rows of a ray, in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.launch import launch
from palora_kernels.triton.launching.operands import scattered, strides
from palora_kernels.triton.launching.tiles import grid_offsets, step, tile_of
from palora_kernels.triton.linear import sums as linear_sums


@triton.jit
def linear_basis_lam(
    x_ptr,
    d_ptr,
    g_ptr,
    v_ptr,
    rows,
    O,
    K,
    T,
    M,
    x_row,
    x_col,
    d_task,
    d_out,
    d_in,
    g_row,
    g_col,
    SHARED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """x (rows, K), d (T, O, K), g (rows, O), or (M*rows, O) if SHARED -> v (rows of g, T, ceil(O/BN)) float32."""
    row_tiles = tl.cdiv(rows, BM)
    o_tiles = tl.cdiv(O, BN)
    t = tl.program_id(0) // (row_tiles * o_tiles)
    row_tile, o_tile = tile_of(tl.program_id(0) % (row_tiles * o_tiles), row_tiles, o_tiles, GROUP)
    row = row_tile * BM + tl.arange(0, BM)
    o = o_tile * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    in_row = row < rows
    in_o = o < O
    x_offsets = grid_offsets(row, k, x_row, x_col)
    d_offsets = grid_offsets(k, o, d_in, d_out) + step(t, d_task)
    z = tl.zeros((BM, BN), tl.float32)
    for k0 in range(0, K, BK):
        in_k = k < K - k0
        x = tl.load(x_ptr + step(k0, x_col) + x_offsets, mask=in_row[:, None] & in_k[None, :], other=0.0)
        d = tl.load(d_ptr + step(k0, d_in) + d_offsets, mask=in_k[:, None] & in_o[None, :], other=0.0)
        z = tl.dot(x, d, z, input_precision=PRECISION)
    rays = 1
    if SHARED:
        rays = M
    g_offsets = grid_offsets(row, o, g_row, g_col)
    v_offsets = (row.to(tl.int64) * T + t) * o_tiles + o_tile
    for m in range(rays):
        g_at = g_ptr + step(m, g_row) * rows + g_offsets
        g = tl.load(g_at, mask=in_row[:, None] & in_o[None, :], other=0.0)
        v = tl.sum(z * g.to(tl.float32), axis=1)
        tl.store(v_ptr + step(m, T) * rows * o_tiles + v_offsets, v, mask=in_row)


def run(grad: Tensor, x: Tensor, D: Tensor, rays: int, shared: bool) -> Tensor:
    """grad (M*n, O), x (P, K), D (T, O, K) -> dlam (M, T) float32."""
    rows, K = x.shape
    T, O = D.shape[:2]
    tile = configs.choose("linear_basis_lam", x, (T * rows, O, K), largest=LARGEST, scattered=scattered(x, D))
    o_tiles = triton.cdiv(O, tile.columns)
    v = torch.empty(grad.shape[0], T * o_tiles, dtype=torch.float32, device=x.device)
    launch(
        linear_basis_lam,
        T * triton.cdiv(rows, tile.rows) * o_tiles,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        x_ptr=x,
        d_ptr=D,
        g_ptr=grad,
        v_ptr=v,
        rows=rows,
        O=O,
        K=K,
        T=T,
        M=rays,
        **strides(x, "x_row", "x_col"),
        d_task=D.stride(0),
        **strides(D[0], "d_out", "d_in"),
        **strides(grad, "g_row", "g_col"),
        SHARED=shared,
        BM=tile.rows,
        BN=tile.columns,
        BK=tile.depth,
        GROUP=8,
        PRECISION=configs.precision(x.dtype),
    )
    return linear_sums.lam(v, None, rays, T, shared=False)


LARGEST = 128 * 64
