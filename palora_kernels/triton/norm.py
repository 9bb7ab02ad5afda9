# mypy: allow-untyped-defs, allow-incomplete-defs
"""Batch normalisation of M rays in two launches forward and two backward, each ray by its own statistics.

    forward    mean, var over the rows of ray m      y  = (x - mean_m) / sqrt(var_m + eps) * w + b
    backward   dw = sum over m of sum(g x^)          dx = w / sqrt(var_m + eps) * (g - sum(g)/N - x^ sum(g x^)/N)

The first launch leaves sums a split, the second adds them, split 0 first, and writes what is as large as x. Sums are
taken of x minus the ray's first value of the channel, so that a mean far from zero costs no digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.launch import launch
from palora_kernels.triton.launching.tiles import grid_offsets, step

_TILE = 2048  # values at a time: 16 a thread
_WARPS = 4
_AT_ONCE = 16  # splits whose sums a program loads together
_MOST_SPLITS = 256


@triton.jit
def place_of(program, column_tiles, splits):
    """(ray, split, column tile) of a program; those of one ray and split are neighbours and share its rows in L2."""
    return program // (column_tiles * splits), program // column_tiles % splits, program % column_tiles


@triton.jit
def totals(sums_ptr, m, M, c, in_c, splits, C, AT_ONCE: tl.constexpr):
    """Both sums of ray m, over its splits, AT_ONCE of them under way together: float32 [BC], [BC]."""
    first = tl.zeros_like(c).to(tl.float32)
    second = first
    for i0 in range(0, splits, AT_ONCE):
        i = i0 + tl.arange(0, AT_ONCE)
        inside = (i < splits)[:, None] & in_c[None, :]
        at = ((step(m, splits) + i) * C)[:, None] + c[None, :]
        first += tl.sum(tl.load(sums_ptr + at, mask=inside, other=0.0), 0)
        second += tl.sum(tl.load(sums_ptr + step(M, splits) * C + at, mask=inside, other=0.0), 0)
    return first, second


@triton.jit
def moments(x_ptr, sums_ptr, m, M, c, in_c, splits, C, count, x_ray, x_channel, AT_ONCE: tl.constexpr):
    """Mean and biased variance of ray m: float32 [BC], [BC]."""
    pivot = tl.load(x_ptr + step(m, x_ray) + c.to(tl.int64) * x_channel, mask=in_c, other=0.0).to(tl.float32)
    first, second = totals(sums_ptr, m, M, c, in_c, splits, C, AT_ONCE)
    first /= count
    return pivot + first, tl.maximum(second / count - first * first, 0.0)


@triton.jit
def norm_sums(
    x_ptr,
    g_ptr,
    mean_ptr,
    scale_ptr,
    sums_ptr,
    M,
    C,
    samples,
    positions,
    splits,
    tiles_each,
    x_ray,
    x_sample,
    x_position,
    x_channel,
    g_ray,
    g_sample,
    g_position,
    g_channel,
    BP: tl.constexpr,
    BC: tl.constexpr,
):
    """sums (2, M, splits, C): without g, of d = x - (the ray's first value) and of d^2; with g (and mean and scale
    = 1/sqrt(var + eps), both (M, C)) of g and of g (x - mean) scale."""
    m, split, column_tile = place_of(tl.program_id(0), tl.cdiv(C, BC), splits)
    c = column_tile * BC + tl.arange(0, BC)
    in_c = c < C
    first = tl.zeros((BP, BC), tl.float32)
    second = tl.zeros((BP, BC), tl.float32)
    if g_ptr is None:
        centre = tl.load(x_ptr + step(m, x_ray) + c.to(tl.int64) * x_channel, mask=in_c, other=0.0).to(tl.float32)
    else:
        centre = tl.load(mean_ptr + step(m, C) + c, mask=in_c, other=0.0)
        scale = tl.load(scale_ptr + step(m, C) + c, mask=in_c, other=0.0)
    across = tl.cdiv(positions, BP)
    for tile in range(split * tiles_each, tl.minimum((split + 1) * tiles_each, samples * across)):
        sample = tile // across
        p = tile % across * BP + tl.arange(0, BP)
        inside = (p < positions)[:, None] & in_c[None, :]
        x_tile = x_ptr + step(m, x_ray) + step(sample, x_sample)
        d = tl.load(x_tile + grid_offsets(p, c, x_position, x_channel), mask=inside, other=0.0).to(tl.float32)
        d = tl.where(inside, d - centre[None, :], 0.0)
        if g_ptr is None:
            first += d
            second += d * d
        else:
            g_tile = g_ptr + step(m, g_ray) + step(sample, g_sample)
            g = tl.load(g_tile + grid_offsets(p, c, g_position, g_channel), mask=inside, other=0.0).to(tl.float32)
            first += g
            second += g * d * scale[None, :]
    at = (step(m, splits) + split) * C + c
    tl.store(sums_ptr + at, tl.sum(first, 0), mask=in_c)
    tl.store(sums_ptr + step(M, splits) * C + at, tl.sum(second, 0), mask=in_c)


@triton.jit
def norm_forward(
    x_ptr,
    sums_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    mean_ptr,
    scale_ptr,
    running_mean_ptr,
    running_var_ptr,
    seen_ptr,
    M,
    C,
    samples,
    positions,
    splits,
    tiles_each,
    x_ray,
    x_sample,
    x_position,
    x_channel,
    y_ray,
    y_sample,
    y_position,
    y_channel,
    EPS: tl.constexpr,
    MOMENTUM: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """y as x; mean and scale = 1/sqrt(var + eps), (M, C) float32; the running statistics take M updates, ray by ray:
    by MOMENTUM, or where that is negative by 1 / (batches seen, this one included)."""
    m, split, column_tile = place_of(tl.program_id(0), tl.cdiv(C, BC), splits)
    c = column_tile * BC + tl.arange(0, BC)
    in_c = c < C
    count = samples * positions
    mean, var = moments(x_ptr, sums_ptr, m, M, c, in_c, splits, C, count, x_ray, x_channel, AT_ONCE)
    scale = 1.0 / tl.sqrt(var + EPS)
    if split == 0:
        tl.store(mean_ptr + step(m, C) + c, mean, mask=in_c)
        tl.store(scale_ptr + step(m, C) + c, scale, mask=in_c)
        if running_mean_ptr is not None:
            if m == 0:
                old_mean = tl.load(running_mean_ptr + c, mask=in_c, other=0.0).to(tl.float32)
                old_var = tl.load(running_var_ptr + c, mask=in_c, other=0.0).to(tl.float32)
                for ray in range(M):
                    new_mean, new_var = moments(
                        x_ptr, sums_ptr, ray, M, c, in_c, splits, C, count, x_ray, x_channel, AT_ONCE
                    )
                    factor = MOMENTUM
                    if MOMENTUM < 0:
                        factor = 1.0 / (tl.load(seen_ptr) + ray + 1).to(tl.float32)
                    old_mean = (1.0 - factor) * old_mean + factor * new_mean
                    old_var = (1.0 - factor) * old_var + factor * (new_var * (count / (count - 1.0)))
                tl.store(running_mean_ptr + c, old_mean.to(running_mean_ptr.dtype.element_ty), mask=in_c)
                tl.store(running_var_ptr + c, old_var.to(running_var_ptr.dtype.element_ty), mask=in_c)
    if w_ptr is not None:
        scale *= tl.load(w_ptr + c, mask=in_c, other=0.0).to(tl.float32)
        shift = tl.load(b_ptr + c, mask=in_c, other=0.0).to(tl.float32)
    else:
        shift = tl.zeros_like(scale)
    across = tl.cdiv(positions, BP)
    for tile in range(split * tiles_each, tl.minimum((split + 1) * tiles_each, samples * across)):
        sample = tile // across
        p = tile % across * BP + tl.arange(0, BP)
        inside = (p < positions)[:, None] & in_c[None, :]
        x_tile = x_ptr + step(m, x_ray) + step(sample, x_sample)
        d = tl.load(x_tile + grid_offsets(p, c, x_position, x_channel), mask=inside, other=0.0).to(tl.float32)
        y = (d - mean[None, :]) * scale[None, :] + shift[None, :]
        y_tile = y_ptr + step(m, y_ray) + step(sample, y_sample)
        tl.store(y_tile + grid_offsets(p, c, y_position, y_channel), y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def norm_backward(
    x_ptr,
    g_ptr,
    mean_ptr,
    scale_ptr,
    sums_ptr,
    w_ptr,
    dx_ptr,
    dw_ptr,
    db_ptr,
    M,
    C,
    samples,
    positions,
    splits,
    tiles_each,
    x_ray,
    x_sample,
    x_position,
    x_channel,
    g_ray,
    g_sample,
    g_position,
    g_channel,
    dx_ray,
    dx_sample,
    dx_position,
    dx_channel,
    BP: tl.constexpr,
    BC: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """dx as x, or None; dw and db (C), or both None."""
    m, split, column_tile = place_of(tl.program_id(0), tl.cdiv(C, BC), splits)
    c = column_tile * BC + tl.arange(0, BC)
    in_c = c < C
    if dw_ptr is not None:
        if (m == 0) & (split == 0):
            dw = tl.zeros((BC,), tl.float32)
            db = tl.zeros((BC,), tl.float32)
            for ray in range(M):
                first, second = totals(sums_ptr, ray, M, c, in_c, splits, C, AT_ONCE)
                db += first
                dw += second
            tl.store(dw_ptr + c, dw.to(dw_ptr.dtype.element_ty), mask=in_c)
            tl.store(db_ptr + c, db.to(db_ptr.dtype.element_ty), mask=in_c)
    if dx_ptr is not None:
        count = samples * positions
        first, second = totals(sums_ptr, m, M, c, in_c, splits, C, AT_ONCE)
        mean = tl.load(mean_ptr + step(m, C) + c, mask=in_c, other=0.0)
        scale = tl.load(scale_ptr + step(m, C) + c, mask=in_c, other=0.0)
        outer = scale
        if w_ptr is not None:
            outer *= tl.load(w_ptr + c, mask=in_c, other=0.0).to(tl.float32)
        across = tl.cdiv(positions, BP)
        for tile in range(split * tiles_each, tl.minimum((split + 1) * tiles_each, samples * across)):
            sample = tile // across
            p = tile % across * BP + tl.arange(0, BP)
            inside = (p < positions)[:, None] & in_c[None, :]
            x_tile = x_ptr + step(m, x_ray) + step(sample, x_sample)
            x = tl.load(x_tile + grid_offsets(p, c, x_position, x_channel), mask=inside, other=0.0).to(tl.float32)
            g_tile = g_ptr + step(m, g_ray) + step(sample, g_sample)
            g = tl.load(g_tile + grid_offsets(p, c, g_position, g_channel), mask=inside, other=0.0).to(tl.float32)
            normal = (x - mean[None, :]) * scale[None, :]
            dx = (g - (first[None, :] + normal * second[None, :]) / count) * outer[None, :]
            dx_tile = dx_ptr + step(m, dx_ray) + step(sample, dx_sample)
            tl.store(dx_tile + grid_offsets(p, c, dx_position, dx_channel), dx.to(dx_ptr.dtype.element_ty), mask=inside)


@dataclass(frozen=True)
class _Layout:
    """A tensor (M*n, C, ...) as M rays of ``samples`` of ``positions`` of C channels, with the strides of each.

    Samples whose positions follow on one another, as rows and channels_last do, are one sample."""

    samples: int
    positions: int
    strides: tuple[int, int, int, int]  # of a ray, a sample, a position, a channel

    @staticmethod
    def of(tensor: Tensor, rays: int) -> _Layout | None:
        """None where positions do not have one stride."""
        n, sizes, strides = tensor.shape[0] // rays, tensor.shape[2:], tensor.stride()[2:]
        for i in range(len(sizes) - 1):
            if sizes[i] != 1 and strides[i] != strides[i + 1] * sizes[i + 1]:
                return None
        row, channel = tensor.stride(0), tensor.stride(1)
        if not sizes:
            return _Layout(1, n, (n * row, 0, row, channel))
        positions, position = prod(sizes), strides[-1]
        if row == positions * position:
            return _Layout(1, n * positions, (n * row, 0, position, channel))
        return _Layout(n, positions, (n * row, row, position, channel))

    def named(self, prefix: str) -> dict[str, int]:
        return {f"{prefix}_{axis}": s for axis, s in zip(("ray", "sample", "position", "channel"), self.strides)}  # noqa: B905


def _alike(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor, or a copy, so that it is cut into samples and positions as ``like`` is."""
    return tensor if tensor.stride() == like.stride() else torch.empty_like(like).copy_(tensor)


