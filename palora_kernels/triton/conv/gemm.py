"""The forward and the input gradient of M rays' convolutions: the two ways to launch `conv_gemm_kernel`."""

from __future__ import annotations

import math

from torch import Tensor

from palora_kernels.triton.conv.gemm_kernel import conv_gemm
from palora_kernels.triton.conv.shapes import ConvShape, product_tile
from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.launch import launch


def forward(x: Tensor, kernels: Tensor, bias: Tensor | None, shape: ConvShape) -> Tensor:
    """x (P, H, W, C), kernels (M, O, kh, kw, C/groups), bias (O,), (M, O) or None -> (M*n, Ho, Wo, O)."""
    blocks = shape.rays * shape.groups
    y = x.new_empty(shape.rays * shape.images, shape.out_h, shape.out_w, shape.outputs)
    flat, tile = product_tile(x, shape.rows_out, shape.group_outputs, shape.group_inputs, shape.taps, blocks)
    _launch(
        x,
        kernels,
        bias,
        y,
        shape,
        tile,
        blocks=blocks,
        grid_rows=shape.rows_out,
        source_images=0 if shape.shared else shape.images,
        channels_in=shape.group_inputs,
        channels_out=shape.group_outputs,
        rows_h=shape.out_h,
        rows_w=shape.out_w,
        step_out_h=1,
        step_out_w=1,
        step_in_h=shape.stride[0],
        step_in_w=shape.stride[1],
        dest_h=shape.out_h,
        dest_w=shape.out_w,
        source_h=shape.in_h,
        source_w=shape.in_w,
        tap_step_h=1,
        tap_step_w=1,
        offset_step_h=shape.dilation[0],
        offset_step_w=shape.dilation[1],
        TRANSPOSED=False,
        FLAT=flat,
        SUM_RAYS=False,
    )
    return y


def input_gradient(grad: Tensor, kernels: Tensor, shape: ConvShape) -> Tensor:
    """grad (M*n, Ho, Wo, O), kernels as in `forward` -> the gradient of x, (P, H, W, C)."""
    sum_rays = shape.shared and shape.rays > 1
    dx = grad.new_empty(shape.images * (1 if shape.shared else shape.rays), shape.in_h, shape.in_w, shape.inputs)
    common = [math.gcd(shape.dilation[i], shape.stride[i]) for i in (0, 1)]
    rows_h, rows_w = -(-shape.in_h // shape.stride[0]), -(-shape.in_w // shape.stride[1])
    rows, classes = shape.images * rows_h * rows_w, shape.stride[0] * shape.stride[1]
    blocks = (1 if shape.shared else shape.rays) * shape.groups * classes
    taps = -(-shape.taps // classes) * (shape.rays if sum_rays else 1)  # of one class, on average
    flat, tile = product_tile(grad, rows, shape.group_inputs, shape.group_outputs, taps, blocks, classes > 1)
    _launch(
        grad,
        kernels,
        None,
        dx,
        shape,
        tile,
        blocks=blocks,
        grid_rows=rows,
        source_images=shape.images,
        channels_in=shape.group_outputs,
        channels_out=shape.group_inputs,
        rows_h=rows_h,
        rows_w=rows_w,
        step_out_h=shape.stride[0],
        step_out_w=shape.stride[1],
        step_in_h=1,
        step_in_w=1,
        dest_h=shape.in_h,
        dest_w=shape.in_w,
        source_h=shape.out_h,
        source_w=shape.out_w,
        tap_step_h=shape.stride[0] // common[0],
        tap_step_w=shape.stride[1] // common[1],
        offset_step_h=-shape.dilation[0] // common[0],
        offset_step_w=-shape.dilation[1] // common[1],
        TRANSPOSED=True,
        FLAT=flat,
        SUM_RAYS=sum_rays,
    )
    return dx


def _launch(
    source: Tensor,
    kernels: Tensor,
    bias: Tensor | None,
    dest: Tensor,
    shape: ConvShape,
    tile: configs.Tile,
    *,
    blocks: int,
    grid_rows: int,
    channels_out: int,
    **arguments: int | bool,
) -> None:
    programs = blocks * -(-grid_rows // tile.rows) * -(-channels_out // tile.columns)
    launch(
        conv_gemm,
        programs,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        source=source,
        weights=kernels,
        bias=bias,
        dest=dest,
        rays=shape.rays,
        images=shape.images,
        groups=shape.groups,
        channels_out=channels_out,
        kernel_h=shape.kernel[0],
        kernel_w=shape.kernel[1],
        pad_h=shape.padding[0],
        pad_w=shape.padding[1],
        dilation_h=shape.dilation[0],
        dilation_w=shape.dilation[1],
        bias_ray=0 if bias is None or bias.dim() == 1 else shape.outputs,
        PRECISION=configs.conv_precision(source.dtype),
        BM=tile.rows,
        BN=tile.columns,
        BK=tile.depth,
        GROUP=8,
        **arguments,
    )
