# mypy: allow-untyped-defs, allow-incomplete-defs
"""dW = G^T X and dD_t = (lam_t o G)^T X in one launch; for a shared input G_e^T X with G_e combined before.

A program owns one tile of one element's gradient and the rows of one split; `reduce` adds splits in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.call import Call, Needs
from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.launch import launch
from palora_kernels.triton.launching.operands import scattered, strides
from palora_kernels.triton.launching.tiles import grid_offsets, step, tile_of
from palora_kernels.triton.linear import reduce


@triton.jit
def linear_basis_weights(
    g_ptr,
    x_ptr,
    lam_ptr,
    dw_ptr,
    dd_ptr,
    rows,
    n,
    O,
    K,
    first,
    elements,
    g_element,
    g_row,
    g_col,
    x_row,
    x_col,
    lam_ray,
    lam_task,
    splits,
    split_stride,
    COMMON: tl.constexpr,
    SCALED: tl.constexpr,
    BO: tl.constexpr,
    BK: tl.constexpr,
    BP: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """g (rows, O), or one such matrix an element, x (rows, K) -> dw (O, K) and dd (T, O, K), None if not needed.

    Element e from first to first + elements is W if COMMON and e = 0, else D_(e - COMMON). SCALED as in linear_basis.
    """
    o_tiles = tl.cdiv(O, BO)
    k_tiles = tl.cdiv(K, BK)
    program = tl.program_id(0)
    tiles = o_tiles * k_tiles
    o_tile, k_tile = tile_of(program % tiles, o_tiles, k_tiles, GROUP)
    e = first + (program // tiles) % elements
    split = program // (tiles * elements)
    t = e - COMMON
    o = o_tile * BO + tl.arange(0, BO)
    k = k_tile * BK + tl.arange(0, BK)
    p = tl.arange(0, BP)
    in_o = o < O
    in_k = k < K
    chunk = tl.cdiv(tl.cdiv(rows, splits), BP) * BP
    last = tl.minimum((split + 1) * chunk, rows)
    g_offsets = grid_offsets(o, p, g_col, g_row)
    x_offsets = grid_offsets(p, k, x_row, x_col)
    acc = tl.zeros((BO, BK), tl.float32)
    for p0 in range(split * chunk, last, BP):
        in_p = p < last - p0
        g_at = g_ptr + step(e, g_element) + step(p0, g_row)
        g = tl.load(g_at + g_offsets, mask=in_o[:, None] & in_p[None, :], other=0.0)
        x = tl.load(x_ptr + step(p0, x_row) + x_offsets, mask=in_p[:, None] & in_k[None, :], other=0.0)
        if SCALED:
            ray = (p0 + p) // n
            c = tl.load(lam_ptr + ray.to(tl.int64) * lam_ray + step(t, lam_task), mask=in_p & (t >= 0), other=1.0)
            g = (g.to(tl.float32) * c[None, :]).to(g.dtype)
        acc = tl.dot(g, x, acc, input_precision=PRECISION)
    out_offsets = step(split, split_stride) + grid_offsets(o, k, K, 1)
    inside = in_o[:, None] & in_k[None, :]
    if dw_ptr is not None:
        if t < 0:
            tl.store(dw_ptr + out_offsets, acc.to(dw_ptr.dtype.element_ty), mask=inside)
    if dd_ptr is not None:
        if t >= 0:
            tl.store(dd_ptr + step(t, O) * K + out_offsets, acc.to(dd_ptr.dtype.element_ty), mask=inside)


def run(call: Call, grad: Tensor, needs: Needs, *, scaled: bool) -> tuple[Tensor | None, list[Tensor] | None]:
    """(dW, [dD]), None where not needed; grad (rows, O), or (E, rows, O) if not ``scaled``."""
    x, lam, D, common = call.x, call.lam, call.D, call.weight is not None
    weight, deltas = needs.weight, needs.factors
    rows, K = x.shape
    T, O = D.shape[:2]
    dW = x.new_empty(O, K) if weight else None
    dD = x.new_empty(D.shape) if deltas else None
    first = 0 if weight or not common else 1
    elements = int(weight) + (T if deltas else 0)
    tile = configs.choose(
        "linear_basis_weights", x, (elements * O, K, rows), largest=LARGEST, scattered=scattered(grad, x)
    )
    splits = configs.choose_splits(tile, x.dtype, x.device, elements * O, K, rows)
    partial = reduce.Partial.of([dW, dD], splits)
    launch(
        linear_basis_weights,
        triton.cdiv(O, tile.rows) * triton.cdiv(K, tile.columns) * elements * splits,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        g_ptr=grad,
        x_ptr=x,
        lam_ptr=lam,
        dw_ptr=partial.targets[0],
        dd_ptr=partial.targets[1],
        rows=rows,
        n=max(call.n, 1),
        O=O,
        K=K,
        first=first,
        elements=elements,
        g_element=0 if scaled else grad.stride(0),
        g_row=grad.stride(-2),
        g_col=grad.stride(-1),
        **strides(x, "x_row", "x_col"),
        **strides(lam, "lam_ray", "lam_task"),
        splits=splits,
        split_stride=partial.stride,
        COMMON=int(common),
        SCALED=scaled,
        BO=tile.rows,
        BK=tile.columns,
        BP=tile.depth,
        GROUP=8,
        PRECISION=configs.precision(x.dtype),
    )
    partial.finish()
    return dW, None if dD is None else [dD]


LARGEST = 128 * 128
