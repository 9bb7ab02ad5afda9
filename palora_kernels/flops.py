"""How many floating-point operations an op takes, for torch.utils.flop_counter and what estimates with it.

Counted is what the definition asks, whichever plan serves the call: M rays of n rows each cost as much as M merged
layers on n rows, and the adapters' own products come on top. A multiply-add is two operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from palora_kernels.eager.factors import Needs

Shape = Sequence[int]


def _rows(x: Shape, lam: Shape, shared: bool) -> int:
    """Products with a weight in one output channel: rows of all rays, token axes or none."""
    return x[0] * (lam[0] if shared else 1)


def _low_rank_forward(rows: int, K: int, O: int, R: int) -> int:
    return 2 * rows * (K * O + R * (K + O))


def _low_rank_backward(rows: int, K: int, O: int, R: int, needs: Needs) -> int:
    """dX = G W + (G A) B; dW = G^T X; dA = G^T S and dB = (G A)^T X; dlam from S and G A."""
    total = 2 * rows * K * O * (needs.x + needs.weight)
    if needs.x or needs.factors or needs.lam:
        total += 2 * rows * O * R
    total += 2 * rows * K * R * (needs.x + needs.factors)
    return total + 2 * rows * R * (O * needs.factors + needs.lam)


def _dense_forward(rows: int, K: int, O: int, rays: int, tasks: int) -> int:
    return 2 * K * O * (rows + rays * tasks)


def _dense_backward(rows: int, K: int, O: int, rays: int, tasks: int, needs: Needs) -> int:
    """dX = G W_lambda; one dW_lambda a ray for everything that depends on it."""
    weights = needs.weight or needs.factors or needs.lam
    return 2 * K * O * (rows * (needs.x + weights) + rays * tasks * (needs.factors + needs.lam))


def _linear(x: Shape, weight: Any, bias: Any, A: Shape, B: Shape, lam: Shape, shared: bool, *_: Any, **__: Any) -> int:
    return _low_rank_forward(_rows(x, lam, shared), B[2], A[1], A[0] * A[2])


def _linear_backward(
    grad: Shape, x: Shape, weight: Any, A: Shape, B: Shape, lam: Shape, S: Any, dims: int, needs: list[bool],
    *_: Any, **__: Any,
) -> int:  # fmt: skip
    return _low_rank_backward(grad[0], B[2], A[1], A[0] * A[2], Needs(*needs))


def _linear_delta(x: Shape, weight: Any, bias: Any, D: Shape, lam: Shape, shared: bool, *_: Any, **__: Any) -> int:
    return _dense_forward(_rows(x, lam, shared), D[2], D[1], lam[0], D[0])


def _linear_delta_backward(
    grad: Shape, x: Shape, weight: Any, D: Shape, lam: Shape, dims: int, needs: list[bool], *_: Any, **__: Any
) -> int:
    return _dense_backward(grad[0], D[2], D[1], lam[0], D[0], Needs(*needs))


def _positions(y: Shape) -> int:
    return y[0] * math.prod(y[2:])


def _conv2d(
    x: Shape, weight: Any, bias: Any, A: Shape, B: Shape, lam: Shape, shape: Shape, *_: Any, out_shape: Any, **__: Any
) -> int:
    return _low_rank_forward(_positions(out_shape), math.prod(shape[1:]), shape[0], A[0] * A[2])


def _conv2d_backward(
    grad: Shape, x: Shape, weight: Any, A: Shape, B: Shape, lam: Shape, shape: Shape, *call: Any, **__: Any
) -> int:
    *_, needs, _shared, _plan = call
    return _low_rank_backward(_positions(grad), math.prod(shape[1:]), shape[0], A[0] * A[2], Needs(*needs))


def _conv2d_delta(x: Shape, weight: Any, bias: Any, D: Shape, lam: Shape, *_: Any, out_shape: Any, **__: Any) -> int:
    return _dense_forward(_positions(out_shape), math.prod(D[2:]), D[1], lam[0], D[0])


def _conv2d_delta_backward(grad: Shape, x: Shape, weight: Any, D: Shape, lam: Shape, *call: Any, **__: Any) -> int:
    *_, needs, _shared, _plan = call
    return _dense_backward(_positions(grad), math.prod(D[2:]), D[1], lam[0], D[0], Needs(*needs))


FORMULAS: dict[str, Callable[..., int]] = {
    "linear": _linear,
    "linear_backward": _linear_backward,
    "linear_delta": _linear_delta,
    "linear_delta_backward": _linear_delta_backward,
    "conv2d": _conv2d,
    "conv2d_backward": _conv2d_backward,
    "conv2d_delta": _conv2d_delta,
    "conv2d_delta_backward": _conv2d_delta_backward,
}
