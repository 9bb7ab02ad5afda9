# mypy: allow-untyped-defs, allow-incomplete-defs
"""The gradients of M kernels in one launch, and their sums over splits and rays.

dK_m[o, tap, c] = sum over the positions p of ray m's output of G[p, o] x[p*stride + tap*dilation - padding, c]. The
positions are many and a kernel is small, so the sum is split: each program adds up one stretch of positions for one
tile of one kernel and writes it to a workspace in float32; a second kernel adds the stretches in order. No atomics:
two runs give the same bits. The gradient of the bias, sums of G alone, is formed in the first launch too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.triton.conv.shapes import ConvShape, gradient_tile
from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.launch import launch
from palora_kernels.triton.launching.tiles import tile_of


@triton.jit
def _bias_tile(grad, out, first, last, channels, o, o_ok, BM: tl.constexpr, BK: tl.constexpr):
    """out[o] = the sum of grad[position, o] over the positions from first to last."""
    total = tl.zeros((BK, BM), dtype=tl.float32)
    for start in range(first, last, BK):
        row = start + tl.arange(0, BK)
        at = row.to(tl.int64)[:, None] * channels + o[None, :]
        total += tl.load(grad + at, mask=(row < last)[:, None] & o_ok[None, :], other=0.0).to(tl.float32)
    tl.store(out + o, tl.sum(total, axis=0), mask=o_ok)


@triton.jit
def _kernel_tile(
    grad, source, out, first, last, tile_n, o, o_ok, grad_channels, source_channels, channels_in,
    out_h, out_w, source_h, source_w, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
    FLAT: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """out[o, column] = the sum over positions from first to last of grad[position, o] source[position*stride.., c]."""
    columns = kernel_h * kernel_w * channels_in
    if FLAT:
        column = tile_n * BN + tl.arange(0, BN)
        column_ok = column < columns
        channel = column % channels_in
        tap = column // channels_in
    else:
        chunks = tl.cdiv(channels_in, BN)
        channel = tile_n % chunks * BN + tl.arange(0, BN)
        column_ok = channel < channels_in
        tap = tile_n // chunks
        column = tap * channels_in + channel
    offset_h = tap // kernel_w * dilation_h - pad_h  # [BN] if FLAT, else one number
    offset_w = tap % kernel_w * dilation_w - pad_w
    grad_at = grad + o[None, :]
    source_at = source + (offset_h * source_w + offset_w) * source_channels + channel  # [BN]

    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(first, last, BK):
        row = start + tl.arange(0, BK)
        row_ok = row < last
        image = (row // (out_h * out_w)).to(tl.int64)
        base_h = row % (out_h * out_w) // out_w * stride_h
        base_w = row % out_w * stride_w
        position = (image * source_h + base_h) * source_w + base_w
        if FLAT:
            h = base_h[:, None] + offset_h[None, :]
            w = base_w[:, None] + offset_w[None, :]
            inside = row_ok[:, None] & (h >= 0) & (h < source_h) & (w >= 0) & (w < source_w)
        else:
            h = base_h + offset_h
            w = base_w + offset_w
            inside = (row_ok & (h >= 0) & (h < source_h) & (w >= 0) & (w < source_w))[:, None]
        x = tl.load(
            source_at[None, :] + position[:, None] * source_channels, mask=inside & column_ok[None, :], other=0.0
        )
        g = tl.load(
            grad_at + row.to(tl.int64)[:, None] * grad_channels, mask=row_ok[:, None] & o_ok[None, :], other=0.0
        )
        acc = tl.dot(tl.trans(g), x, acc, input_precision=PRECISION)
    at = o.to(tl.int64)[:, None] * columns + column[None, :]
    tl.store(out + at, acc, mask=o_ok[:, None] & column_ok[None, :])


@triton.jit
def conv_kernel_gradient(
    grad,
    source,
    workspace,
    images,
    source_images,
    groups,
    splits,
    stretch,
    part,
    channels_in,
    channels_out,
    out_h,
    out_w,
    source_h,
    source_w,
    kernel_h,
    kernel_w,
    stride_h,
    stride_w,
    pad_h,
    pad_w,
    dilation_h,
    dilation_w,
    BIAS: tl.constexpr,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """A tile of BM output channels by BN columns of one ray's kernel, over ``stretch`` positions.

    grad (M*images, out_h, out_w, groups*channels_out), source (.., source_h, source_w, groups*channels_in), workspace
    (M, splits, part): a kernel, (groups*channels_out, kernel_h*kernel_w*channels_in), and with BIAS the sums of grad
    behind it. The program of these sums runs beside those that read the same part of grad. FLAT: columns are (tap,
    channel) pairs in a row; else a tile has channels of one tap.
    """
    taps = kernel_h * kernel_w
    columns = taps * channels_in
    tiles_m = tl.cdiv(channels_out, BM)
    if FLAT:
        tiles_n = tl.cdiv(columns, BN)
    else:
        tiles_n = taps * tl.cdiv(channels_in, BN)
    sums = 0
    if BIAS:
        sums = tiles_m
    programs = sums + tiles_m * tiles_n
    pid = tl.program_id(0)
    block = pid // programs
    tile = pid % programs - sums
    split = block % splits
    group = block // splits % groups
    ray = (block // (splits * groups)).to(tl.int64)

    grad_channels = groups * channels_out
    source_channels = groups * channels_in
    rows = images * out_h * out_w
    first = split * stretch
    last = tl.minimum(first + stretch, rows)
    grad += ray * rows * grad_channels + group * channels_out
    source += ray * source_images * source_h * source_w * source_channels + group * channels_in
    workspace += (ray * splits + split) * part
    in_tile = tl.arange(0, BM)
    if BIAS:
        if tile < 0:
            o = (tile + sums) * BM + in_tile
            at = workspace + tl.cast(grad_channels, tl.int64) * columns + group * channels_out
            _bias_tile(grad, at, first, last, grad_channels, o, o < channels_out, BM, BK)
    if tile >= 0:
        tile_m, tile_n = tile_of(tile, tiles_m, tiles_n, GROUP)
        o = tile_m * BM + in_tile
        _kernel_tile(
            grad, source, workspace + tl.cast(group * channels_out, tl.int64) * columns, first, last, tile_n, o,
            o < channels_out, grad_channels, source_channels, channels_in, out_h, out_w, source_h, source_w,
            kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
            FLAT, PRECISION, BM, BN, BK,
        )  # fmt: skip


@triton.jit
def sum_kernel_gradients(
    workspace,
    kernels,
    total,
    rays,
    splits,
    part,
    numel,
    channels,
    taps,
    BLOCK: tl.constexpr,
):
    """workspace (M, splits, part >= O*taps*channels) -> kernels (M, O, channels, taps) float32, and their sum.

    Either may be None. Splits and rays are added in order; both results have the channels before the taps,
    as parameters have.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ok = at < numel
    channel = at % channels
    tap = at // channels % taps
    to = at // (channels * taps) * (channels * taps) + channel * taps + tap
    everything = tl.zeros((BLOCK,), dtype=tl.float32)
    for ray in range(rays):
        one = tl.zeros((BLOCK,), dtype=tl.float32)
        source = workspace + tl.cast(ray, tl.int64) * splits * part
        for split in range(splits):
            one += tl.load(source + tl.cast(split, tl.int64) * part + at, mask=ok, other=0.0)
        if kernels is not None:
            tl.store(kernels + tl.cast(ray, tl.int64) * numel + to, one, mask=ok)
        everything += one
    if total is not None:
        tl.store(total + to, everything.to(total.dtype.element_ty), mask=ok)


