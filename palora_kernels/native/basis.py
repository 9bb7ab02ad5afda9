"""The native ``basis`` plans, for an input that all rays share and deltas without structure (PaMaL, loralib's form).

W and every D_t meet the input once; one pass over memory combines the T+1 results into M rays. Backward combines the M
gradients into T+1 first, after which the number of rays is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from palora_kernels.call import Call, Gradients, Needs
from palora_kernels.eager import conv as eager_conv
from palora_kernels.eager import linear as eager_linear
from palora_kernels.native.conv_factored import CL, add_bias_, convolve, maps_of, pull, rows_of
from palora_kernels.reference import opmath_dtype


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
    def of(cls, call: Call) -> Basis:
        wide, total = opmath_dtype(call.x.dtype), None
        if call.weight is not None:
            total = _common_sum(call.lam)
            if total is None:
                return cls(call.weight, eager_linear.coefficients(call, wide).contiguous(), None)
        return cls(call.weight, call.lam.to(wide).contiguous(), total)

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


def _split(found: list[Tensor], basis: Basis, call: Call, needs: Needs) -> tuple[Tensor | None, list[Tensor] | None]:
    """(dW, gradients of the factors) from those of the elements."""
    if not found:
        return None, None
    stacked = torch.stack(found)
    dweight = basis.common(stacked).contiguous() if needs.weight and basis.weight is not None else None
    return dweight, call.factors.pull_deltas(basis.deltas(stacked)) if needs.factors else None


def linear_forward(call: Call) -> tuple[Tensor, None]:
    if not call.shared:
        return eager_linear.basis_forward(call)
    x, basis = call.x, Basis.of(call)
    elements = basis.elements(call.factors.deltas())
    z = x.new_empty(len(elements), x.shape[0], call.outputs)
    for e, element in enumerate(elements):
        torch.mm(x, element.t(), out=z[e])
    y = _combine(z, basis.c)
    return eager_linear.add_bias_(y.view(-1, call.outputs), call), None


def linear_backward(call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    if not call.shared:
        return eager_linear.basis_backward(call, grad, S, needs)
    x, basis, g = call.x, Basis.of(call), call.by_ray(grad)
    deltas = call.factors.deltas()
    gz = _combine(g, basis.c.t())
    want = needs.weight or needs.factors
    dx, found = _gather(
        gz,
        basis.elements(deltas),
        lambda ge, element: (ge @ element if needs.x else None, ge.t() @ x if want else None),
    )
    dweight, dfactors = _split(found, basis, call, needs)
    dlam: Tensor | None = None
    if needs.lam:  # <G_m, X D_t^T>, one delta's product at a time
        flat = g.reshape(call.rays, -1)
        dlam = torch.stack([(flat @ (x @ delta.t()).view(-1)).to(call.lam.dtype) for delta in deltas], dim=1)
    return Gradients(dx, dweight, None, dfactors, dlam)


def conv_forward(call: Call) -> tuple[Tensor, None]:
    if not call.shared or call.layout != CL:
        return eager_conv.basis_forward(call)
    basis = Basis.of(call)
    elements = basis.elements(call.factors.deltas())
    z = call.x.new_empty(len(elements), call.x.shape[0], *call.output_size, call.outputs)
    # The bias joins the common part, which every ray takes once.
    folded = basis.total is not None or call.weight is None
    common = None if folded else call.common_bias
    for e, element in enumerate(elements):
        convolve(call, call.dense(element), common if e == 0 else None, z[e].permute(0, 3, 1, 2))
    y = _combine(z, basis.c).flatten(0, 1).permute(0, 3, 1, 2)
    if call.bias is not None and common is None:
        add_bias_(y, call)
    return y, None


def conv_backward(call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    if not call.shared or call.layout != CL:
        return eager_conv.basis_backward(call, grad, S, needs)
    basis, g, deltas = Basis.of(call), rows_of(grad).view(call.rays, -1), call.factors.deltas()
    want = needs.weight or needs.factors

    def apply(flat: Tensor, element: Tensor) -> tuple[Tensor | None, Tensor | None]:
        maps = maps_of(flat.view(-1, grad.shape[1]), grad)
        dx, delement = pull(call, maps, call.dense(element), needs.x, want)
        return dx, delement if want else None

    dx, found = _gather(_combine(g, basis.c.t()), basis.elements(deltas), apply)
    dweight, dfactors = _split(found, basis, call, needs)
    dlam: Tensor | None = None
    if needs.lam:  # <G_m, Z_t>, with Z_t convolved again rather than kept since the forward
        columns = [rows_of(convolve(call, call.dense(d), None)).reshape(-1) for d in deltas]
        dlam = torch.stack([(g @ column).to(call.lam.dtype) for column in columns], dim=1)
    dbias = call.bias_gradient(grad) if needs.bias else None
    return Gradients(dx, dweight, dbias, dfactors, dlam)
