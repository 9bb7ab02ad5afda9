# mypy: allow-untyped-defs, allow-incomplete-defs
"""What a convolution with [W; B] leaves to do: y = base + (S o Lam) A^T + b, and the way back.

The maps of that one convolution are (rows, O + R): base = X * W in the first O channels, S = X * B in the last R, rows
the positions of all images. For the backward the gradients are laid out the same way, [G | U], so that one call of the
library's convolution gradient serves W and B.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.triton.conv.shapes import cheapest
from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.launch import launch
from palora_kernels.triton.launching.operands import Factor, padded
from palora_kernels.triton.launching.tiles import factor_offsets, lam_of, lam_rows, step, tile_of

_WIDEST = 32  # columns of S at a time
# One or two steps over R are not worth a pipeline, and base, sum and S o Lam are in registers at once: small tiles.
_OUTPUT_TILES = [
    configs.Tile(64, 64, _WIDEST, 4, 1),
    configs.Tile(64, 32, _WIDEST, 4, 1),
    configs.Tile(32, 64, _WIDEST, 4, 1),
    configs.Tile(32, 32, _WIDEST, 4, 1),
    configs.Tile(16, 32, _WIDEST, 2, 1),
]
_DEPTH = {"half": 64, "tf32": 32, "ieee": 16}  # output channels at a time


def output_tiles(kind: str, target: configs.Target) -> list[configs.Tile]:
    """What `add_adapters` may take: rows x output channels, and columns of S at a time."""
    spilling = ((64, 64), (32, 32)) if kind == "ieee" else ()
    return [t for t in _OUTPUT_TILES if (t.rows, t.columns) not in spilling]


def gradient_tiles(kind: str, target: configs.Target, columns: int) -> list[configs.Tile]:
    """What `adapter_gradients` may take: rows x columns of S, and output channels at a time."""
    stages = 2 if target.is_amd else 3
    sizes = [(rows, warps) for rows, warps in ((64, 4), (32, 4), (16, 2)) if rows <= 32 or kind != "ieee"]  # spills
    return [configs.Tile(rows, columns, _DEPTH[kind], warps, stages) for rows, warps in sizes]


@triton.jit
def add_adapters(
    maps, out, bias, lam, y, rows, positions, rays, base_channels, O, R, r, out_task, out_rank, out_col, lam_ray,
    lam_task, bias_ray, SHARED: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BR: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """A tile of BM rows by BN output channels: y = base + (S o Lam) A^T + b.

    maps (rows, base_channels + R), base_channels O, or 0 without a common part; out is A as (R, O). SHARED: the rows
    are those of one ray and all rays are written, y (M, rows, O). Else row i belongs to ray i // positions.
    """
    row_tile, column_tile = tile_of(tl.program_id(0), tl.cdiv(rows, BM), tl.cdiv(O, BN), GROUP)
    row = row_tile * BM + tl.arange(0, BM)
    o = column_tile * BN + tl.arange(0, BN)
    row_ok = row < rows
    o_ok = o < O
    ok = row_ok[:, None] & o_ok[None, :]
    at = maps + row.to(tl.int64)[:, None] * (base_channels + R)
    to = y + row.to(tl.int64)[:, None] * O + o[None, :]
    base = tl.zeros((BM, BN), dtype=tl.float32)
    if base_channels > 0:
        base += tl.load(at + o[None, :], mask=ok, other=0.0).to(tl.float32)
    if SHARED:
        passes = rays
    else:
        passes = 1
        ray = row // positions
    for m in range(passes):
        acc = tl.zeros((BM, BN), dtype=tl.float32)
        for j0 in range(0, R, BR):
            j = j0 + tl.arange(0, BR)
            j_ok = j < R
            s = tl.load(at + base_channels + j[None, :], mask=row_ok[:, None] & j_ok[None, :], other=0.0)
            if SHARED:
                scale = lam_of(lam, m, j, j_ok, r, lam_ray, lam_task)[None, :]
            else:
                scale = lam_rows(lam, ray, j, row_ok, j_ok, r, lam_ray, lam_task)
            scaled = (s.to(tl.float32) * scale).to(maps.dtype.element_ty)
            a = tl.load(
                out + factor_offsets(j, r, out_task, out_rank)[:, None] + o.to(tl.int64)[None, :] * out_col,
                mask=j_ok[:, None] & o_ok[None, :],
                other=0.0,
            )
            acc = tl.dot(scaled, a, acc, input_precision=PRECISION)
        acc += base
        if bias is not None:
            if SHARED:
                acc += tl.load(bias + step(m, bias_ray) + o, mask=o_ok, other=0.0).to(tl.float32)[None, :]
            else:
                values = bias + ray.to(tl.int64)[:, None] * bias_ray + o[None, :]
                acc += tl.load(values, mask=ok, other=0.0).to(tl.float32)
        tl.store(to + step(m, 1) * rows * O, acc.to(y.dtype.element_ty), mask=ok)


@triton.jit
def adapter_gradients(
    grad, out, lam, s, stacked, scaled, products, rows, positions, rays, base_channels, O, R, r, tasks, out_task,
    out_rank, out_col, lam_ray, lam_task, SHARED: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr,
    BO: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """BM rows and BR of the R columns: U0 = G A, U = U0 o Lam, S o Lam and the rows' shares of dlam.

    grad (M, rows, O) if SHARED, else (rows, O); s (rows, R). Any result may be None:
    stacked (rows, base_channels + R)     [G | U], summed over the rays if SHARED
    scaled, as grad with R columns        S o Lam
    products (column tiles, M*rows, T)    sum over the columns j of task t of S o U0, float32
    """
    tiles_r = tl.cdiv(R, BR)
    pid = tl.program_id(0)
    tile_r = pid % tiles_r
    row = pid // tiles_r * BM + tl.arange(0, BM)
    row_ok = row < rows
    j = tile_r * BR + tl.arange(0, BR)
    j_ok = j < R
    ok = row_ok[:, None] & j_ok[None, :]
    wide_row = row.to(tl.int64)
    if s is not None:
        s_tile = tl.load(s + wide_row[:, None] * R + j[None, :], mask=ok, other=0.0).to(tl.float32)
    u = tl.zeros((BM, BR), dtype=tl.float32)
    passes = rays if SHARED else 1
    for m in range(passes):
        if SHARED:
            scale = lam_of(lam, m, j, j_ok, r, lam_ray, lam_task)[None, :]
        else:
            scale = lam_rows(lam, row // positions, j, row_ok, j_ok, r, lam_ray, lam_task)
        at = step(m, 1) * rows + wide_row  # [BM], a row of grad
        if (stacked is not None) or (products is not None):
            u0 = tl.zeros((BM, BR), dtype=tl.float32)
            for o0 in range(0, O, BO):
                o = o0 + tl.arange(0, BO)
                o_ok = o < O
                g = tl.load(grad + at[:, None] * O + o[None, :], mask=row_ok[:, None] & o_ok[None, :], other=0.0)
                a = tl.load(
                    out + factor_offsets(j, r, out_task, out_rank)[None, :] + o.to(tl.int64)[:, None] * out_col,
                    mask=o_ok[:, None] & j_ok[None, :],
                    other=0.0,
                )
                u0 = tl.dot(g, a, u0, input_precision=PRECISION)
            u += u0 * scale
            if products is not None:
                share = s_tile * u0
                to = products + (step(tile_r, rows) * rays_of_products(SHARED, rays) + at) * tasks
                for t in range(tasks):
                    tl.store(to + t, tl.sum(tl.where((j // r == t)[None, :], share, 0.0), axis=1), mask=row_ok)
        if scaled is not None:
            tl.store(scaled + at[:, None] * R + j[None, :], (s_tile * scale).to(scaled.dtype.element_ty), mask=ok)
    if stacked is not None:
        to = stacked + wide_row[:, None] * (base_channels + R)
        tl.store(to + base_channels + j[None, :], u.to(stacked.dtype.element_ty), mask=ok)
        if base_channels > 0:
            if tile_r == 0:
                # G was just read for U0: the second reading is from L2.
                for o0 in range(0, O, BO):
                    o = o0 + tl.arange(0, BO)
                    both = row_ok[:, None] & (o < O)[None, :]
                    total = tl.zeros((BM, BO), dtype=tl.float32)
                    for m in range(passes):
                        at = step(m, 1) * rows + wide_row
                        total += tl.load(grad + at[:, None] * O + o[None, :], mask=both, other=0.0).to(tl.float32)
                    tl.store(to + o[None, :], total.to(stacked.dtype.element_ty), mask=both)


@triton.jit
def rays_of_products(SHARED: tl.constexpr, rays):
    """How many blocks of ``rows`` the products of one column tile have."""
    if SHARED:
        return rays
    return 1


def outputs(maps: Tensor, out: Factor, bias: Tensor | None, lam: Tensor, base_channels: int, shared: bool) -> Tensor:
    """maps (P, Ho, Wo, base_channels + R), out A as (R, O) -> (M*n, Ho, Wo, O)."""
    O, R, rays = out.tensor.shape[1], out.columns, lam.shape[0]
    rows = maps.shape[0] * maps.shape[1] * maps.shape[2]
    y = maps.new_empty((maps.shape[0] * (rays if shared else 1), maps.shape[1], maps.shape[2], O))
    tile = cheapest("add_adapters", maps, rows, O, R, output_tiles)
    launch(
        add_adapters,
        -(-rows // tile.rows) * -(-O // tile.columns),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        maps=maps,
        out=out.tensor,
        bias=bias,
        lam=lam,
        y=y,
        rows=rows,
        positions=rows // rays,
        rays=rays,
        base_channels=base_channels,
        O=O,
        R=R,
        r=out.rank,
        **out.strides("out"),
        lam_ray=lam.stride(0),
        lam_task=lam.stride(1),
        bias_ray=0 if bias is None or bias.dim() == 1 else O,
        SHARED=shared,
        PRECISION=configs.conv_precision(maps.dtype),
        BM=tile.rows,
        BN=tile.columns,
        BR=padded(min(R, _WIDEST)),
        GROUP=8,
    )
    return y


@dataclass(frozen=True)
class Wanted:
    """What `gradients` has to form."""

    stacked: bool
    scaled: bool
    products: bool


def gradients(
    grad: Tensor, out: Factor, lam: Tensor, S: Tensor | None, base_channels: int, shared: bool, wanted: Wanted
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """grad (M*n, Ho, Wo, O), S (P, Ho, Wo, R), needed for the last two ->

    [G | U] (P, Ho, Wo, base_channels + R), S o Lam (M*n*Ho*Wo, R) and dlam (M, T) float32; None where not wanted.
    """
    O, R, (rays, tasks) = out.tensor.shape[1], out.columns, lam.shape
    images = grad.shape[0] // rays if shared else grad.shape[0]
    rows = images * grad.shape[1] * grad.shape[2]
    all_rows = rows * rays if shared else rows
    BR = padded(min(R, _WIDEST))
    tiles_r = -(-R // BR)
    tile = cheapest("adapter_gradients", grad, rows, R, O, lambda kind, target: gradient_tiles(kind, target, BR))
    both = grad.new_empty((images, *grad.shape[1:3], base_channels + R)) if wanted.stacked else None
    S_lam = grad.new_empty((all_rows, R)) if wanted.scaled else None
    shares = grad.new_empty((tiles_r, rays, all_rows // rays, tasks), dtype=torch.float32) if wanted.products else None
    launch(
        adapter_gradients,
        -(-rows // tile.rows) * tiles_r,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        grad=grad,
        out=out.tensor,
        lam=lam,
        s=S,
        stacked=both,
        scaled=S_lam,
        products=shares,
        rows=rows,
        positions=rows // rays,
        rays=rays,
        base_channels=base_channels,
        O=O,
        R=R,
        r=out.rank,
        tasks=tasks,
        **out.strides("out"),
        lam_ray=lam.stride(0),
        lam_task=lam.stride(1),
        SHARED=shared,
        PRECISION=configs.conv_precision(grad.dtype),
        BM=tile.rows,
        BO=tile.depth,
        BR=BR,
    )
    return both, S_lam, None if shares is None else shares.sum((0, 2))
