# mypy: allow-untyped-defs, allow-incomplete-defs
"""What the adapters and the bias add to a linear layer, as a few more columns of its product: [X | L] [W | Q]^T.

    L = [S o Lam | ones | 0]   rows x C        Q = [A | b | 0]   O x C

With one bias the ones are a column; with a bias per ray they are M columns, and a row has a one in that of its ray.
Zeros fill up to a multiple of eight columns, since a tensor descriptor needs rows that start at multiples of 16 bytes.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.triton.launching.launch import launch
from palora_kernels.triton.launching.operands import out_side, strides
from palora_kernels.triton.launching.tiles import factor_offsets, grid_offsets, lam_rows

_ROWS, _COLUMNS = 64, 16  # of a program


@triton.jit
def linear_extend(
    s_ptr,
    lam_ptr,
    left_ptr,
    a_ptr,
    bias_ptr,
    right_ptr,
    rows,
    O,
    R,
    r,
    n,
    C,
    biases,
    lam_ray,
    lam_task,
    a_task,
    a_rank,
    a_col,
    bias_ray,
    bias_col,
    BP: tl.constexpr,
    BC: tl.constexpr,
):
    """s (rows, R), lam (M, T) -> left (rows, C); a (T, O, r) and bias (biases, O) -> right (O, C), None if not needed.

    biases: columns of ones in left, 0, 1 or M; with M of them row p has a one in that of its ray, p // n.
    """
    column_tiles = tl.cdiv(C, BC)
    j = (tl.program_id(0) % column_tiles) * BC + tl.arange(0, BC)
    tile = tl.program_id(0) // column_tiles
    row_tiles = tl.cdiv(rows, BP)
    in_c = j < C
    if tile < row_tiles:
        row = tile * BP + tl.arange(0, BP)
        in_row = row < rows
        ray = row // n
        in_s = in_row[:, None] & (j < R)[None, :]
        left = tl.load(s_ptr + grid_offsets(row, j, R, 1), mask=in_s, other=0.0).to(tl.float32)
        left *= lam_rows(lam_ptr, ray, j, in_row, j < R, r, lam_ray, lam_task)
        which = ray * 0
        if biases > 1:
            which = ray
        one = (j - R)[None, :] == which[:, None]
        left = tl.where(one & (biases > 0), 1.0, left)
        left = left.to(left_ptr.dtype.element_ty)
        tl.store(left_ptr + grid_offsets(row, j, C, 1), left, mask=in_row[:, None] & in_c[None, :])
    else:
        if right_ptr is not None:
            o = (tile - row_tiles) * BP + tl.arange(0, BP)
            in_o = o < O
            a_offsets = o.to(tl.int64)[:, None] * a_col + factor_offsets(j, r, a_task, a_rank)[None, :]
            right = tl.load(a_ptr + a_offsets, mask=in_o[:, None] & (j < R)[None, :], other=0.0)
            if bias_ptr is not None:
                in_bias = in_o[:, None] & ((j >= R) & (j < R + biases))[None, :]
                right += tl.load(bias_ptr + grid_offsets(o, j - R, bias_col, bias_ray), mask=in_bias, other=0.0)
            tl.store(right_ptr + grid_offsets(o, j, C, 1), right, mask=in_o[:, None] & in_c[None, :])


def run(S: Tensor, lam: Tensor, A: Tensor, bias: Tensor | None, biases: int) -> tuple[Tensor, Tensor]:
    """L (P, C) for S (P, R), contiguous, and Q (O, C) for A (T, O, r); C is a multiple of eight.

    ``bias`` is (O,) or (M, O), ``biases`` how many: 1 or M. Without ``bias``, Q has zeros where it would be.
    """
    right = A.new_empty(A.shape[1], _columns(S, biases))
    return _run(S, lam, A, bias, biases, right), right


def rows(S: Tensor, lam: Tensor) -> Tensor:
    """S o Lam with zeros behind it, (P, C)."""
    return _run(S, lam, None, None, 0, None)


def _columns(S: Tensor, biases: int) -> int:
    return -(-(S.shape[1] + biases) // 8) * 8


def _run(S: Tensor, lam: Tensor, A: Tensor | None, bias: Tensor | None, biases: int, right: Tensor | None) -> Tensor:
    P, R = S.shape
    M, T = lam.shape
    C = _columns(S, biases)
    left = S.new_empty(P, C)
    O = 0 if A is None else A.shape[1]
    factor = {"a_task": 0, "a_rank": 0, "a_col": 0} if A is None else out_side(A).strides("a")
    launch(
        linear_extend,
        (triton.cdiv(P, _ROWS) + triton.cdiv(O, _ROWS)) * triton.cdiv(C, _COLUMNS),
        num_warps=4,
        num_stages=1,
        s_ptr=S,
        lam_ptr=lam,
        left_ptr=left,
        a_ptr=A,
        bias_ptr=bias,
        right_ptr=right,
        rows=P,
        O=O,
        R=R,
        r=max(R // T, 1),
        n=max(P // M, 1),
        C=C,
        biases=biases,
        **strides(lam, "lam_ray", "lam_task"),
        **factor,
        bias_ray=bias.stride(0) if bias is not None and bias.dim() == 2 else 0,
        bias_col=0 if bias is None else bias.stride(-1),
        BP=_ROWS,
        BC=_COLUMNS,
    )
    return left
