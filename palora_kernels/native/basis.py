"""The native ``basis`` plans, for an input that all rays share and deltas without structure (PaMaL, loralib's form).

W and every D_t meet the input once; one pass over memory combines the T+1 results into M rays. Backward combines the M
gradients into T+1 first, after which the number of rays is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from palora_kernels.eager import conv as eager_conv
from palora_kernels.eager import linear as eager_linear
from palora_kernels.eager.conv import Geometry
from palora_kernels.eager.factors import Dense, Factors, Needs
from palora_kernels.eager.linear import Gradients, _coefficients
from palora_kernels.native.appended import convolve, maps_of, pull, rows_of
from palora_kernels.reference import opmath_dtype

CL = torch.channels_last


@dataclass(frozen=True)
class Basis:
    """The E weights whose combinations ``c`` (M, E) are the rays' weights: W and D_1 ... D_T, or T of them.

    Where every ray's coefficients add up to the same s, as those of preferences do, W + sum_t lam_t D_t is
    sum_t lam_t (W / s + D_t): T products instead of T+1.
    """

    weight: Tensor | None
    c: Tensor
    total: float | None  # s, where W has been folded into the deltas

    @classmethod
    def of(cls, weight: Tensor | None, lam: Tensor, dtype: torch.dtype) -> Basis:
        if weight is None:
            return cls(None, lam.to(opmath_dtype(dtype)).contiguous(), None)
        total = _common_sum(lam)
        if total is not None:
            return cls(weight, lam.to(opmath_dtype(dtype)).contiguous(), total)
        return cls(weight, _coefficients(weight, lam, opmath_dtype(dtype)).contiguous(), None)

    def elements(self, deltas: Tensor) -> list[Tensor]:
        if self.weight is None:
            return [*deltas]
        return [self.weight, *deltas] if self.total is None else [*torch.add(deltas, self.weight, alpha=1 / self.total)]

    def common(self, gradients: Tensor) -> Tensor:
        """From the gradients of the elements (E, ...), that of W."""
        return gradients[0] if self.total is None else gradients.sum(0) / self.total

    def deltas(self, gradients: Tensor) -> Tensor:
        """From the gradients of the elements (E, ...), those of the deltas (T, ...)."""
        return gradients if self.weight is None or self.total is not None else gradients[1:]


def _common_sum(lam: Tensor) -> float | None:
    """The sum that all rows of lam (M, T) have, to rounding; None where they differ or W / sum would lose digits."""
    sums = lam.sum(1)
    low, high, largest = torch.stack([sums.amin(), sums.amax(), lam.abs().amax()]).tolist()
    total = (low + high) / 2
    same = high - low <= 4 * torch.finfo(lam.dtype).eps * abs(total)
    return total if same and total > 0 and largest <= 1.5 * total else None


def _combine(z: Tensor, c: Tensor) -> Tensor:
    """z (B, ...) and c (A, B) -> (A, ...): one pass over memory."""
    mixed: Tensor = torch.ops.palora_native.combine_rows.default(z.view(z.shape[0], -1), c.contiguous())
    return mixed.view(c.shape[0], *z.shape[1:])


def _gather(
    rows: Tensor,
    elements: list[Tensor],
    apply: Callable[[Tensor, Tensor], tuple[Tensor | None, Tensor | None]],
) -> tuple[Tensor | None, list[Tensor]]:
    """Sum of the input gradients and the list of the elements' gradients; ``rows`` holds one gradient an element."""
    dx: Tensor | None = None
    found: list[Tensor] = []
    for grad, element in zip(rows, elements, strict=True):
        part, delement = apply(grad, element)
        if part is not None:
            dx = part if dx is None else dx.add_(part)
        if delement is not None:
            found.append(delement)
    return dx, found


def _split(
    found: list[Tensor], basis: Basis, factors: Factors, needs: Needs
) -> tuple[Tensor | None, list[Tensor] | None]:
    """(dW, gradients of the factors) from those of the elements."""
    if not found:
        return None, None
    stacked = torch.stack(found)
    dweight = basis.common(stacked).contiguous() if needs.weight and basis.weight is not None else None
    if not needs.factors:
        return dweight, None
    into = factors.new_gradients()
    factors.pull_deltas(basis.deltas(stacked), into)
    return dweight, factors.finish(into)


def linear_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, D: Tensor, lam: Tensor, shared: bool
) -> Tensor:
    if not shared:
        return eager_linear.basis_forward(x, weight, bias, Dense(D), lam, shared)
    basis = Basis.of(weight, lam, x.dtype)
    elements = basis.elements(D)
    z = x.new_empty(len(elements), x.shape[0], D.shape[1])
    for e, element in enumerate(elements):
        torch.mm(x, element.t(), out=z[e])
    y = _combine(z, basis.c)
    return eager_linear.add_bias_(y.view(-1, D.shape[1]), bias, lam.shape[0])


