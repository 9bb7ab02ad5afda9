"""How many floating-point operations an op takes, for torch.utils.flop_counter and what estimates with it.

Counted is what the definition asks, whichever plan serves the call: M rays of n rows each cost as much as M merged
layers on n rows, and the adapters' own products come on top. A multiply-add is two operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from palora_kernels.call import Needs

Shape = Sequence[int]


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


def _dense_backward(rows: int, K: int, O: int, merges: int, needs: Needs) -> int:
    """dX = G W_lambda; one dW_lambda a ray for everything that depends on it; ``merges``: M*T."""
    weights = needs.weight or needs.factors or needs.lam
    return 2 * K * O * (rows * (needs.x + weights) + merges * (needs.factors + needs.lam))


def _forward(rows: int, A: Shape, B: Shape | None, lam: Shape, weight: Shape) -> int:
    """``weight``: (O, ...), the shape of one ray's."""
    O, K = weight[0], math.prod(weight[1:])
    return _dense_forward(rows, K, O, lam[0], lam[1]) if B is None else _low_rank_forward(rows, K, O, A[0] * A[2])


def _backward(rows: int, A: Shape, B: Shape | None, lam: Shape, weight: Shape, needs: Needs) -> int:
    O, K = weight[0], math.prod(weight[1:])
    if B is None:
        return _dense_backward(rows, K, O, lam[0] * lam[1], needs)
    return _low_rank_backward(rows, K, O, A[0] * A[2], needs)


def _of_linear(A: Shape, B: Shape | None) -> Shape:
    return A[1:] if B is None else (A[1], B[2])


def _linear(x: Shape, weight: Any, bias: Any, A: Shape, B: Shape | None, lam: Shape, *call: Any, **_: Any) -> int:
    shared, _plan = call
    return _forward(x[0] * (lam[0] if shared else 1), A, B, lam, _of_linear(A, B))


def _linear_backward(grad: Shape, x: Shape, weight: Any, *call: Any, **_: Any) -> int:
    A, B, lam, _S, _dims, needs, _shared, _plan = call
    return _backward(grad[0], A, B, lam, _of_linear(A, B), Needs(*needs))


def _positions(y: Shape) -> int:
    return y[0] * math.prod(y[2:])


def _conv2d(x: Shape, weight: Any, bias: Any, *call: Any, out_shape: Any, **_: Any) -> int:
    A, B, lam, shape, *_geometry = call
    return _forward(_positions(out_shape[0]), A, B, lam, shape)


def _conv2d_backward(grad: Shape, x: Shape, weight: Any, *call: Any, **_: Any) -> int:
    A, B, lam, _S, shape, *_geometry, needs, _shared, _plan = call
    return _backward(_positions(grad), A, B, lam, shape, Needs(*needs))


FORMULAS: dict[str, Callable[..., int]] = {
    "linear": _linear,
    "linear_backward": _linear_backward,
    "conv2d": _conv2d,
    "conv2d_backward": _conv2d_backward,
}
