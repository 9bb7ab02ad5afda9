"""The Triton plans of linear layers: which kernels run, on what, for which gradients.

``factored`` keeps A and B apart and forms S = X B^T beside the base product, in one launch; where R is too large for
that it is ``split``: S first, in a launch of its own. ``splitk`` cuts the reduction into pieces, for few rows.
``library`` leaves the base products to cuBLAS, which adds them to the adapters' part. ``persistent`` makes the adapters
columns of the base product, which TMA copies feed. ``merged`` forms the M weights in one launch and multiplies with
cuBLAS. ``basis`` computes the products with W and every D_t and combines them; with a shared input once for all rays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from palora_kernels.call import Call, Gradients, Needs
from palora_kernels.triton.launching.operands import Adapters
from palora_kernels.triton.linear import dense as linear_dense
from palora_kernels.triton.linear import library as linear_library
from palora_kernels.triton.linear import persistent_plan as linear_persistent_plan
from palora_kernels.triton.linear import product as linear_product
from palora_kernels.triton.linear import project as linear_project
from palora_kernels.triton.linear import rays as linear_rays
from palora_kernels.triton.linear import splitk_plan as linear_few
from palora_kernels.triton.linear import sums as linear_sums


def factored_forward(call: Call, fused: bool = True) -> tuple[Tensor, Tensor]:
    """S is X B^T (P, R). ``fused`` off is the plan ``split``."""
    x, adapters = call.x, Adapters.of(call)
    y, R = x.new_empty(call.samples, call.outputs), adapters.into.columns
    fused = fused and linear_product.widest(x.dtype) >= R
    S = x.new_empty(x.shape[0], R) if fused else linear_project.run(x, adapters.into)
    s_from = "x" if fused else "memory"
    linear_product.run(x, call.weight, call.bias, adapters, S, y, s_from=s_from, shared=call.shared)
    return y, S


def factored_backward(call: Call, grad: Tensor, S: Tensor, needs: Needs, fused: bool = True) -> Gradients:
    adapters, x, shared, rays = Adapters.back(call), call.x, call.sums_rays, call.rays
    R = adapters.into.columns
    needs_u = needs.factors or needs.lam
    transposed = None if call.weight is None else call.weight.t()
    common, dx, U0 = grad, None, None
    if shared and (needs.x or needs.weight):  # the gradient summed over rays
        if (needs.x or needs_u) and linear_rays.fits(grad, rays, R):
            common, U0 = linear_rays.run(grad, adapters.into, rays)
        else:
            common = linear_sums.over_rays(grad, call.lam, common=True, tasks=0)[0]
    if needs.x and fused and not shared and linear_product.widest(x.dtype) >= R:
        dx = x.new_empty(x.shape)
        U0 = grad.new_empty(grad.shape[0], R) if needs_u else None
        linear_product.run(grad, transposed, None, adapters, U0, dx, s_from="x")
    elif needs.x or needs_u:
        U0 = linear_project.run(grad, adapters.into) if U0 is None else U0
        if needs.x:
            dx = x.new_empty(x.shape)
            linear_product.run(common, transposed, None, adapters, U0, dx, s_from="rays" if shared else "memory")
    return linear_library.parameters(call, grad, common, S, U0, needs, weight=False)._replace(x=dx)


Plan = tuple[Callable[..., Any], Callable[..., Any]]
PLANS: dict[str, Plan] = {
    "factored": (factored_forward, factored_backward),
    "split": (partial(factored_forward, fused=False), partial(factored_backward, fused=False)),
    "splitk": (linear_few.forward, linear_few.backward),
    "library": (linear_library.forward, linear_library.backward),
    "persistent": (linear_persistent_plan.forward, linear_persistent_plan.backward),
    "merged": (linear_dense.merged_forward, linear_dense.merged_backward),
    "basis": (linear_dense.basis_forward, linear_dense.basis_backward),
}