def linear_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    D: Tensor,
    lam: Tensor,
    bias_dims: int,
    shared: bool,
    needs: Needs,
) -> Gradients:
    if not shared:
        return eager_linear.basis_backward(grad, x, weight, Dense(D), lam, bias_dims, shared, needs)
    grad, rays, factors = grad.contiguous(), lam.shape[0], Dense(D)
    basis, g = Basis.of(weight, lam, x.dtype), grad.view(rays, -1, grad.shape[1])
    gz = _combine(g, basis.c.t())
    want = needs.weight or needs.factors
    dx, found = _gather(
        gz,
        basis.elements(D),
        lambda ge, element: (ge @ element if needs.x else None, ge.t() @ x if want else None),
    )
    dweight, dfactors = _split(found, basis, factors, needs)
    dlam: Tensor | None = None
    if needs.lam:  # <G_m, X D_t^T>, one delta's product at a time
        flat = g.reshape(rays, -1)
        dlam = torch.stack([(flat @ (x @ delta.t()).view(-1)).to(lam.dtype) for delta in D], dim=1)
    dbias = eager_linear.bias_gradient(grad, rays, bias_dims) if needs.bias else None
    return dx, dweight, dbias, dfactors, dlam


def conv_forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    factors: Factors,
    lam: Tensor,
    shared: bool,
    conv: Geometry,
    layout: torch.memory_format,
) -> Tensor:
    if not shared or layout != CL:
        return eager_conv.basis_forward(x, weight, bias, factors, lam, shared, conv, layout)
    rays, x = lam.shape[0], x.contiguous(memory_format=CL)
    basis = Basis.of(weight, lam, x.dtype)
    elements = basis.elements(factors.deltas())
    size = conv.output_size(x, factors.shape[2:])  # type: ignore[arg-type]
    z = x.new_empty(len(elements), x.shape[0], *size, factors.shape[0])
    # The bias joins the common part, which every ray takes once.
    folded = basis.total is not None or weight is None
    common = bias if bias is not None and bias.dim() == 1 and not folded else None
    for e, element in enumerate(elements):
        out = z[e].permute(0, 3, 1, 2)
        convolve(x, element.contiguous(memory_format=CL), common if e == 0 else None, conv, out)
    y = _combine(z, basis.c).flatten(0, 1).permute(0, 3, 1, 2)
    if bias is not None and common is None:
        per_ray = bias.expand(rays, -1) if bias.dim() == 1 else bias
        eager_conv._by_ray(y, rays).add_(per_ray[:, None, :, None, None])
    return y


def conv_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    factors: Factors,
    lam: Tensor,
    bias_dims: int,
    shared: bool,
    needs: Needs,
    conv: Geometry,
    layout: torch.memory_format,
) -> Gradients:
    if not shared or layout != CL:
        return eager_conv.basis_backward(grad, x, weight, factors, lam, bias_dims, shared, needs, conv, layout)
    rays = lam.shape[0]
    x, grad = x.contiguous(memory_format=CL), grad.contiguous(memory_format=CL)
    basis, g = Basis.of(weight, lam, x.dtype), rows_of(grad).view(rays, -1)
    gz = _combine(g, basis.c.t())
    deltas = factors.deltas()

    def apply(flat: Tensor, element: Tensor) -> tuple[Tensor | None, Tensor | None]:
        maps = maps_of(flat.view(-1, grad.shape[1]), grad)
        want = needs.weight or needs.factors
        dx, delement = pull(maps, x, element.contiguous(memory_format=CL), conv, needs.x, want)
        return dx, delement if want else None

    dx, found = _gather(gz, basis.elements(deltas), apply)
    dweight, dfactors = _split(found, basis, factors, needs)
    dlam: Tensor | None = None
    if needs.lam:  # <G_m, Z_t>, with Z_t convolved again rather than kept since the forward
        columns = [rows_of(convolve(x, d.contiguous(memory_format=CL), None, conv)).reshape(-1) for d in deltas]
        dlam = torch.stack([(g @ column).to(lam.dtype) for column in columns], dim=1)
    dbias = eager_conv._bias_gradient(grad, rays, bias_dims) if needs.bias else None
    return dx, dweight, dbias, dfactors, dlam


DENSE: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    **eager_linear.DENSE,
    "basis": (linear_forward, linear_backward),
}
