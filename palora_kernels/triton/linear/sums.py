# mypy: allow-untyped-defs, allow-incomplete-defs
"""Sums over rays and over rows that precede or follow the products of the backward.

- `over_rays`: G_e = sum_m c[m, e] G_m, with which a shared input's backward no longer depends on M;
- `bias`: db[m] = sum over the rows of ray m of G;
- `lam`: dlam[m, t] = sum over the rows of ray m and the columns of task t of S o U0.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.launch import launch
from palora_kernels.triton.launching.operands import strides
from palora_kernels.triton.launching.tiles import grid_offsets, step
from palora_kernels.triton.linear import reduce


def _power(value: int) -> int:
    return 1 << max(value - 1, 0).bit_length()


def _splits(programs: int, length: int, block: int, like: Tensor) -> int:
    """Enough splits of a sum of ``length`` to give every processor a program, none shorter than four blocks."""
    wanted = configs.target_of(like.device).processors // max(programs, 1)
    return max(1, min(wanted, length // (4 * block), 64))


# ----------------------------------------------------------------------------------------------------------- over rays


@triton.jit
def linear_over_rays(
    g_ptr,
    lam_ptr,
    out_ptr,
    n,
    M,
    O,
    E,
    g_row,
    g_col,
    lam_ray,
    lam_task,
    COMMON: tl.constexpr,
    BE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """g (M*n, O) -> out (E, n, O): element e weighs ray m by lam[m, e - COMMON]; element 0 by one if COMMON is 1."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < step(n, O)
    offsets = (index // O) * g_row + (index % O) * g_col
    e = tl.arange(0, BE)
    total = tl.zeros((BE, BLOCK), tl.float32)
    for m in range(M):
        g = tl.load(g_ptr + step(m, g_row) * n + offsets, mask=inside, other=0.0).to(tl.float32)
        lam_offsets = step(m, lam_ray) + (e - COMMON).to(tl.int64) * lam_task
        c = tl.load(lam_ptr + lam_offsets, mask=(e >= COMMON) & (e < E), other=0.0)
        c = tl.where(e < COMMON, 1.0, c)
        total += c[:, None] * g[None, :]
    out_offsets = e.to(tl.int64)[:, None] * n * O + index[None, :]
    tl.store(out_ptr + out_offsets, total.to(out_ptr.dtype.element_ty), mask=(e < E)[:, None] & inside[None, :])


def over_rays(grad: Tensor, lam: Tensor, *, common: bool, tasks: int) -> Tensor:
    """grad (M*n, O) -> (E, n, O): the plain sum over rays first if ``common``, then one weighted sum for each task."""
    rays = lam.shape[0]
    n, O = grad.shape[0] // rays, grad.shape[1]
    elements = int(common) + tasks
    out = grad.new_empty(elements, n, O)
    width = _power(elements)
    block = max(1024 // width, 128)
    launch(
        linear_over_rays,
        triton.cdiv(n * O, block),
        num_warps=4,
        num_stages=3,
        g_ptr=grad,
        lam_ptr=lam,
        out_ptr=out,
        n=n,
        M=rays,
        O=O,
        E=elements,
        **strides(grad, "g_row", "g_col"),
        **strides(lam, "lam_ray", "lam_task"),
        COMMON=int(common),
        BE=width,
        BLOCK=block,
    )
    return out


# ---------------------------------------------------------------------------------------------------------------- bias


@triton.jit
def linear_bias(
    g_ptr,
    out_ptr,
    n,
    M,
    O,
    g_row,
    g_col,
    splits,
    split_stride,
    BP: tl.constexpr,
    BN: tl.constexpr,
):
    """g (M*n, O) -> out (M, O), or one such matrix a split."""
    o_tiles = tl.cdiv(O, BN)
    program = tl.program_id(0)
    o = (program % o_tiles) * BN + tl.arange(0, BN)
    m = (program // o_tiles) % M
    split = program // (o_tiles * M)
    p = tl.arange(0, BP)
    chunk = tl.cdiv(tl.cdiv(n, splits), BP) * BP
    last = tl.minimum((split + 1) * chunk, n)
    offsets = grid_offsets(p, o, g_row, g_col)
    total = tl.zeros((BP, BN), tl.float32)
    for p0 in range(split * chunk, last, BP):
        mask = (p < last - p0)[:, None] & (o < O)[None, :]
        total += tl.load(g_ptr + (step(m, n) + p0) * g_row + offsets, mask=mask, other=0.0).to(tl.float32)
    out = tl.sum(total, axis=0)
    at = step(split, split_stride) + step(m, O) + o
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=o < O)


def bias(grad: Tensor, rays: int, bias_dims: int) -> Tensor:
    """grad (M*n, O) -> (O,), or (M, O) for a bias per ray."""
    O = grad.shape[1]
    groups = rays if bias_dims == 2 else 1
    n = grad.shape[0] // groups
    db = grad.new_empty(groups, O)
    BN = 64
    BP = min(32, _power(n))
    o_tiles = triton.cdiv(O, BN)
    splits = _splits(groups * o_tiles, n, BP, grad)
    partial = reduce.Partial.of([db], splits)
    launch(
        linear_bias,
        o_tiles * groups * partial.splits,
        num_warps=4,
        num_stages=3,
        g_ptr=grad,
        out_ptr=partial.targets[0],
        n=n,
        M=groups,
        O=O,
        **strides(grad, "g_row", "g_col"),
        splits=partial.splits,
        split_stride=partial.stride,
        BP=BP,
        BN=BN,
    )
    partial.finish()
    return db if bias_dims == 2 else db[0]


# ----------------------------------------------------------------------------------------------------------------- lam


@triton.jit
def linear_lam(
    s_ptr,
    u_ptr,
    out_ptr,
    n,
    M,
    T,
    r,
    splits,
    split_stride,
    SHARED: tl.constexpr,
    BM: tl.constexpr,
    BI: tl.constexpr,
    BR: tl.constexpr,
):
    """s (M*n, T*r), or (n, T*r) if SHARED, u (M*n, T*r) or None for ones -> out (M, T) float32, or one a split.

    A program sums one task of BM rays, BI rows of each at a time: many rays of one row or few rays of many.
    """
    program = tl.program_id(0)
    t = program % T
    ray_block = (program // T) % tl.cdiv(M, BM)
    split = program // (T * tl.cdiv(M, BM))
    q = tl.arange(0, BM * BI)
    m = ray_block * BM + q // BI
    i = q % BI
    j = tl.arange(0, BR)
    chunk = tl.cdiv(tl.cdiv(n, splits), BI) * BI
    last = tl.minimum((split + 1) * chunk, n)
    total = tl.zeros((BM * BI, BR), tl.float32)
    for i0 in range(split * chunk, last, BI):
        row = i0 + i
        u_row = m.to(tl.int64) * n + row
        s_row = u_row
        if SHARED:
            s_row = row.to(tl.int64)
        for j0 in range(0, r, BR):
            mask = ((m < M) & (row < last))[:, None] & (j0 + j < r)[None, :]
            column = (t * r + j0 + j)[None, :]
            s = tl.load(s_ptr + s_row[:, None] * (T * r) + column, mask=mask, other=0.0).to(tl.float32)
            if u_ptr is not None:
                u = tl.load(u_ptr + u_row[:, None] * (T * r) + column, mask=mask, other=0.0)
                s *= u.to(tl.float32)
            total += s
    per_row = tl.sum(total, axis=1)
    per_ray = tl.sum(tl.reshape(per_row, (BM, BI)), axis=1)
    ray = ray_block * BM + tl.arange(0, BM)
    tl.store(out_ptr + step(split, split_stride) + ray.to(tl.int64) * T + t, per_ray, mask=ray < M)


def lam(S: Tensor, U0: Tensor | None, rays: int, tasks: int, shared: bool) -> Tensor:
    """S (P, R) and U0 (M*n, R), contiguous -> dlam (M, T) float32. Without U0 the sums of S, (M*n, R), alone."""
    n, r = S.shape[0] // (1 if shared else rays), S.shape[1] // max(tasks, 1)
    dlam = torch.empty(rays, tasks, dtype=torch.float32, device=S.device)
    BI = min(32, _power(n))  # with 64 rows the addresses of 16-bit numbers fill the registers
    BM = 32 // BI
    blocks = triton.cdiv(rays, BM)
    splits = _splits(blocks * tasks, n, BI, S)
    partial = reduce.Partial.of([dlam], splits)
    launch(
        linear_lam,
        blocks * tasks * partial.splits,
        num_warps=4,
        num_stages=1,
        s_ptr=S,
        u_ptr=U0,
        out_ptr=partial.targets[0],
        n=n,
        M=rays,
        T=tasks,
        r=r,
        splits=partial.splits,
        split_stride=partial.stride,
        SHARED=shared,
        BM=BM,
        BI=BI,
        BR=min(64, _power(r)),
    )
    partial.finish()
    return dlam
