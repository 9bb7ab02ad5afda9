"""The entries of the convolution's kernels in the catalogue: what its functions launch, recorded on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from palora_kernels.call import Call, Geometry
from palora_kernels.factors import Dense, LowRank
from palora_kernels.triton.conv import adapters as conv_adapters
from palora_kernels.triton.conv import combine as conv_combine
from palora_kernels.triton.conv import gemm as conv_gemm
from palora_kernels.triton.conv import gemm_kernel as conv_gemm_kernel
from palora_kernels.triton.conv import kernel_gradient as conv_kernel_gradient
from palora_kernels.triton.conv.shapes import ConvShape, few, gradient_tiles, product_tiles
from palora_kernels.triton.launching.operands import out_side
from palora_kernels.triton.merge import merge
from palora_kernels.verify.catalog import Variant
from palora_kernels.verify.listing import META, plain_variants, variants_of

RAYS, IMAGES, TASKS = 5, 32, 2


def _empty(dtype: torch.dtype, *size: int) -> Tensor:
    return torch.empty(*size, dtype=dtype, device=META)


def _shape(channels: int, *, stride: int = 1, shared: bool = False) -> ConvShape:
    """3 x 3 kernels, 32 x 32 maps, twice as many channels out."""
    x = _empty(torch.float32, IMAGES if shared else RAYS * IMAGES, channels, 32, 32)
    deltas, lam = _empty(torch.float32, TASKS, 2 * channels, channels, 3, 3), torch.empty(RAYS, TASKS, device=META)
    return ConvShape.of(Call(x, None, None, Dense(deltas), lam, shared, 0, Geometry([stride] * 2, [1, 1], [1, 1], 1)))


def _operands(dtype: torch.dtype, shape: ConvShape) -> tuple[Tensor, Tensor, Tensor]:
    """x, gradient and kernels, all channels last."""
    images = shape.images * (1 if shape.shared else shape.rays)
    x = _empty(dtype, images, shape.in_h, shape.in_w, shape.inputs)
    grad = _empty(dtype, shape.rays * shape.images, shape.out_h, shape.out_w, shape.outputs)
    return x, grad, _empty(dtype, shape.rays, shape.outputs, *shape.kernel, shape.group_inputs)


def _forward(dtype: torch.dtype, shape: ConvShape) -> None:
    x, _, kernels = _operands(dtype, shape)
    conv_gemm.forward(x, kernels, _empty(dtype, shape.outputs), shape)


def _input_gradient(dtype: torch.dtype, shape: ConvShape) -> None:
    _, grad, kernels = _operands(dtype, shape)
    conv_gemm.input_gradient(grad, kernels, shape)


def _kernel_gradients(dtype: torch.dtype, shape: ConvShape) -> None:
    x, grad, _ = _operands(dtype, shape)
    conv_kernel_gradient.kernel_gradients(x, grad, shape, 1).sums(dtype, each=True, total=True)


def _products() -> Iterator[Variant]:
    gemm, gradient = conv_gemm_kernel.conv_gemm, conv_kernel_gradient.conv_kernel_gradient
    shared = {"shared": True}
    # label, kernel, call, channels, what else the shape has, whether all tiles are compiled unasked
    entries: list[tuple[str, Any, Callable[[torch.dtype, ConvShape], None], int, dict[str, Any], bool]] = [
        ("conv_gemm forward", gemm, _forward, 128, {}, True),
        ("conv_gemm forward 32 channels", gemm, _forward, 32, {}, False),
        ("conv_gemm forward stride 2", gemm, _forward, 128, {"stride": 2}, False),
        ("conv_gemm forward few channels", gemm, _forward, 3, {}, True),
        ("conv_gemm dx", gemm, _input_gradient, 128, {}, True),
        ("conv_gemm dx stride 2", gemm, _input_gradient, 128, {"stride": 2}, False),
        ("conv_gemm dx few channels", gemm, _input_gradient, 3, {}, False),
        ("conv_gemm dx shared", gemm, _input_gradient, 128, shared, False),
        ("conv_gemm dx shared few channels", gemm, _input_gradient, 3, shared, False),
        ("conv_kernel_gradient", gradient, _kernel_gradients, 128, {}, True),
        ("conv_kernel_gradient 32 channels", gradient, _kernel_gradients, 32, {}, False),
        ("conv_kernel_gradient few channels", gradient, _kernel_gradients, 3, {}, True),
    ]
    for label, kernel, call, channels, more, everything in entries:
        shape, flat = _shape(channels, **more), few(channels)
        tiles = product_tiles if kernel is gemm else gradient_tiles
        strided = call is _input_gradient and "stride" in more
        yield from variants_of(
            label,
            kernel,
            lambda dtype, call=call, shape=shape: call(dtype, shape),  # type: ignore[misc]
            lambda kind, target, tiles=tiles, flat=flat, channels=channels: tiles(  # type: ignore[misc]
                kind, target, flat, channels
            ),
            all_default=everything,
            key=kernel.fn.__name__ + ("_flat" if flat else "_strided" if strided else ""),
        )
    plain = _shape(128)
    yield from plain_variants(
        "sum_kernel_gradients", conv_kernel_gradient.sum_kernel_gradients, lambda dtype: _kernel_gradients(dtype, plain)
    )


def _adapters() -> Iterator[Variant]:
    rows, outputs, lam = 32, 128, torch.empty(RAYS, TASKS, device=META)

    def add(dtype: torch.dtype, R: int, shared: bool) -> None:
        images = IMAGES if shared else RAYS * IMAGES
        out = out_side(_empty(dtype, TASKS, outputs, R // TASKS))
        maps = _empty(dtype, images, rows, rows, outputs + R)
        conv_adapters.outputs(maps, out, _empty(dtype, outputs), lam, outputs, shared)

    def back(dtype: torch.dtype, R: int, shared: bool) -> None:
        images = IMAGES if shared else RAYS * IMAGES
        out = out_side(_empty(dtype, TASKS, outputs, R // TASKS))
        grad, S = _empty(dtype, RAYS * IMAGES, rows, rows, outputs), _empty(dtype, images, rows, rows, R)
        conv_adapters.gradients(grad, out, lam, S, outputs, shared, conv_adapters.Wanted(True, True, True))

    for label, shared in (("", False), (" shared", True)):
        for R in (16, 32):
            yield from variants_of(
                f"add_adapters{label} R{R}",
                conv_adapters.add_adapters,
                lambda dtype, R=R, shared=shared: add(dtype, R, shared),  # type: ignore[misc]
                conv_adapters.output_tiles,
                all_default=R == 16,
            )
            yield from variants_of(
                f"adapter_gradients{label} R{R}",
                conv_adapters.adapter_gradients,
                lambda dtype, R=R, shared=shared: back(dtype, R, shared),  # type: ignore[misc]
                lambda kind, target, R=R: conv_adapters.gradient_tiles(kind, target, R),  # type: ignore[misc]
                all_default=R == 16,
            )


def _combinations() -> Iterator[Variant]:
    coefficients = torch.empty(RAYS, TASKS + 1, device=META)

    def maps(dtype: torch.dtype, images: int, elements: int) -> Tensor:
        return _empty(dtype, images, 32, 32, elements * 64)

    for label, shared in (("", False), (" shared", True)):
        images = IMAGES if shared else RAYS * IMAGES

        def combine(dtype: torch.dtype, images: int = images, shared: bool = shared) -> None:
            conv_combine.combine(maps(dtype, images, TASKS + 1), coefficients, None, 1, shared)

        def spread(dtype: torch.dtype, shared: bool = shared) -> None:
            conv_combine.spread(maps(dtype, RAYS * IMAGES, 1), coefficients, 1, shared)

        def products(dtype: torch.dtype, images: int = images, shared: bool = shared) -> None:
            grad, basis = maps(dtype, RAYS * IMAGES, 1), maps(dtype, images, TASKS)
            conv_combine.products(grad, basis, RAYS, 1, shared)

        yield from plain_variants(f"combine_maps{label}", conv_combine.combine_maps, combine)
        yield from plain_variants(f"spread_maps{label}", conv_combine.spread_maps, spread)
        if shared:
            yield from variants_of(
                "products_of_maps shared", conv_combine.products_of_maps, products, conv_combine.product_tiles
            )
        else:
            yield from plain_variants("products_of_maps", conv_combine.products_of_maps, products)


def _merging() -> Iterator[Variant]:
    shape, lam = (128, 64, 3, 3), torch.empty(RAYS, TASKS, device=META)

    def low_rank(dtype: torch.dtype, p: int, q: int, R: int) -> None:
        A, B = _empty(dtype, TASKS, p, R // TASKS), _empty(dtype, TASKS, R // TASKS, q)
        merge.kernels_of_rays(_empty(dtype, *shape), LowRank(A, B, shape), lam)

    def dense(dtype: torch.dtype) -> None:
        merge.kernels_of_rays(_empty(dtype, *shape), Dense(_empty(dtype, TASKS, *shape)), lam)

    for label, p, q, R in (
        ("matricised R16", 128, 576, 16),
        ("matricised R128", 128, 576, 128),
        ("loralib R48", 384, 192, 48),
    ):
        for variant in plain_variants(
            f"merge_low_rank {label}",
            merge.merge_low_rank,
            lambda dtype, p=p, q=q, R=R: low_rank(dtype, p, q, R),  # type: ignore[misc]
        ):
            yield replace(variant, dots="ieee")  # float32 whatever the dtype: the sum is rounded once
    yield from plain_variants("merge_dense", merge.merge_dense, dense)


def variants() -> Iterator[Variant]:
    yield from _products()
    yield from _adapters()
    yield from _combinations()
    yield from _merging()
