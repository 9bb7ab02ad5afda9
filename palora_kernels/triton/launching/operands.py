"""How tensors of any strides are handed to the kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from palora_kernels.call import Call


@dataclass(frozen=True)
class Factor:
    """A factor as the kernels see it: R = T*r concatenated columns j = t*r + i, each a vector over ``column``."""

    tensor: Tensor
    tasks: int
    rank: int
    task_stride: int
    rank_stride: int
    column_stride: int

    @property
    def columns(self) -> int:
        return self.tasks * self.rank

    def strides(self, prefix: str) -> dict[str, int]:
        return {
            f"{prefix}_task": self.task_stride,
            f"{prefix}_rank": self.rank_stride,
            f"{prefix}_col": self.column_stride,
        }


def in_side(B: Tensor) -> Factor:
    """B (T, r, K)."""
    return Factor(B, B.shape[0], B.shape[1], *B.stride())


def out_side(A: Tensor) -> Factor:
    """A (T, O, r)."""
    return Factor(A, A.shape[0], A.shape[2], A.stride(0), A.stride(2), A.stride(1))


@dataclass(frozen=True)
class Adapters:
    """The way from rows to rows through the factors: S = rows into, then (S o Lam) out; ``n`` rows a ray."""

    into: Factor
    out: Factor
    lam: Tensor
    n: int

    @staticmethod
    def of(call: Call) -> Adapters:
        """From X to Y."""
        A, B = call.low_rank.given
        return Adapters(in_side(B), out_side(A), call.lam, call.n)

    @staticmethod
    def back(call: Call) -> Adapters:
        """From G to dX: the roles are swapped, G is projected by A, and B leads back."""
        A, B = call.low_rank.given
        return Adapters(out_side(A), in_side(B), call.lam, call.n)


def padded(columns: int) -> int:
    """The width of a tile for this many columns: a power of two of at least 16, the least a product takes."""
    return max(16, 1 << max(columns - 1, 0).bit_length())


def alignment(*sizes: int) -> int:
    """The largest power of two, at most 16, that divides all sizes: what the compiler is told in `tiles`."""
    return math.gcd(16, *sizes)


def run_alignment(stride: int, *others: int) -> int:
    """Where runs along a dimension of this stride start, by the strides of the other dimensions; 1 without runs."""
    return alignment(*others) if stride == 1 else 1


def scattered(*tensors: Tensor | None) -> bool:
    """Whether one of these has no aligned runs in its last two dimensions, so that it is loaded number by number."""
    for t in tensors:
        if t is None:
            continue
        row, column = t.stride()[-2:]
        if run_alignment(column, row) == 1 and run_alignment(row, column) == 1:
            return True
    return False


def strides(tensor: Tensor | None, row: str, column: str) -> dict[str, int]:
    """The strides of a matrix under the names of a kernel's arguments; zeros for one that is not there."""
    return {row: 0, column: 0} if tensor is None else {row: tensor.stride(0), column: tensor.stride(1)}
