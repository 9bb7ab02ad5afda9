# mypy: allow-untyped-defs, allow-incomplete-defs
"""The kernels of M rays in one launch, and the way back from their gradients.

    K_m = W + sum_t lam[m, t] D_t        D_t = A_t B_t viewed as a kernel, or any delta

added in float32 and rounded once. The result is (M, O, kh, kw, C/groups), channels last, as the convolution reads it;
the parameters keep the channels before the taps. A weight of a linear layer is the case of one tap.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.call import Needs
from palora_kernels.factors import Dense, Factors, LowRank
from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.launch import launch
from palora_kernels.triton.launching.operands import in_side, out_side, padded
from palora_kernels.triton.launching.tiles import factor_offsets, lam_of, step

_WIDEST = 16  # columns of the factors that one product takes at a time; more spill, in float32


@triton.jit
def merge_low_rank(
    weight,
    a,
    b,
    lam,
    merged,
    rays,
    rays_each,
    p,
    q,
    R,
    r,
    channels,
    taps,
    a_task,
    a_rank,
    a_col,
    b_task,
    b_rank,
    b_col,
    lam_ray,
    lam_task,
    MATRICISED: tl.constexpr,
    WEIGHT_LAST: tl.constexpr,
    CHUNKED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BR: tl.constexpr,
):
    """A tile of the product, BM of its p rows by BN of its q columns, for ``rays_each`` rays one after another.

    Columns are walked tap by tap, with the channels innermost: then a tile is stored as it comes where a row of the
    product is one output channel (MATRICISED), and in long runs where it is not. WEIGHT_LAST: W is channels_last too.
    CHUNKED: R exceeds BR.
    """
    per_tap = tl.cdiv(q, taps)
    tiles_n = tl.cdiv(per_tap * taps, BN)
    tiles_m = tl.cdiv(p, BM)
    pid = tl.program_id(0)
    tile = pid % (tiles_m * tiles_n)
    first_ray = pid // (tiles_m * tiles_n) * rays_each

    row = tile // tiles_n * BM + tl.arange(0, BM)
    walked = tile % tiles_n * BN + tl.arange(0, BN)
    col = walked % per_tap * taps + walked // per_tap
    row_ok = row < p
    col_ok = (walked < per_tap * taps) & (col < q)
    ok = row_ok[:, None] & col_ok[None, :]
    viewed = row.to(tl.int64)[:, None] * q + col[None, :]  # place in (O, C/groups, kh, kw)
    if MATRICISED:
        to = row.to(tl.int64)[:, None] * q + walked[None, :]
    else:
        numel = channels * taps
        within = viewed % numel
        to = viewed // numel * numel + within % taps * channels + within // taps
    base = tl.zeros((BM, BN), dtype=tl.float32)
    if weight is not None:
        base += tl.load(weight + (to if WEIGHT_LAST else viewed), mask=ok, other=0.0).to(tl.float32)

    j = tl.arange(0, BR)
    a_rows = a + row.to(tl.int64)[:, None] * a_col
    b_cols = b + col.to(tl.int64)[None, :] * b_col
    if not CHUNKED:
        a_tile = tl.load(
            a_rows + factor_offsets(j, r, a_task, a_rank)[None, :], mask=row_ok[:, None] & (j < R)[None, :], other=0.0
        ).to(tl.float32)
        b_tile = tl.load(
            b_cols + factor_offsets(j, r, b_task, b_rank)[:, None], mask=(j < R)[:, None] & col_ok[None, :], other=0.0
        ).to(tl.float32)
    for ray in range(first_ray, tl.minimum(first_ray + rays_each, rays)):
        if CHUNKED:
            delta = tl.zeros((BM, BN), dtype=tl.float32)
            for j0 in range(0, R, BR):
                jj = j0 + j
                in_j = jj < R
                a_part = tl.load(
                    a_rows + factor_offsets(jj, r, a_task, a_rank)[None, :],
                    mask=row_ok[:, None] & in_j[None, :],
                    other=0.0,
                ).to(tl.float32)
                b_part = tl.load(
                    b_cols + factor_offsets(jj, r, b_task, b_rank)[:, None],
                    mask=in_j[:, None] & col_ok[None, :],
                    other=0.0,
                ).to(tl.float32)
                scaled = a_part * lam_of(lam, ray, jj, in_j, r, lam_ray, lam_task)[None, :]
                delta = tl.dot(scaled, b_part, delta, input_precision="ieee")
        else:
            scaled = a_tile * lam_of(lam, ray, j, j < R, r, lam_ray, lam_task)[None, :]
            delta = tl.dot(scaled, b_tile, input_precision="ieee")
        at = merged + step(ray, 1) * p * q + to
        tl.store(at, (base + delta).to(merged.dtype.element_ty), mask=ok)


@triton.jit
def merge_dense(
    weight,
    deltas,
    lam,
    merged,
    rays,
    tasks,
    numel,
    channels,
    taps,
    lam_ray,
    lam_task,
    WEIGHT_LAST: tl.constexpr,
    RAYS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """BLOCK values of RAYS kernels; deltas (T, O, channels, taps), merged (M, O, taps, channels)."""
    blocks = tl.cdiv(numel, BLOCK)
    pid = tl.program_id(0)
    to = (pid % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ray = pid // blocks * RAYS + tl.arange(0, RAYS)
    ok = to < numel
    viewed = to // (channels * taps) * (channels * taps) + to % channels * taps + to // channels % taps
    total = tl.zeros((RAYS, BLOCK), dtype=tl.float32)
    for t in range(tasks):
        delta = tl.load(deltas + step(t, numel) + viewed, mask=ok, other=0.0).to(tl.float32)
        scale = tl.load(lam + ray.to(tl.int64) * lam_ray + step(t, lam_task), mask=ray < rays, other=0.0)
        total += scale[:, None] * delta[None, :]
    if weight is not None:
        total += tl.load(weight + (to if WEIGHT_LAST else viewed), mask=ok, other=0.0).to(tl.float32)[None, :]
    at = merged + ray.to(tl.int64)[:, None] * numel + to[None, :]
    tl.store(at, total.to(merged.dtype.element_ty), mask=(ray < rays)[:, None] & ok[None, :])


def kernels_of_rays(weight: Tensor | None, factors: Factors, lam: Tensor) -> Tensor:
    """weight (O, C/groups, kh, kw) or None, lam (M, T) -> (M, O, kh, kw, C/groups) in the dtype of the factors."""
    outputs, channels, *side = factors.shape
    last = False
    if weight is not None:
        last = not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)
        weight = weight if last else weight.contiguous()
    like = factors.given[0]
    merged = like.new_empty((lam.shape[0], outputs, *side, channels))
    if isinstance(factors, LowRank):
        _low_rank(weight, factors, lam, merged, last)
    else:
        _dense(weight, factors, lam, merged, last)
    return merged


def _low_rank(weight: Tensor | None, factors: LowRank, lam: Tensor, merged: Tensor, last: bool) -> None:
    A, B = factors.given
    rays, _, *side, channels = merged.shape
    taps = side[0] * side[1]
    R, p, q = factors.tasks * factors.r, factors.p, factors.q
    columns = -(-q // taps) * taps
    matricised = q == channels * taps
    # Places computed one by one, or factors loaded anew for each ray, take the registers of half a tile.
    BM, BN, BR = (
        min(32, padded(p)),
        min(64 if matricised and R <= _WIDEST else 32, padded(columns)),
        padded(min(R, _WIDEST)),
    )
    tiles = -(-p // BM) * -(-columns // BN)
    # All rays in one program read W and the factors once; fewer where the tiles alone do not fill the device.
    together = -(-2 * configs.target_of(merged.device).processors // tiles)
    rays_each = -(-rays // min(rays, together))
    launch(
        merge_low_rank,
        tiles * -(-rays // rays_each),
        num_warps=4,
        num_stages=2,
        weight=weight,
        a=A,
        b=B,
        lam=lam,
        merged=merged,
        rays=rays,
        rays_each=rays_each,
        p=p,
        q=q,
        R=R,
        r=factors.r,
        channels=channels,
        taps=taps,
        **out_side(A).strides("a"),
        **in_side(B).strides("b"),
        lam_ray=lam.stride(0),
        lam_task=lam.stride(1),
        MATRICISED=matricised,
        WEIGHT_LAST=last,
        CHUNKED=R > BR,
        BM=BM,
        BN=BN,
        BR=BR,
    )


def _dense(weight: Tensor | None, factors: Dense, lam: Tensor, merged: Tensor, last: bool) -> None:
    rays, _, *side, channels = merged.shape
    numel = merged[0].numel()
    block, together = 512, min(8, 1 << max(rays - 1, 0).bit_length())
    launch(
        merge_dense,
        -(-numel // block) * -(-rays // together),
        num_warps=4,
        num_stages=2,
        weight=weight,
        deltas=factors.given[0].contiguous(),
        lam=lam,
        merged=merged,
        rays=rays,
        tasks=factors.tasks,
        numel=numel,
        channels=channels,
        taps=side[0] * side[1],
        lam_ray=lam.stride(0),
        lam_task=lam.stride(1),
        WEIGHT_LAST=last,
        RAYS=together,
        BLOCK=block,
    )


def pull_back(
    factors: Factors, kernels: Tensor, lam: Tensor, needs: Needs
) -> tuple[list[Tensor] | None, Tensor | None]:
    """The gradients of the factors and of lam from those of M kernels, (M, O, C/groups, kh, kw) in float32.

    What is left after the sum over rays are plain products of (M*p, q) with a few columns, so they go to cuBLAS: it
    splits long sums as well as any kernel here would, and needs no second implementation. With dK_m viewed as (p, q),

        dA_t = sum_m lam[m, t] dK_m B_t^T       dB_t = sum_m lam[m, t] A_t^T dK_m       dlam[m, t] = <dK_m, A_t B_t>
    """
    rays = lam.shape[0]
    if isinstance(factors, Dense):
        flat = kernels.view(rays, -1)
        dD = factors.finish([lam.t() @ flat]) if needs.factors else None
        return dD, flat @ factors.D.t() if needs.lam else None
    tasks, r, R = factors.tasks, factors.r, factors.tasks * factors.r
    stacked = kernels.view(rays * factors.p, factors.q)
    projected = (stacked @ factors.B.t()).view(rays, factors.p, R)
    dfactors, dlam = None, None
    if needs.factors:
        columns = lam.repeat_interleave(r, dim=1)[:, None, :]  # (M, 1, R)
        dA = (projected * columns).sum(0)
        dB = (factors.A * columns).view(rays * factors.p, R).t() @ stacked
        dfactors = factors.finish([dA, dB])
    if needs.lam:
        dlam = (projected * factors.A).sum(1).view(rays, tasks, r).sum(2)
    return dfactors, dlam