@dataclass(frozen=True)
class _Grid:
    """The programs of a launch; the first and the second share it, so that sums and rows lie alike."""

    rays: int
    channels: int
    layout: _Layout
    BP: int
    BC: int
    splits: int
    tiles_each: int

    @staticmethod
    def of(x: Tensor, rays: int) -> _Grid:
        layout = _Layout.of(x, rays)
        assert layout is not None
        channels = x.shape[1]
        wide, long = triton.next_power_of_2(channels), triton.next_power_of_2(layout.positions)
        if layout.strides[3] == 1:  # the channels are the runs
            BC = min(wide, 64)
            BP = min(long, _TILE // BC)
        else:
            BP = min(long, 512)
            BC = min(wide, _TILE // BP)
        tiles = layout.samples * triton.cdiv(layout.positions, BP)
        programs = rays * triton.cdiv(channels, BC)
        wanted = max(1, 4 * configs.target_of(x.device).processors // programs)
        splits = min(wanted, tiles, _MOST_SPLITS)
        tiles_each = triton.cdiv(tiles, splits)
        return _Grid(rays, channels, layout, BP, BC, triton.cdiv(tiles, tiles_each), tiles_each)

    def sums(self, x: Tensor) -> Tensor:
        return torch.empty(2, self.rays, self.splits, self.channels, dtype=torch.float32, device=x.device)

    def start(self, kernel, **arguments) -> None:
        launch(
            kernel,
            self.rays * self.splits * triton.cdiv(self.channels, self.BC),
            num_warps=_WARPS,
            num_stages=2,
            M=self.rays,
            C=self.channels,
            samples=self.layout.samples,
            positions=self.layout.positions,
            splits=self.splits,
            tiles_each=self.tiles_each,
            BP=self.BP,
            BC=self.BC,
            **arguments,
        )


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    seen: Tensor | None,
    how: tuple[int, float | None, float],
) -> tuple[Tensor, Tensor, Tensor]:
    """y as x, mean and 1/sqrt(var + eps), (M, C) float32. The running statistics are updated in place.

    how: M, momentum and eps.
    seen: num_batches_tracked before this pass, read only where momentum is None.
    """
    rays, momentum, eps = how
    if _Layout.of(x, rays) is None:
        x = x.contiguous()
    grid, y = _Grid.of(x, rays), torch.empty_like(x)
    out = _Layout.of(y, rays)
    if out is None or (out.samples, out.positions) != (grid.layout.samples, grid.layout.positions):
        return forward(x.contiguous(), weight, bias, running_mean, running_var, seen, how)
    sums = grid.sums(x)
    mean = torch.empty(rays, x.shape[1], dtype=torch.float32, device=x.device)
    scale = torch.empty_like(mean)
    none = dict.fromkeys(("g_ray", "g_sample", "g_position", "g_channel"), 0)
    where = grid.layout.named("x")
    grid.start(norm_sums, x_ptr=x, g_ptr=None, mean_ptr=None, scale_ptr=None, sums_ptr=sums, **where, **none)
    grid.start(
        norm_forward,
        AT_ONCE=_AT_ONCE,
        x_ptr=x,
        sums_ptr=sums,
        w_ptr=weight,
        b_ptr=bias,
        y_ptr=y,
        mean_ptr=mean,
        scale_ptr=scale,
        running_mean_ptr=running_mean,
        running_var_ptr=running_var,
        seen_ptr=seen if momentum is None else None,
        **where,
        **out.named("y"),
        EPS=eps,
        MOMENTUM=-1.0 if momentum is None else momentum,
    )
    return y, mean, scale


def backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, scale: Tensor, rays: int, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """dx as x, dweight and dbias (C); needs: whether dx, and whether the other two are wanted."""
    if _Layout.of(x, rays) is None:
        x = x.contiguous()
    grad = _alike(grad, x)
    grid, dx = _Grid.of(x, rays), torch.empty_like(x) if needs[0] else None
    out = grid.layout if dx is None else _Layout.of(dx, rays)
    if out is None or (out.samples, out.positions) != (grid.layout.samples, grid.layout.positions):
        return backward(grad, x.contiguous(), weight, mean, scale, rays, needs)
    dw = db = None
    if needs[1] and weight is not None:
        dw, db = torch.empty_like(weight), torch.empty_like(weight)
    sums, where = grid.sums(x), {**grid.layout.named("x"), **_Layout.of(grad, rays).named("g")}  # type: ignore[union-attr]
    grid.start(norm_sums, x_ptr=x, g_ptr=grad, mean_ptr=mean, scale_ptr=scale, sums_ptr=sums, **where)
    grid.start(
        norm_backward,
        AT_ONCE=_AT_ONCE,
        x_ptr=x,
        g_ptr=grad,
        mean_ptr=mean,
        scale_ptr=scale,
        sums_ptr=sums,
        w_ptr=weight,
        dx_ptr=dx,
        dw_ptr=dw,
        db_ptr=db,
        **where,
        **out.named("dx"),
    )
    return dx, dw, db
