# mypy: allow-untyped-defs, allow-incomplete-defs
"""dW, dA, db and dB in one launch: [G | U]^T [X | S o Lam | 1], U = U0 o Lam, without the corners nobody needs.

             X            S o Lam | 1
    G^T   dW [O, K]       dA [O, R] | db [O]
    U^T   dB [R, K]       -

A program owns one tile of one of the three blocks, and the rows of one split. With one split it writes the gradient;
with more it writes float32 partial sums that `reduce` adds in a fixed order: no atomics, the same bits every time.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.call import Call
from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.launch import launch
from palora_kernels.triton.launching.operands import alignment, padded, run_alignment, scattered, strides
from palora_kernels.triton.launching.tiles import grid_offsets, lam_of, lam_rows, multiple, step, tile_of
from palora_kernels.triton.linear import reduce

LARGEST = 128 * 128


@triton.jit
def _weight_tile(
    g_ptr, x_ptr, out_ptr, o_tile, k_tile, start, last, O, K, g_row, g_col, x_row, x_col,
    G_ALIGN: tl.constexpr, X_ALIGN: tl.constexpr, BO: tl.constexpr, BK: tl.constexpr, BP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dW[o, k] = sum over rows p from start to last of g[p, o] x[p, k]."""
    o = o_tile * BO + tl.arange(0, BO)
    k = k_tile * BK + tl.arange(0, BK)
    p = tl.arange(0, BP)
    in_o = o < O
    in_k = k < K
    g_offsets = grid_offsets(o, p, g_col, g_row, G_ALIGN, 1)
    x_offsets = grid_offsets(p, k, x_row, x_col, 1, X_ALIGN)
    acc = tl.zeros((BO, BK), tl.float32)
    for p0 in range(start, last, BP):
        in_p = p < last - p0
        g = tl.load(g_ptr + step(p0, g_row) + g_offsets, mask=in_o[:, None] & in_p[None, :], other=0.0)
        x = tl.load(x_ptr + step(p0, x_row) + x_offsets, mask=in_p[:, None] & in_k[None, :], other=0.0)
        acc = tl.dot(g, x, acc, input_precision=PRECISION)
    out = acc.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + grid_offsets(o, k, K, 1), out, mask=in_o[:, None] & in_k[None, :])


