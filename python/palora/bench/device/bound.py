"""The least that one call has to move and to multiply: what its times are compared with.

The same counting as palora_kernels.verify.roofline, there from the shapes of layers, here from tensors: three stages
(forward; gradient of the input; gradients of the parameters), each of which reads its inputs and writes its results
once and does the products that the algebra asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Bound:
    """Bytes between memory and chip; flops, two for a multiply-add."""

    bytes: float = 0.0
    flops: float = 0.0

    def __add__(self, other: Bound) -> Bound:
        return Bound(self.bytes + other.bytes, self.flops + other.flops)


def stages(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    factors: Sequence[Tensor],
    lam: Tensor,
    shared: bool,
    input_gradient: bool = True,
) -> dict[str, Bound]:
    """Of a linear layer or a convolution: ``x`` its input, ``y`` its output, ``factors`` A and B, or D alone."""
    O, K, (M, T) = y.shape[1], weight[0].numel(), lam.shape
    positions = y.numel() // O  # of all rays
    rows = positions // M if shared else positions
    given = _bytes(*factors, lam)
    fixed = _bytes(weight) + given
    b = 0.0 if bias is None else _bytes(bias)
    if weight.dim() == 2 and len(factors) == 2:  # S = x B^T and U = G A^T are kept
        R = T * factors[0].shape[2]
        narrow = 2.0 * rows * R * K + 2.0 * positions * R * O
        product = 2.0 * rows * K * O + narrow
        S, U = (float(count * R * x.element_size()) for count in (rows, positions))
    else:
        S = U = 0.0
        product = 2.0 * (min(M, T + 1) * rows if shared else positions) * K * O
    forward = Bound(_bytes(x, y) + S + b + fixed, product)
    backward = Bound(_bytes(y, x) + S + U + b + fixed + given, product)
    if weight.dim() == 2 and len(factors) == 2:
        backward = Bound(_bytes(y, x, weight, lam) + S + U + b + given, product)
    if input_gradient:
        backward += Bound(_bytes(y, x) + U + fixed, product)
    return {"forward": forward, "backward": backward, "forward + backward": forward + backward}


def _bytes(*tensors: Tensor) -> float:
    return float(sum(t.numel() * t.element_size() for t in tensors))
