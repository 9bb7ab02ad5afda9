"""One call of an op, as every plan gets it, and the gradients that a plan returns.

A plan is two functions: ``forward(call) -> (Y, S)`` and ``backward(call, grad, S, needs) -> Gradients``. S is what the
forward keeps for the backward beside the call itself, or None. In the backward ``call.bias`` is None: its number of
dimensions is all that its gradient depends on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from palora_kernels.factors import Dense, Factors, LowRank


@dataclass(frozen=True)
class Needs:
    """Which gradients a backward has to produce."""

    x: bool
    weight: bool
    bias: bool
    factors: bool
    lam: bool

    @property
    def weights(self) -> bool:
        """Whether something is needed that depends on the gradients of the rays' merged weights."""
        return self.weight or self.factors or self.lam


class Gradients(NamedTuple):
    """Of each argument, None where it was not needed; ``factors`` in the order of `Factors.given`."""

    x: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    factors: list[Tensor] | None = None
    lam: Tensor | None = None


@dataclass(frozen=True)
class Geometry:
    """The arguments of a convolution that are not tensors."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.ops.aten.convolution.default(
            x, weight, bias, self.stride, self.padding, self.dilation, False, [0, 0], self.groups
        )

    def backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, need_x: bool, need_weight: bool, need_bias: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        geometry = (self.stride, self.padding, self.dilation, False, [0, 0], self.groups)
        dx, dweight, dbias = torch.ops.aten.convolution_backward.default(
            grad, x, weight, [weight.shape[0]], *geometry, [need_x, need_weight, need_bias]
        )
        return dx, dweight, dbias

    def output_size(self, x: Tensor, kernel: tuple[int, ...]) -> list[int]:
        """(Ho, Wo) of x (P, C, H, W) under a kernel of these last two sides."""
        return [
            (x.shape[2 + i] + 2 * self.padding[i] - self.dilation[i] * (kernel[i - 2] - 1) - 1) // self.stride[i] + 1
            for i in (0, 1)
        ]


POINT = Geometry([1, 1], [0, 0], [1, 1], 1)  # a product of every pixel's channels


def memory_format(x: Tensor, weight: Tensor) -> torch.memory_format:
    """The layout of the result: torch's rule for convolutions, except that a single-channel image on a CPU, which is
    both NCHW and NHWC, counts as NHWC: pooling and convolution are faster in it there."""
    if x.shape[1] == 1 and x.device.type == "cpu":
        return torch.channels_last
    for t in (x, weight):
        if t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous():
            return torch.channels_last
    return torch.contiguous_format


@dataclass(frozen=True, eq=False)
class Call:
    """``y_m = layer(x_m, W + sum_t lam[m, t] D_t) + b``: the arguments of one op, checked and of one dtype.

    x: (P, K), or (P, C, H, W) for a convolution; P = M*n ray-major, or n where it is ``shared`` by all rays.
    weight: (O, K) or (O, C/groups, kh, kw), or None. bias: (O,), (M, O) or None. lam: (M, T).
    factors: D_t, of the weight's shape. bias_dims: those of the bias, 0 without one.
    conv: None for a linear layer; layout: that of a convolution's result.
    """

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    factors: Factors
    lam: Tensor
    shared: bool
    bias_dims: int
    conv: Geometry | None = None
    layout: torch.memory_format = torch.contiguous_format

    @property
    def rays(self) -> int:
        """M."""
        return self.lam.shape[0]

    @property
    def samples(self) -> int:
        """M*n, the rows of the result."""
        return self.x.shape[0] * self.lam.shape[0] if self.shared else self.x.shape[0]

    @property
    def n(self) -> int:
        """Rows of one ray."""
        return self.x.shape[0] if self.shared else self.x.shape[0] // self.lam.shape[0]

    @property
    def outputs(self) -> int:
        """O."""
        return self.factors.shape[0]

    @property
    def sums_rays(self) -> bool:
        """Whether the gradient of x is a sum over rays."""
        return self.shared and self.lam.shape[0] > 1

    @property
    def low_rank(self) -> LowRank:
        assert isinstance(self.factors, LowRank)
        return self.factors

    @property
    def D(self) -> Tensor:
        """(T, *weight.shape), the deltas where they are dense."""
        assert isinstance(self.factors, Dense)
        return self.factors.given[0]

    @property
    def geometry(self) -> Geometry:
        assert self.conv is not None
        return self.conv

    @property
    def output_size(self) -> list[int]:
        """(Ho, Wo)."""
        return self.geometry.output_size(self.x, self.factors.shape)

    def rows(self, t: Tensor, m: int) -> Tensor:
        """Those of ray m in t, which holds rows of every ray, (M*n, ...)."""
        n = t.shape[0] // self.lam.shape[0]
        return t[m * n : (m + 1) * n]

    def inputs(self, x: Tensor, m: int) -> Tensor:
        """The rows of x, or of a tensor made from it row by row, that ray m sees."""
        return x if self.shared else self.rows(x, m)

    def by_ray(self, t: Tensor) -> Tensor:
        """(M*n, ...) -> (M, n, ...), also for n = 0; a view."""
        return t.unflatten(0, (self.lam.shape[0], t.shape[0] // self.lam.shape[0]))

    def bias_of(self, m: int) -> Tensor | None:
        """(O,), that of ray m."""
        return self.bias if self.bias is None or self.bias.dim() == 1 else self.bias[m]

    @property
    def common_bias(self) -> Tensor | None:
        """The bias, if all rays have one together."""
        return self.bias if self.bias is not None and self.bias.dim() == 1 else None

    def dense(self, t: Tensor) -> Tensor:
        """A map in the layout of the result; rows of a linear layer, contiguous."""
        return t.contiguous(memory_format=self.layout)

    def empty(self, size: list[int]) -> Tensor:
        return torch.empty(size, dtype=self.x.dtype, device=self.x.device, memory_format=self.layout)

    def bias_gradient(self, grad: Tensor) -> Tensor:
        """grad (M*n, O, ...) -> (O,), or (M, O) for a bias per ray: sums over rows and positions."""
        if self.bias_dims == 1:
            return grad.sum(0 if self.conv is None else (0, 2, 3))
        return self.by_ray(grad).sum(1 if self.conv is None else (1, 3, 4))
