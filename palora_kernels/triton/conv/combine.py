# mypy: allow-untyped-defs, allow-incomplete-defs
"""Between the maps of E basis kernels and the maps of M rays: y_m = sum_e c[m, e] z_e + b, and the way back.

One convolution with all E kernels makes maps (rows, groups, E, O/groups), the rays' maps are (M, rows, O); rows are the
positions of all images. With a shared input the E maps serve all rays; else every ray has its own rows of them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.launch import launch
from palora_kernels.triton.launching.operands import padded
from palora_kernels.triton.launching.tiles import step


@triton.jit
def _basis_offsets(at, elements, group_outputs):
    """Where place ``at`` of (rows, groups, O/groups) is in (rows, groups, E, O/groups), for element 0."""
    return at // group_outputs * (group_outputs * elements) + at % group_outputs


@triton.jit
def combine_maps(
    basis, coefficients, bias, maps, rays, elements, numel, outputs, group_outputs, bias_ray,
    SHARED: tl.constexpr, RAYS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK values of RAYS maps: maps[m] = sum_e coefficients[m, e] basis[e] + bias[m].

    basis (rows, groups, E, O/groups), rows of all rays one after another unless SHARED; coefficients (M, E) float32;
    maps (M, numel) with numel = rows*O of one ray.
    """
    blocks = tl.cdiv(numel, BLOCK)
    pid = tl.program_id(0)
    at = (pid % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ray = (pid // blocks).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    ok = at < numel
    ray_ok = ray < rays
    both = ray_ok[:, None] & ok[None, :]
    source = basis + _basis_offsets(at, elements, group_outputs)
    total = tl.zeros((RAYS, BLOCK), dtype=tl.float32)
    for e in range(elements):
        scale = tl.load(coefficients + ray * elements + e, mask=ray_ok, other=0.0)
        if SHARED:
            z = tl.load(source + step(e, group_outputs), mask=ok, other=0.0).to(tl.float32)[None, :]
        else:
            z = tl.load(
                source[None, :] + step(e, group_outputs) + ray[:, None] * numel * elements, mask=both, other=0.0
            ).to(tl.float32)
        total += scale[:, None] * z
    if bias is not None:
        total += tl.load(bias + (ray * bias_ray)[:, None] + (at % outputs)[None, :], mask=both, other=0.0).to(
            tl.float32
        )
    tl.store(maps + ray[:, None] * numel + at[None, :], total.to(maps.dtype.element_ty), mask=both)


@triton.jit
def spread_maps(
    maps, coefficients, basis, rays, elements, numel, group_outputs,
    SHARED: tl.constexpr, ELEMENTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The transpose: basis[e] = sum_m coefficients[m, e] maps[m], or of each ray's rows by themselves unless SHARED."""
    blocks = tl.cdiv(numel, BLOCK)
    pid = tl.program_id(0)
    at = (pid % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    rest = pid // blocks
    e = rest % tl.cdiv(elements, ELEMENTS) * ELEMENTS + tl.arange(0, ELEMENTS)
    own_ray = rest // tl.cdiv(elements, ELEMENTS)
    ok = at < numel
    e_ok = e < elements
    total = tl.zeros((ELEMENTS, BLOCK), dtype=tl.float32)
    first, last = own_ray, own_ray + 1
    if SHARED:
        first, last = 0, rays
    for ray in range(first, last):
        g = tl.load(maps + step(ray, numel) + at, mask=ok, other=0.0).to(tl.float32)
        scale = tl.load(coefficients + step(ray, elements) + e, mask=e_ok, other=0.0)
        total += scale[:, None] * g[None, :]
    to = basis + _basis_offsets(at, elements, group_outputs)
    if not SHARED:
        to += step(own_ray, elements) * numel
    tl.store(
        to[None, :] + e[:, None] * group_outputs, total.to(basis.dtype.element_ty), mask=e_ok[:, None] & ok[None, :]
    )


@triton.jit
def products_of_maps(
    maps, basis, partial, rays, elements, numel, group_outputs, parts,
    SHARED: tl.constexpr, PRECISION: tl.constexpr, RAYS: tl.constexpr, ELEMENTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """partial[ray, e, part] = sum of maps[ray] * basis[e] over every parts-th block of BLOCK values.

    SHARED: RAYS rays with ELEMENTS elements are a matrix product, long in the sum. Else a ray has its own basis and a
    program takes one ray.
    """
    pid = tl.program_id(0)
    own = pid % parts
    rest = pid // parts
    e = rest % tl.cdiv(elements, ELEMENTS) * ELEMENTS + tl.arange(0, ELEMENTS)
    e_ok = e < elements
    source = basis + e[:, None] * group_outputs
    if SHARED:
        ray = (rest // tl.cdiv(elements, ELEMENTS)).to(tl.int64) * RAYS + tl.arange(0, RAYS)
        total = tl.zeros((RAYS, ELEMENTS), dtype=tl.float32)
    else:
        own_ray = (rest // tl.cdiv(elements, ELEMENTS)).to(tl.int64)
        source += own_ray * elements * numel
        summed = tl.zeros((ELEMENTS, BLOCK), dtype=tl.float32)
    for block in range(own, tl.cdiv(numel, BLOCK), parts):
        at = step(block, BLOCK) + tl.arange(0, BLOCK)
        ok = at < numel
        offsets = _basis_offsets(at, elements, group_outputs)
        z = tl.load(source + offsets[None, :], mask=e_ok[:, None] & ok[None, :], other=0.0)
        if SHARED:
            g = tl.load(maps + ray[:, None] * numel + at[None, :], mask=(ray < rays)[:, None] & ok[None, :], other=0.0)
            total = tl.dot(g, tl.trans(z), total, input_precision=PRECISION)
        else:
            g = tl.load(maps + own_ray * numel + at, mask=ok, other=0.0).to(tl.float32)
            summed += g[None, :] * z.to(tl.float32)
    if SHARED:
        to = (ray[:, None] * elements + e[None, :]) * parts + own
        tl.store(partial + to, total, mask=(ray < rays)[:, None] & e_ok[None, :])
    else:
        tl.store(partial + (own_ray * elements + e) * parts + own, tl.sum(summed, axis=1), mask=e_ok)


_BLOCK = 1024


def product_tiles(kind: str, target: configs.Target) -> list[configs.Tile]:
    """What `products_of_maps` takes of a shared basis: at most so many rays x elements, and values at a time."""
    depth = {"half": 128, "tf32": 64, "ieee": 32}[kind]
    return [configs.Tile(16, 16, depth, 4, 3) if kind == "ieee" else configs.Tile(32, 32, depth, 4, 3)]


def _power(size: int, most: int) -> int:
    return min(most, 1 << max(size - 1, 0).bit_length())


def combine(basis: Tensor, coefficients: Tensor, bias: Tensor | None, groups: int, shared: bool) -> Tensor:
    """basis (P, Ho, Wo, groups*E*O/groups), coefficients (M, E) float32 -> (M*n, Ho, Wo, O), with the bias added."""
    rays, elements = coefficients.shape
    outputs = basis.shape[3] // elements
    images = basis.shape[0] * (rays if shared else 1)
    maps = basis.new_empty((images, basis.shape[1], basis.shape[2], outputs))
    numel = maps.numel() // rays
    together, block = _power(rays, 8), _BLOCK if shared else _BLOCK // 2
    launch(
        combine_maps,
        -(-numel // block) * -(-rays // together),
        num_warps=8,
        num_stages=2,
        basis=basis,
        coefficients=coefficients,
        bias=bias,
        maps=maps,
        rays=rays,
        elements=elements,
        numel=numel,
        outputs=outputs,
        group_outputs=outputs // groups,
        bias_ray=0 if bias is None or bias.dim() == 1 else outputs,
        SHARED=shared,
        RAYS=together,
        BLOCK=block,
    )
    return maps


def spread(maps: Tensor, coefficients: Tensor, groups: int, shared: bool) -> Tensor:
    """maps (M*n, Ho, Wo, O), coefficients (M, E) float32 -> (P, Ho, Wo, groups*E*O/groups)."""
    rays, elements = coefficients.shape
    outputs = maps.shape[3]
    images = maps.shape[0] // rays if shared else maps.shape[0]
    basis = maps.new_empty((images, maps.shape[1], maps.shape[2], elements * outputs))
    numel = maps.numel() // rays
    together = _power(elements, 8)
    launch(
        spread_maps,
        -(-numel // _BLOCK) * -(-elements // together) * (1 if shared else rays),
        num_warps=8,
        num_stages=2,
        maps=maps,
        coefficients=coefficients,
        basis=basis,
        rays=rays,
        elements=elements,
        numel=numel,
        group_outputs=outputs // groups,
        SHARED=shared,
        ELEMENTS=together,
        BLOCK=_BLOCK,
    )
    return basis


def products(maps: Tensor, basis: Tensor, rays: int, groups: int, shared: bool) -> Tensor:
    """<G_m, Z_e> for every ray and element: maps (M*n, Ho, Wo, O), basis as in `combine` -> (M, E) float32."""
    outputs = maps.shape[3]
    elements = basis.shape[3] // outputs
    numel = maps.numel() // rays
    most = product_tiles(configs.conv_kind(maps.dtype), configs.target_of(maps.device))[0]
    block = most.depth if shared else 512
    ray_tile, element_tile = 1, _power(elements, 8)
    if shared:
        ray_tile, element_tile = min(most.rows, padded(rays)), min(most.columns, padded(elements))
    pairs = -(-rays // ray_tile) * -(-elements // element_tile)
    wanted = -(-4 * configs.target_of(maps.device).processors // pairs)
    parts = max(1, min(wanted, -(-numel // block)))
    partial = maps.new_empty((rays, elements, parts), dtype=torch.float32)
    launch(
        products_of_maps,
        pairs * parts,
        num_warps=most.num_warps,
        num_stages=most.num_stages,
        maps=maps,
        basis=basis,
        partial=partial,
        rays=rays,
        elements=elements,
        numel=numel,
        group_outputs=outputs // groups,
        parts=parts,
        SHARED=shared,
        PRECISION=configs.conv_precision(maps.dtype),
        RAYS=ray_tile,
        ELEMENTS=element_tile,
        BLOCK=block,
    )
    return partial.sum(2)
