# mypy: allow-untyped-defs, allow-incomplete-defs
"""A convolution of M rays, each with its own kernel, as one matrix product in one launch: forward and input gradient.

Maps are NHWC and kernels (M, O, kh, kw, C/groups). A tile of BM positions by BN channels sums over kernel taps and
channels; the im2col matrix exists only as addresses. Both directions are the same sum with different numbers:

    forward          y[i, j, o]  = sum over taps and c of  x[i*stride + tap*dilation - padding, ..., c] K[o, tap, c]
    input gradient  dx[h, w, c]  = sum over taps and o of  G[(h + padding - tap*dilation) / stride, ..., o] K[o, tap, c]

The second runs once per residue class of (h, w) modulo the stride: within a class h = class + stride*i, and the taps
for which the division is exact form an arithmetic progression, so that no product with zero is ever formed. In both,
tap number j of a class reads position ``i*step_in + offset + j*offset_step``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from palora_kernels.triton.launching.tiles import tile_of


@triton.jit
def first_tap(residue, pad, dilation, stride, tap_step, kernel):
    """The smallest tap with (residue + pad - tap*dilation) divisible by stride; ``kernel`` or more if there is none."""
    first = kernel + 0
    for tap in range(tap_step):
        exact = (residue + pad - tap * dilation) % stride == 0
        first = tl.where(exact, tl.minimum(first, tap), first)
    return first


@triton.jit
def conv_gemm(
    source,
    weights,
    bias,
    dest,
    rays,
    images,
    source_images,
    groups,
    channels_in,
    channels_out,
    rows_h,
    rows_w,
    step_out_h,
    step_out_w,
    step_in_h,
    step_in_w,
    dest_h,
    dest_w,
    source_h,
    source_w,
    kernel_h,
    kernel_w,
    pad_h,
    pad_w,
    dilation_h,
    dilation_w,
    tap_step_h,
    tap_step_w,
    offset_step_h,
    offset_step_w,
    bias_ray,
    TRANSPOSED: tl.constexpr,
    FLAT: tl.constexpr,
    SUM_RAYS: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One tile of one ray, group and residue class.

    source (.., source_h, source_w, groups*channels_in), dest (.., dest_h, dest_w, groups*channels_out); ray m's images
    start at m*source_images in source (0: all rays read the same) and at m*images in dest. With SUM_RAYS the sum runs
    over the rays too and dest has one ray. FLAT steps through (tap, channel) pairs, for few channels; else a step of
    the sum stays within one tap, whose offset is then one number.
    """
    rows = images * rows_h * rows_w
    tiles_m = tl.cdiv(rows, BM)
    tiles_n = tl.cdiv(channels_out, BN)
    tiles = tiles_m * tiles_n
    pid = tl.program_id(0)
    block = pid // tiles
    tile = pid % tiles
    tile_m, tile_n = tile_of(tile, tiles_m, tiles_n, GROUP)

    classes = step_out_h * step_out_w
    residue = block % classes
    residue_h = residue // step_out_w
    residue_w = residue % step_out_w
    group = block // classes % groups
    ray = (block // (classes * groups)).to(tl.int64)

    row = tile_m * BM + tl.arange(0, BM)
    image = row // (rows_h * rows_w)
    i = row % (rows_h * rows_w) // rows_w
    j = row % rows_w
    out_h = residue_h + step_out_h * i
    out_w = residue_w + step_out_w * j
    row_ok = (row < rows) & (out_h < dest_h) & (out_w < dest_w)
    col = tile_n * BN + tl.arange(0, BN)
    col_ok = col < channels_out

    if TRANSPOSED:
        first_h = first_tap(residue_h, pad_h, dilation_h, step_out_h, tap_step_h, kernel_h)
        first_w = first_tap(residue_w, pad_w, dilation_w, step_out_w, tap_step_w, kernel_w)
        offset_h = (residue_h + pad_h - first_h * dilation_h) // step_out_h
        offset_w = (residue_w + pad_w - first_w * dilation_w) // step_out_w
    else:
        first_h = 0
        first_w = 0
        offset_h = 0 - pad_h
        offset_w = 0 - pad_w
    taps_h = tl.maximum((kernel_h - first_h + tap_step_h - 1) // tap_step_h, 0)
    taps_w = tl.maximum((kernel_w - first_w + tap_step_w - 1) // tap_step_w, 0)

    base_h = i * step_in_h
    base_w = j * step_in_w
    source_channels = groups * channels_in
    source_ray = tl.cast(source_images, tl.int64) * source_h * source_w * source_channels
    position = (image.to(tl.int64) * source_h + base_h) * source_w + base_w
    a_rows = source + ray * source_ray + position * source_channels + group * channels_in  # [BM]

    # K[o, tap, c]: the sum runs over c in the forward and over o in the gradient.
    taps = kernel_h * kernel_w
    if TRANSPOSED:
        k_stride = taps * channels_out
        tap_stride = channels_out
        b_cols = weights + tl.cast(group, tl.int64) * channels_in * k_stride + col  # [BN]
        weight_ray = tl.cast(groups, tl.int64) * channels_in * k_stride
    else:
        k_stride = 1
        tap_stride = channels_in
        b_cols = weights + (tl.cast(group, tl.int64) * channels_out + col) * (taps * channels_in)
        weight_ray = tl.cast(groups, tl.int64) * channels_out * (taps * channels_in)
    b_cols += ray * weight_ray

    acc = tl.zeros((BM, BN), dtype=tl.float32)
    rays_inside = rays if SUM_RAYS else 1
    if FLAT:
        length = taps_h * taps_w * channels_in
        for k0 in range(0, rays_inside * length, BK):
            k = k0 + tl.arange(0, BK)
            k_ok = k < rays_inside * length
            channel = k % channels_in
            tap = k // channels_in
            if SUM_RAYS:
                inner = (k // length).to(tl.int64)
                tap = tap % (taps_h * taps_w)
            tap_h = tap // taps_w
            tap_w = tap % taps_w
            at_h = offset_h + tap_h * offset_step_h
            at_w = offset_w + tap_w * offset_step_w
            h = base_h[:, None] + at_h[None, :]
            w = base_w[:, None] + at_w[None, :]
            inside = (h >= 0) & (h < source_h) & (w >= 0) & (w < source_w)
            a_k = (at_h * source_w + at_w) * source_channels + channel
            kernel_tap = (first_h + tap_h * tap_step_h) * kernel_w + first_w + tap_w * tap_step_w
            b_k = kernel_tap * tap_stride + channel * k_stride
            if SUM_RAYS:
                a_k = a_k + inner * source_ray
                b_k = b_k + inner * weight_ray
            a = tl.load(a_rows[:, None] + a_k[None, :], mask=inside & row_ok[:, None] & k_ok[None, :], other=0.0)
            b = tl.load(b_cols[None, :] + b_k[:, None], mask=k_ok[:, None] & col_ok[None, :], other=0.0)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
    else:
        chunks = tl.cdiv(channels_in, BK)
        steps = taps_h * taps_w * chunks
        for step in range(rays_inside * steps):
            chunk = step % chunks
            tap = step // chunks
            if SUM_RAYS:
                tap = tap % (taps_h * taps_w)
            tap_h = tap // taps_w
            tap_w = tap % taps_w
            at_h = offset_h + tap_h * offset_step_h
            at_w = offset_w + tap_w * offset_step_w
            h = base_h + at_h
            w = base_w + at_w
            inside = row_ok & (h >= 0) & (h < source_h) & (w >= 0) & (w < source_w)
            channel = chunk * BK + tl.arange(0, BK)
            k_ok = channel < channels_in
            kernel_tap = (first_h + tap_h * tap_step_h) * kernel_w + first_w + tap_w * tap_step_w
            a_k = (at_h * source_w + at_w) * source_channels + channel
            b_k = kernel_tap * tap_stride + channel * k_stride
            a_at = a_rows[:, None] + a_k[None, :]
            b_at = b_cols[None, :] + b_k[:, None]
            if SUM_RAYS:
                inner = (step // steps).to(tl.int64)
                a_at += inner * source_ray
                b_at += inner * weight_ray
            a = tl.load(a_at, mask=inside[:, None] & k_ok[None, :], other=0.0)
            b = tl.load(b_at, mask=k_ok[:, None] & col_ok[None, :], other=0.0)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)

    if bias is not None:
        values = tl.load(bias + ray * bias_ray + group * channels_out + col, mask=col_ok, other=0.0)
        acc += values.to(tl.float32)[None, :]
    to = ((ray * images + image) * dest_h + out_h) * dest_w + out_w  # [BM], 64 bits through the ray
    dest_at = dest + to[:, None] * (groups * channels_out) + group * channels_out + col[None, :]
    tl.store(dest_at, acc.to(dest.dtype.element_ty), mask=row_ok[:, None] & col_ok[None, :])
