"""The plan ``persistent`` of linear layers: one product for the base and the adapters, read by TMA; else the library's.

    S  = X B^T        a product of R columns         U0 = G A
    L, Q; U           one launch, `linear_extend`
    Y  = X W^T + L Q^T, dX = G W + U B               one launch, `linear_persistent`
    dW = G^T X, dB = U^T X, [dA | db]^T = L^T G      the library's

What TMA cannot read, by its layout, goes the way of the plan ``library``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.call import Call, Gradients, Needs
from palora_kernels.eager.linear import in_side
from palora_kernels.triton.launching import configs
from palora_kernels.triton.linear import extend as linear_extend
from palora_kernels.triton.linear import library as linear_library
from palora_kernels.triton.linear import persistent as linear_persistent
from palora_kernels.triton.linear import sums as linear_sums
from palora_kernels.triton.linear.persistent import describable

_MOST_BIASES = 64  # columns of ones, at most; a bias for each of more rays is the library's to add


def _serves(call: Call, rows: Tensor, biases: int) -> bool:
    """Whether the kernel can read the layouts of this call; ``rows`` are those of X or of G."""
    weight = call.weight
    if weight is None or call.shared or call.low_rank.columns == 0 or biases > _MOST_BIASES:
        return False
    if not configs.copies_tiles(configs.target_of(rows.device)):
        return False
    O, K = weight.shape
    return O % 8 == 0 and K % 8 == 0 and describable(rows, weight)


def forward(call: Call) -> tuple[Tensor, Tensor]:
    """S is X B^T (M*n, R)."""
    x, weight, bias = call.x, call.weight, call.bias
    biases = 0 if bias is None else bias.shape[0] if bias.dim() == 2 else 1
    if weight is None or not _serves(call, x, biases):
        return linear_library.forward(call)
    S = torch.mm(x, in_side(call).t())
    left, right = linear_extend.run(S, call.lam, call.low_rank.given[0], bias, biases)
    return linear_persistent.run(x, weight, left, right, along_k=True), S


def backward(call: Call, grad: Tensor, S: Tensor, needs: Needs) -> Gradients:
    x, weight, lam, rays = call.x, call.weight, call.lam, call.rays
    A, B = call.low_rank.given
    T, O, r = A.shape
    R, biases = T * r, (0, 1, rays)[call.bias_dims] if needs.bias else 0
    rows = grad if describable(grad) else grad.clone(memory_format=torch.contiguous_format)
    into = in_side(call)
    if weight is None or not _serves(call, rows, biases) or not describable(into):
        return linear_library.backward(call, grad, S, needs)
    dx = dweight = dbias = dA = dB = dlam = None
    left, right = linear_extend.run(S, lam, A, None, biases)
    if needs.x or needs.factors or needs.lam:
        U0 = torch.mm(rows, right[:, :R])
        if needs.x or needs.factors:
            U = linear_extend.rows(U0, lam)
        if needs.x:
            dx = linear_persistent.run(rows, weight, U, into, along_k=False)
        if needs.factors:
            dB = torch.mm(U[:, :R].t(), x).view(B.shape)
        if needs.lam:
            dlam = linear_sums.lam(S, U0, rays, T, shared=False)
    if needs.weight:
        dweight = torch.mm(rows.t(), x)
    if needs.factors or needs.bias:
        sums = torch.mm(left.t(), rows)
        dA = sums[:R].view(T, r, O).transpose(1, 2).contiguous() if needs.factors else None
        dbias = sums[R : R + biases].view((O,) if call.bias_dims == 1 else (rays, O)) if needs.bias else None
    return Gradients(dx, dweight, dbias, None if dA is None or dB is None else [dA, dB], dlam)
