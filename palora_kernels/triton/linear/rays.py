# mypy: allow-untyped-defs, allow-incomplete-defs
"""A shared input's backward, first launch: the gradient summed over rays, and U0 = G A of every ray, in one reading.

Both need all of G, the largest operand there is: M times the rows of the layer. `linear_sums.over_rays` and
`linear_project` would each read it from memory.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.launch import launch
from palora_kernels.triton.launching.operands import Factor, alignment, padded, run_alignment, strides
from palora_kernels.triton.launching.tiles import factor_grid, grid_offsets, multiple, step

_ROWS = 16  # of a ray in a program: programs are few, for they own all columns of their rows
MOST_RAYS = 16
MOST_COLUMNS = {2: 64, 4: 32}  # by the bytes of a number: more spill
_LONGEST = 1 << 17  # bytes of G that a program reads, where programs are too few to fill the device


@triton.jit
def linear_rays(
    g_ptr,
    into_ptr,
    sum_ptr,
    u_ptr,
    n,
    M,
    O,
    R,
    r,
    g_row,
    g_col,
    into_task,
    into_rank,
    into_col,
    O_ALIGN: tl.constexpr,
    G_ALIGN: tl.constexpr,
    INTO_ALIGN: tl.constexpr,
    RAYS: tl.constexpr,
    BM: tl.constexpr,
    BO: tl.constexpr,
    BR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """g (M*n, O), into (R, O) -> sum (n, O), the sum of g over rays, and u (M*n, R) = g into^T; M <= RAYS, R <= BR.

    A program has BM rows of every ray: row m*BM + i of its tile is row i of ray m.
    """
    O = multiple(O, O_ALIGN)
    start = tl.program_id(0) * BM
    q = tl.arange(0, RAYS * BM)
    in_ray = start + q % BM
    row = (q // BM).to(tl.int64) * n + in_ray
    in_g = (q // BM < M) & (in_ray < n)
    i = start + tl.arange(0, BM)
    o = tl.arange(0, BO)
    j = tl.arange(0, BR)
    g_offsets = grid_offsets(row, o, g_row, g_col, 1, G_ALIGN)
    into_offsets = factor_grid(o, j, r, into_task, into_rank, into_col, INTO_ALIGN)
    u = tl.zeros((RAYS * BM, BR), tl.float32)
    for o0 in range(0, O, BO):
        in_o = o < O - o0
        g = tl.load(g_ptr + step(o0, g_col) + g_offsets, mask=in_g[:, None] & in_o[None, :], other=0.0)
        into = tl.load(into_ptr + step(o0, into_col) + into_offsets, mask=in_o[:, None] & (j < R)[None, :], other=0.0)
        u = tl.dot(g, into, u, input_precision=PRECISION)
        total = tl.sum(tl.reshape(g.to(tl.float32), (RAYS, BM, BO)), axis=0)
        at = sum_ptr + o0 + grid_offsets(i, o, O, 1)
        tl.store(at, total.to(sum_ptr.dtype.element_ty), mask=(i < n)[:, None] & in_o[None, :])
    mask = in_g[:, None] & (j < R)[None, :]
    tl.store(u_ptr + grid_offsets(row, j, R, 1), u.to(u_ptr.dtype.element_ty), mask=mask)


def fits(grad: Tensor, rays: int, columns: int) -> bool:
    """Whether one program can hold a few rows of all rays, and programs are enough or their work is short."""
    if rays > MOST_RAYS or columns > MOST_COLUMNS[grad.element_size()]:
        return False
    n, O = grad.shape[0] // rays, grad.shape[1]
    full = n // _ROWS >= configs.target_of(grad.device).processors
    return full or _ROWS * rays * O * grad.element_size() <= _LONGEST


def run(grad: Tensor, into: Factor, rays: int) -> tuple[Tensor, Tensor]:
    """grad (M*n, O) -> the sum over rays (n, O), and U0 (M*n, R), both in the dtype of grad."""
    n, O = grad.shape[0] // rays, grad.shape[1]
    R = into.columns
    total, u = grad.new_empty(n, O), grad.new_empty(grad.shape[0], R)
    together = 1 << (rays - 1).bit_length()
    launch(
        linear_rays,
        triton.cdiv(n, _ROWS),
        num_warps=4 if together * grad.element_size() <= 16 else 8,
        num_stages=2,
        g_ptr=grad,
        into_ptr=into.tensor,
        sum_ptr=total,
        u_ptr=u,
        n=n,
        M=rays,
        O=O,
        R=R,
        r=max(into.rank, 1),
        **strides(grad, "g_row", "g_col"),
        **into.strides("into"),
        O_ALIGN=alignment(O),
        G_ALIGN=run_alignment(grad.stride(1), grad.stride(0)),
        INTO_ALIGN=run_alignment(into.column_stride, into.task_stride, into.rank_stride),
        RAYS=together,
        BM=_ROWS,
        BO=32 if grad.element_size() == 2 else 16,
        BR=padded(R),
        PRECISION=configs.precision(grad.dtype),
    )
    return total, u
