# mypy: allow-untyped-defs, allow-incomplete-defs
"""The gradients of M kernels in one launch, and their sums over splits and rays.

dK_m[o, tap, c] = sum over the positions p of ray m's output of G[p, o] x[p*stride + tap*dilation - padding, c]. The
positions are many and a kernel is small, so the sum is split: each program adds up one stretch of positions for one
tile of one kernel and writes it to a workspace in float32; a second kernel adds the stretches in order. No atomics:
two runs give the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.triton import configs
from palora_kernels.triton.conv_shapes import ConvShape, gradient_tile
from palora_kernels.triton.launch import launch
from palora_kernels.triton.tiles import tile_of


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
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """A tile of BM output channels by BN columns of one ray's kernel, over ``stretch`` positions.

    grad (M*images, out_h, out_w, groups*channels_out), source (.., source_h, source_w, groups*channels_in), workspace
    (M, splits, groups*channels_out, kernel_h*kernel_w*channels_in). FLAT: columns are (tap, channel) pairs in a row;
    else a tile has channels of one tap.
    """
    taps = kernel_h * kernel_w
    columns = taps * channels_in
    chunks = tl.cdiv(channels_in, BN)
    tiles_m = tl.cdiv(channels_out, BM)
    if FLAT:
        tiles_n = tl.cdiv(columns, BN)
    else:
        tiles_n = taps * chunks
    tiles = tiles_m * tiles_n
    pid = tl.program_id(0)
    block = pid // tiles
    tile_m, tile_n = tile_of(pid % tiles, tiles_m, tiles_n, GROUP)
    split = block % splits
    group = block // splits % groups
    ray = (block // (splits * groups)).to(tl.int64)

    o = tile_m * BM + tl.arange(0, BM)
    o_ok = o < channels_out
    if FLAT:
        column = tile_n * BN + tl.arange(0, BN)
        column_ok = column < columns
        channel = column % channels_in
        tap = column // channels_in
    else:
        channel = tile_n % chunks * BN + tl.arange(0, BN)
        column_ok = channel < channels_in
        tap = tile_n // chunks
        column = tap * channels_in + channel
    offset_h = tap // kernel_w * dilation_h - pad_h  # [BN] if FLAT, else one number
    offset_w = tap % kernel_w * dilation_w - pad_w

    source_channels = groups * channels_in
    grad_channels = groups * channels_out
    rows = images * out_h * out_w
    grad_at = grad + ray * rows * grad_channels + group * channels_out + o[None, :]
    source_at = source + ray * source_images * source_h * source_w * source_channels + group * channels_in
    source_at += (offset_h * source_w + offset_w) * source_channels + channel  # [BN]

    acc = tl.zeros((BM, BN), dtype=tl.float32)
    first = split * stretch
    for start in range(first, tl.minimum(first + stretch, rows), BK):
        row = start + tl.arange(0, BK)
        row_ok = (row < rows) & (row < first + stretch)
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

    at = ((ray * splits + split) * grad_channels + group * channels_out + o) * columns  # [BM]
    tl.store(workspace + at[:, None] + column[None, :], acc, mask=o_ok[:, None] & column_ok[None, :])


@triton.jit
def sum_kernel_gradients(
    workspace,
    kernels,
    total,
    rays,
    splits,
    numel,
    channels,
    taps,
    BLOCK: tl.constexpr,
):
    """workspace (M, splits, O, taps, channels) -> kernels (M, O, channels, taps) float32, and their sum ``total``.

    Either may be None. Splits and rays are added in order; both results have the channels before the taps, as
    parameters have.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ok = at < numel
    channel = at % channels
    tap = at // channels % taps
    to = at // (channels * taps) * (channels * taps) + channel * taps + tap
    everything = tl.zeros((BLOCK,), dtype=tl.float32)
    for ray in range(rays):
        one = tl.zeros((BLOCK,), dtype=tl.float32)
        source = workspace + tl.cast(ray, tl.int64) * splits * numel
        for split in range(splits):
            one += tl.load(source + tl.cast(split, tl.int64) * numel + at, mask=ok, other=0.0)
        if kernels is not None:
            tl.store(kernels + tl.cast(ray, tl.int64) * numel + to, one, mask=ok)
        everything += one
    if total is not None:
        tl.store(total + to, everything.to(total.dtype.element_ty), mask=ok)


BLOCK = 256


def kernel_gradients(
    x: Tensor, grad: Tensor, shape: ConvShape, *, each: bool, total: bool
) -> tuple[Tensor | None, Tensor | None]:
    """x (P, H, W, C), grad (M*n, Ho, Wo, O) -> the gradients of the rays' kernels and their sum.

    (M, O, C/groups, kh, kw) in float32 if ``each``, (O, C/groups, kh, kw) in the dtype of x if ``total``.
    """
    flat, tile, splits = gradient_tile(x, shape)
    numel = shape.outputs * shape.taps * shape.group_inputs
    workspace = x.new_empty((shape.rays, splits, numel), dtype=torch.float32)
    tiles_n = -(-shape.taps * shape.group_inputs // tile.columns)
    if not flat:
        tiles_n = shape.taps * -(-shape.group_inputs // tile.columns)
    launch(
        conv_kernel_gradient,
        shape.rays * shape.groups * splits * -(-shape.group_outputs // tile.rows) * tiles_n,
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
        FLAT=flat,
        PRECISION=configs.precision(x.dtype),
        BM=tile.rows,
        BN=tile.columns,
        BK=tile.depth,
        GROUP=8,
    )
    size = (shape.outputs, shape.group_inputs, *shape.kernel)
    kernels = x.new_empty((shape.rays, *size), dtype=torch.float32) if each else None
    summed = x.new_empty(size) if total else None
    launch(
        sum_kernel_gradients,
        -(-numel // BLOCK),
        num_warps=4,
        num_stages=2,
        workspace=workspace,
        kernels=kernels,
        total=summed,
        rays=shape.rays,
        splits=splits,
        numel=numel,
        channels=shape.group_inputs,
        taps=shape.taps,
        BLOCK=BLOCK,
    )
    return kernels, summed