@triton.jit
def _out_side_tile(
    g_ptr, s_ptr, lam_ptr, da_ptr, dbias_ptr, moved, o_tile, r_tile, start, last, rows, n, O, R, r,
    g_row, g_col, lam_ray, lam_task,
    SHARED: tl.constexpr, G_ALIGN: tl.constexpr, BO: tl.constexpr, BR: tl.constexpr, BP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dA[o, j] = sum over rows p of g[p, o] s[p, j] lam[ray, task(j)]; behind the last j a column of ones gives db."""
    o = o_tile * BO + tl.arange(0, BO)
    j = r_tile * BR + tl.arange(0, BR)
    p = tl.arange(0, BP)
    in_o = o < O
    ones = -1  # the column of ones
    if dbias_ptr is not None:
        ones = 0
        if da_ptr is not None:
            ones = R
    g_offsets = grid_offsets(o, p, g_col, g_row, G_ALIGN, 1)
    acc = tl.zeros((BO, BR), tl.float32)
    for p0 in range(start, last, BP):
        row = p0 + p
        in_p = row < last
        g = tl.load(g_ptr + step(p0, g_row) + g_offsets, mask=in_o[:, None] & in_p[None, :], other=0.0)
        scaled = tl.zeros((BP, BR), tl.float32)
        if da_ptr is not None:
            s_row = row
            if SHARED:
                s_row = row % rows
            in_s = in_p[:, None] & (j < R)[None, :]
            scaled = tl.load(s_ptr + grid_offsets(s_row, j, R, 1), mask=in_s, other=0.0).to(tl.float32)
            scaled *= lam_rows(lam_ptr, row // n, j, in_p, j < R, r, lam_ray, lam_task)
        if dbias_ptr is not None:
            scaled = tl.where(in_p[:, None] & (j == ones)[None, :], 1.0, scaled)
        acc = tl.dot(g, scaled.to(g.dtype), acc, input_precision=PRECISION)
    if da_ptr is not None:
        offsets = ((j // r).to(tl.int64) * O * r + j % r)[None, :] + (o.to(tl.int64) * r)[:, None]
        tl.store(da_ptr + moved + offsets, acc.to(da_ptr.dtype.element_ty), mask=in_o[:, None] & (j < R)[None, :])
    if dbias_ptr is not None:
        column = tl.sum(tl.where((j == ones)[None, :], acc, 0.0), axis=1)
        here = in_o & (r_tile == ones // BR)
        tl.store(dbias_ptr + moved + o, column.to(dbias_ptr.dtype.element_ty), mask=here)


@triton.jit
def _in_side_tile(
    u_ptr, x_ptr, lam_ptr, out_ptr, r_tile, k_tile, start, last, rows, n, M, K, R, r,
    x_row, x_col, lam_ray, lam_task,
    SHARED: tl.constexpr, X_ALIGN: tl.constexpr, BR: tl.constexpr, BK: tl.constexpr, BP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dB[j, k] = sum over rows p of u[p, j] lam[ray, task(j)] x[p, k]; with a shared x summed over rays on the way."""
    j = r_tile * BR + tl.arange(0, BR)
    k = k_tile * BK + tl.arange(0, BK)
    p = tl.arange(0, BP)
    in_j = j < R
    in_k = k < K
    x_offsets = grid_offsets(p, k, x_row, x_col, 1, X_ALIGN)
    acc = tl.zeros((BR, BK), tl.float32)
    for p0 in range(start, last, BP):
        row = p0 + p
        in_p = row < last
        x = tl.load(x_ptr + step(p0, x_row) + x_offsets, mask=in_p[:, None] & in_k[None, :], other=0.0)
        u_offsets = grid_offsets(row, j, R, 1)
        in_u = in_p[:, None] & in_j[None, :]
        if SHARED:
            u = tl.zeros((BP, BR), tl.float32)
            for m in range(M):
                u_m = tl.load(u_ptr + step(m, 1) * rows * R + u_offsets, mask=in_u, other=0.0)
                u += u_m.to(tl.float32) * lam_of(lam_ptr, m, j, in_j, r, lam_ray, lam_task)[None, :]
        else:
            u = tl.load(u_ptr + u_offsets, mask=in_u, other=0.0).to(tl.float32)
            u *= lam_rows(lam_ptr, row // n, j, in_p, in_j, r, lam_ray, lam_task)
        acc = tl.dot(tl.trans(u.to(x.dtype)), x, acc, input_precision=PRECISION)
    out = acc.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + grid_offsets(j, k, K, 1), out, mask=in_j[:, None] & in_k[None, :])


@triton.jit
def linear_weights(
    g_ptr, common_ptr, x_ptr, s_ptr, u_ptr, lam_ptr, dw_ptr, da_ptr, db_ptr, dbias_ptr,
    rows, n, M, O, K, R, r, g_row, g_col, common_row, common_col, x_row, x_col, lam_ray, lam_task, splits, split_stride,
    SHARED: tl.constexpr, K_ALIGN: tl.constexpr, O_ALIGN: tl.constexpr,
    G_ALIGN: tl.constexpr, COMMON_ALIGN: tl.constexpr, X_ALIGN: tl.constexpr,
    BO: tl.constexpr, BK: tl.constexpr, BR: tl.constexpr, BP: tl.constexpr,
    GROUP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """g (M*n, O), common (rows, O) the sum of g over rays if SHARED else g, x (rows, K), s (rows, R), u = U0 (M*n, R).

    dw (O, K), da (T, O, r), db (R, K), dbias (O,), contiguous, each None if not needed; split i of them starts
    i*split_stride further on. s and u may be None where da and db are. *_ALIGN as in linear_product.
    """
    O = multiple(O, O_ALIGN)
    K = multiple(K, K_ALIGN)
    o_tiles = tl.cdiv(O, BO)
    k_tiles = tl.cdiv(K, BK)
    w_programs = 0
    if dw_ptr is not None:
        w_programs = o_tiles * k_tiles
    a_columns = 0
    if da_ptr is not None:
        a_columns += R
    if dbias_ptr is not None:
        a_columns += 1
    a_programs = o_tiles * tl.cdiv(a_columns, BR)
    b_programs = 0
    if db_ptr is not None:
        b_programs = tl.cdiv(R, BR) * k_tiles
    per_split = w_programs + a_programs + b_programs
    split = tl.program_id(0) // per_split
    program = tl.program_id(0) % per_split
    moved = step(split, split_stride)
    # The rows of this split: of x, and for dA of all rays' gradients.
    chunk = tl.cdiv(tl.cdiv(rows, splits), BP) * BP
    start = split * chunk
    last = tl.minimum(start + chunk, rows)

    if program < w_programs:
        if dw_ptr is not None:
            o_tile, k_tile = tile_of(program, o_tiles, k_tiles, GROUP)
            _weight_tile(
                common_ptr, x_ptr, dw_ptr + moved, o_tile, k_tile, start, last, O, K, common_row, common_col,
                x_row, x_col, COMMON_ALIGN, X_ALIGN, BO, BK, BP, PRECISION,
            )  # fmt: skip
    elif program < w_programs + a_programs:
        if (da_ptr is not None) or (dbias_ptr is not None):
            a_tile = program - w_programs
            if SHARED:
                all_chunk = tl.cdiv(tl.cdiv(rows * M, splits), BP) * BP
                start = split * all_chunk
                last = tl.minimum(start + all_chunk, rows * M)
            _out_side_tile(
                g_ptr, s_ptr, lam_ptr, da_ptr, dbias_ptr, moved, a_tile % o_tiles, a_tile // o_tiles, start, last,
                rows, n, O, R, r, g_row, g_col, lam_ray, lam_task, SHARED, G_ALIGN, BO, BR, BP, PRECISION,
            )  # fmt: skip
    else:
        if db_ptr is not None:
            b_tile = program - w_programs - a_programs
            _in_side_tile(
                u_ptr, x_ptr, lam_ptr, db_ptr + moved, b_tile // k_tiles, b_tile % k_tiles, start, last,
                rows, n, M, K, R, r, x_row, x_col, lam_ray, lam_task, SHARED, X_ALIGN, BR, BK, BP, PRECISION,
            )  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """Which gradients `run` has to form."""

    weight: bool
    factors: bool
    bias: bool  # one a output; a bias per ray is summed by linear_sums


def run(
    call: Call, grad: Tensor, common: Tensor, S: Tensor, U0: Tensor | None, wanted: Wanted
) -> tuple[Tensor | None, list[Tensor] | None, Tensor | None]:
    """(dW, [dA, dB], db), None where not wanted. ``common``: grad summed over rays for a shared x, else grad itself."""
    x, lam, (A, B) = call.x, call.lam, call.low_rank.given
    (rows, K), O, R = x.shape, call.outputs, call.low_rank.columns
    dW = x.new_empty(O, K) if wanted.weight else None
    dA = x.new_empty(A.shape) if wanted.factors else None
    dB = x.new_empty(B.shape) if wanted.factors else None
    db = x.new_empty(O) if wanted.bias else None
    BR = min(padded(R + 1 if wanted.bias and not wanted.factors else R), 64) if wanted.factors else 16
    columns = (K if wanted.weight else 0) + BR
    largest = configs.largest(configs.kind(x.dtype), configs.target_of(x.device), LARGEST)
    tile = configs.choose("linear_weights", x, (O, columns, rows), largest=largest, scattered=scattered(grad, x))
    splits = configs.choose_splits(tile, x.dtype, x.device, O, columns, rows)
    partial = reduce.Partial.of([dW, dA, dB, db], splits)
    dw_to, da_to, db_to, dbias_to = partial.targets
    launch(
        linear_weights,
        _programs(tile, O, K, R, BR, wanted) * splits,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        g_ptr=grad,
        common_ptr=common,
        x_ptr=x,
        s_ptr=S,
        u_ptr=U0,
        lam_ptr=lam,
        dw_ptr=dw_to,
        da_ptr=da_to,
        db_ptr=db_to,
        dbias_ptr=dbias_to,
        rows=rows,
        n=max(call.n, 1),
        M=call.rays,
        O=O,
        K=K,
        R=R,
        r=max(call.low_rank.r, 1),
        **strides(grad, "g_row", "g_col"),
        **strides(common, "common_row", "common_col"),
        **strides(x, "x_row", "x_col"),
        **strides(lam, "lam_ray", "lam_task"),
        splits=splits,
        split_stride=partial.stride,
        SHARED=call.sums_rays,
        K_ALIGN=alignment(K),
        O_ALIGN=alignment(O),
        G_ALIGN=run_alignment(grad.stride(1), grad.stride(0)),
        COMMON_ALIGN=run_alignment(common.stride(1), common.stride(0)),
        X_ALIGN=run_alignment(x.stride(1), x.stride(0)),
        BO=tile.rows,
        BK=tile.columns,
        BR=BR,
        BP=tile.depth,
        GROUP=8,
        PRECISION=configs.precision(x.dtype),
    )
    partial.finish()
    return dW, None if dA is None or dB is None else [dA, dB], db


def _programs(tile: configs.Tile, O: int, K: int, R: int, BR: int, wanted: Wanted) -> int:
    o_tiles, k_tiles = triton.cdiv(O, tile.rows), triton.cdiv(K, tile.columns)
    a_columns = (R if wanted.factors else 0) + (1 if wanted.bias else 0)
    programs = o_tiles * triton.cdiv(a_columns, BR)
    programs += o_tiles * k_tiles if wanted.weight else 0
    return programs + (triton.cdiv(R, BR) * k_tiles if wanted.factors else 0)