BLOCK = 256


@dataclass(frozen=True)
class KernelGradients:
    """What the launch left: float32 partial sums (M, splits, part), a kernel as (O, taps, C/groups) in each part, and
    behind it the sums of G if there is a bias."""

    partial: Tensor
    shape: ConvShape
    bias_dims: int

    @property
    def numel(self) -> int:
        return self.shape.outputs * self.shape.taps * self.shape.group_inputs

    def bias(self, dtype: torch.dtype) -> Tensor | None:
        """(O,), or (M, O) for a bias per ray."""
        if self.bias_dims == 0:
            return None
        return self.partial[:, :, self.numel :].sum((0, 1) if self.bias_dims == 1 else 1).to(dtype)

    def sums(self, dtype: torch.dtype, *, each: bool, total: bool) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of the rays' kernels, (M, O, C/groups, kh, kw) in float32, and their sum over rays."""
        shape = self.shape
        rays, splits, part = self.partial.shape
        size = (shape.outputs, shape.group_inputs, *shape.kernel)
        kernels = self.partial.new_empty((rays, *size)) if each else None
        summed = self.partial.new_empty(size, dtype=dtype) if total else None
        launch(
            sum_kernel_gradients,
            -(-self.numel // BLOCK),
            num_warps=4,
            num_stages=2,
            workspace=self.partial,
            kernels=kernels,
            total=summed,
            rays=rays,
            splits=splits,
            part=part,
            numel=self.numel,
            channels=shape.group_inputs,
            taps=shape.taps,
            BLOCK=BLOCK,
        )
        return kernels, summed


def kernel_gradients(x: Tensor, grad: Tensor, shape: ConvShape, bias_dims: int = 0) -> KernelGradients:
    """x (P, H, W, C), grad (M*n, Ho, Wo, O) -> the gradients of the rays' kernels, and of the bias if ``bias_dims`` is
    1, one for all rays, or 2, one for each."""
    flat, tile, splits = gradient_tile(x, shape)
    numel = shape.outputs * shape.taps * shape.group_inputs
    part = numel + (shape.outputs if bias_dims else 0)
    workspace = x.new_empty((shape.rays, splits, part), dtype=torch.float32)
    tiles_n = -(-shape.taps * shape.group_inputs // tile.columns)
    if not flat:
        tiles_n = shape.taps * -(-shape.group_inputs // tile.columns)
    launch(
        conv_kernel_gradient,
        shape.rays * shape.groups * splits * -(-shape.group_outputs // tile.rows) * (tiles_n + (bias_dims > 0)),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        grad=grad,
        source=x,
        workspace=workspace,
        images=shape.images,
        source_images=0 if shape.shared else shape.images,
        groups=shape.groups,
        splits=splits,
        stretch=-(-shape.rows_out // splits),
        part=part,
        channels_in=shape.group_inputs,
        channels_out=shape.group_outputs,
        out_h=shape.out_h,
        out_w=shape.out_w,
        source_h=shape.in_h,
        source_w=shape.in_w,
        kernel_h=shape.kernel[0],
        kernel_w=shape.kernel[1],
        stride_h=shape.stride[0],
        stride_w=shape.stride[1],
        pad_h=shape.padding[0],
        pad_w=shape.padding[1],
        dilation_h=shape.dilation[0],
        dilation_w=shape.dilation[1],
        BIAS=bias_dims > 0,
        FLAT=flat,
        PRECISION=configs.conv_precision(x.dtype),
        BM=tile.rows,
        BN=tile.columns,
        BK=tile.depth,
        GROUP=8,
    )
    return KernelGradients(workspace, shape, bias_dims)
