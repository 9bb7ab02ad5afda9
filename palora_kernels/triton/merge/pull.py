# mypy: allow-untyped-defs, allow-incomplete-defs
"""From the gradients of M merged kernels to those of W, A, B and lam, in one reading: the way back of `merge`.

With dK_m viewed as (p, q), as the factors see it,

    dW = sum_m dK_m     P_m = dK_m B^T     dA = sum_m P_m o lam_m     dB = sum_m (A o lam_m)^T dK_m
    dlam[m, j] = sum over rows of A o P_m, then over the columns j of a task

M kernels in float32 are the largest thing here, and a matrix product a gradient would read them three times.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.call import Gradients, Needs
from palora_kernels.factors import Factors, LowRank
from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.launch import launch
from palora_kernels.triton.launching.operands import padded
from palora_kernels.triton.launching.tiles import lam_of, step
from palora_kernels.triton.merge import merge

MOST_COLUMNS = 32


@triton.jit
def pull_low_rank(
    partial,
    a,
    b,
    lam,
    total,
    da,
    db,
    dlam,
    rays,
    splits,
    part,
    p,
    q,
    tiles_each,
    R,
    r,
    channels,
    taps,
    lam_ray,
    lam_task,
    PRECISION: tl.constexpr,
    MATRICISED: tl.constexpr,
    ONE_TAP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BR: tl.constexpr,
):
    """partial (M, splits, part >= p*q), a kernel as (O, taps, channels), its splits still to be added; a (p, R), b
    (R, q); all float32.

    -> total (O, channels, taps), or None; da (stretches, p, R), db (row tiles, R, q) and dlam (row tiles * column
    tiles, M, R), float32 shares of the sums. A program has BM of the p rows and ``tiles_each`` tiles of BN of the q
    columns, walked as `merge.merge_low_rank` walks them.
    """
    per_tap = tl.cdiv(q, taps)
    tiles_n = tl.cdiv(per_tap * taps, BN)
    tiles_m = tl.cdiv(p, BM)
    row_tile = tl.program_id(0) % tiles_m
    stretch = tl.program_id(0) // tiles_m
    row = row_tile * BM + tl.arange(0, BM)
    row_ok = row < p
    j = tl.arange(0, BR)
    a_tile = tl.load(a + row.to(tl.int64)[:, None] * R + j[None, :], mask=row_ok[:, None] & (j < R)[None, :], other=0.0)
    da_tile = tl.zeros((BM, BR), dtype=tl.float32)
    for tile in range(stretch * tiles_each, tl.minimum((stretch + 1) * tiles_each, tiles_n)):
        walked = tile * BN + tl.arange(0, BN)
        # The places that `partial` is read at are spread over threads otherwise than those of b and of the results.
        # Where both were `walked % per_tap`, Triton 3.6 (LLVM) kept the two, tid % 32 and tid % 8 * 4, as one vector
        # of two numbers, and its PTX let tid << 31 of the one run into the other: wrong gradients on an H100 and an
        # H200, at one tap, R <= 16 and several tiles a program. Whole rows need no remainder, and their loads are 16
        # bytes wide without it.
        col = walked if ONE_TAP else walked % per_tap * taps + walked // per_tap
        col_ok = walked < q if ONE_TAP else (walked < per_tap * taps) & (col < q)
        ok = row_ok[:, None] & col_ok[None, :]
        viewed = row.to(tl.int64)[:, None] * q + col[None, :]  # place in (O, channels, taps)
        if MATRICISED:
            at = row.to(tl.int64)[:, None] * q + walked[None, :]
        else:
            numel = channels * taps
            within = viewed % numel
            at = viewed // numel * numel + within % taps * channels + within // taps
        in_b = (j < R)[:, None] & col_ok[None, :]
        b_at = j.to(tl.int64)[:, None] * q + col[None, :]
        b_tile = tl.load(b + b_at, mask=in_b, other=0.0)
        everything = tl.zeros((BM, BN), dtype=tl.float32)
        db_tile = tl.zeros((BR, BN), dtype=tl.float32)
        for ray in range(rays):
            one = tl.zeros((BM, BN), dtype=tl.float32)
            for split in range(splits):
                one += tl.load(partial + (step(ray, splits) + split) * part + at, mask=ok, other=0.0)
            everything += one
            scale = lam_of(lam, ray, j, j < R, r, lam_ray, lam_task)
            projected = tl.dot(one, tl.trans(b_tile), input_precision=PRECISION)
            da_tile += projected * scale[None, :]
            share = dlam + (step(tile, tiles_m) + row_tile) * rays * R + step(ray, R) + j
            tl.store(share, tl.sum(projected * a_tile, axis=0), mask=j < R)
            db_tile = tl.dot(tl.trans(a_tile * scale[None, :]), one, db_tile, input_precision=PRECISION)
        if total is not None:
            tl.store(total + viewed, everything.to(total.dtype.element_ty), mask=ok)
        tl.store(db + step(row_tile, R) * q + b_at, db_tile, mask=in_b)
    da_at = da + step(stretch, p) * R + row.to(tl.int64)[:, None] * R + j[None, :]
    tl.store(da_at, da_tile, mask=row_ok[:, None] & (j < R)[None, :])


def fits(factors: Factors, device: torch.device) -> bool:
    """Whether `run` takes these: few columns, or registers spill; on AMD's the places of the loralib form alone do."""
    if not isinstance(factors, LowRank) or factors.tasks * factors.r > MOST_COLUMNS:
        return False
    return factors.p == factors.shape[0] or not configs.target_of(device).is_amd


def run(factors: LowRank, partial: Tensor, lam: Tensor, *, weight: bool) -> tuple[Tensor | None, list[Tensor], Tensor]:
    """partial (M, splits, part) float32 -> (dW (O, C/groups, kh, kw) if ``weight``, [dA, dB], dlam (M, T) float32).

    ``part`` begins with a kernel's gradient, (O, kh, kw, C/groups); splits are added in order.
    """
    rays, splits, part = partial.shape
    outputs, channels, *side = factors.shape
    taps = side[0] * side[1]
    p, q, R = factors.p, factors.q, factors.tasks * factors.r
    columns = -(-q // taps) * taps
    BM, BN, BR = min(32, padded(p)), min(32 if R <= 16 else 16, padded(columns)), padded(R)
    tiles_m, tiles_n = -(-p // BM), -(-columns // BN)
    target = configs.target_of(partial.device)
    stretches = min(tiles_n, -(-2 * target.processors // tiles_m))
    each = -(-tiles_n // stretches)
    stretches = -(-tiles_n // each)
    total = factors.given[0].new_empty(outputs, channels, *side) if weight else None
    da, db = partial.new_empty(stretches, p, R), partial.new_empty(tiles_m, R, q)
    dlam = partial.new_empty(tiles_m * tiles_n, rays, R)
    launch(
        pull_low_rank,
        tiles_m * stretches,
        num_warps=4 if BR <= 16 else 8,
        num_stages=2,
        partial=partial,
        a=factors.A,
        b=factors.B,
        lam=lam,
        total=total,
        da=da,
        db=db,
        dlam=dlam,
        rays=rays,
        splits=splits,
        part=part,
        p=p,
        q=q,
        tiles_each=each,
        R=R,
        r=factors.r,
        channels=channels,
        taps=taps,
        lam_ray=lam.stride(0),
        lam_task=lam.stride(1),
        PRECISION=configs.exact(target),
        MATRICISED=q == channels * taps,
        ONE_TAP=taps == 1,
        BM=BM,
        BN=BN,
        BR=BR,
    )
    dfactors = factors.finish([da.sum(0), db.sum(0)])
    return total, dfactors, dlam.sum(0).view(rays, factors.tasks, factors.r).sum(2)


# (each, total) -> the gradients of the rays' kernels, (M, O, C/groups, kh, kw) in float32, and their sum over rays.
Sums = Callable[[bool, bool], tuple[Tensor | None, Tensor | None]]


def pull(factors: Factors, partial: Tensor, lam: Tensor, needs: Needs, sums: Sums) -> Gradients:
    """Those of W, the factors and lam from ``partial`` as `run` takes it; ``sums``: where it does not, what to add."""
    each = needs.factors or needs.lam
    if each and isinstance(factors, LowRank) and fits(factors, partial.device):
        dweight, pulled, of_lam = run(factors, partial, lam, weight=needs.weight)
        return Gradients(None, dweight, None, pulled if needs.factors else None, of_lam if needs.lam else None)
    kernels, dweight = sums(each, needs.weight)
    dfactors, dlam = (None, None) if kernels is None else merge.pull_back(factors, kernels, lam, needs)
    return Gradients(None, dweight, None, dfactors, dlam)
