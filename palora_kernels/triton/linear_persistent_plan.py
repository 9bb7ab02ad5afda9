"""The plan ``persistent`` of `linear`: one product for the base and the adapters, read by TMA; else the library's.

    S  = X B^T        a product of R columns         U0 = G A
    L, Q; U           one launch, `linear_extend`
    Y  = X W^T + L Q^T, dX = G W + U B               one launch, `linear_persistent`
    dW = G^T X, dB = U^T X, [dA | db]^T = L^T G      the library's

What TMA cannot read, by its layout, goes the way of the plan ``library``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.eager.factors import Needs
from palora_kernels.eager.linear import Gradients
from palora_kernels.triton import configs, linear_extend, linear_persistent, linear_sums
from palora_kernels.triton.linear_persistent import describable

_MOST_BIASES = 64  # columns of ones, at most; a bias for each of more rays is the library's to add


def _serves(rows: Tensor, weight: Tensor | None, R: int, biases: int, shared: bool) -> bool:
    """Whether the kernel can read the layouts of this call; ``rows`` are those of X or of G."""
    if weight is None or shared or R == 0 or biases > _MOST_BIASES:
        return False
    if not configs.copies_tiles(configs.target_of(rows.device)):
        return False
    O, K = weight.shape
    return O % 8 == 0 and K % 8 == 0 and describable(rows, weight)


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, A: Tensor, B: Tensor, lam: Tensor, shared: bool
) -> tuple[Tensor, Tensor] | None:
    """Y (M*n, O) and S = X B^T (M*n, R), which the backward needs; None where the kernel does not serve the call."""
    R = B.shape[0] * B.shape[1]
    biases = 0 if bias is None else bias.shape[0] if bias.dim() == 2 else 1
    if weight is None or not _serves(x, weight, R, biases, shared):
        return None
    S = torch.mm(x, B.reshape(R, -1).t())
    left, right = linear_extend.run(S, lam, A, bias, biases)
    return linear_persistent.run(x, weight, left, right, along_k=True), S


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    A: Tensor,
    B: Tensor,
    lam: Tensor,
    S: Tensor,
    bias_dims: int,
    shared: bool,
    needs: Needs,
) -> Gradients | None:
    """As `linear.factored_backward`; None where the kernel does not serve the call."""
    T, O, r = A.shape
    R, rays = T * r, lam.shape[0]
    biases = (0, 1, rays)[bias_dims] if needs.bias else 0
    grad = grad if describable(grad) else grad.clone(memory_format=torch.contiguous_format)
    into = B.reshape(R, -1)
    if weight is None or not _serves(grad, weight, R, biases, shared) or not describable(into):
        return None
    dx = dweight = dbias = dA = dB = dlam = None
    left, right = linear_extend.run(S, lam, A, None, biases)
    if needs.x or needs.factors or needs.lam:
        U0 = torch.mm(grad, right[:, :R])
        if needs.x or needs.factors:
            U = linear_extend.rows(U0, lam)
        if needs.x:
            dx = linear_persistent.run(grad, weight, U, into, along_k=False)
        if needs.factors:
            dB = torch.mm(U[:, :R].t(), x).view(B.shape)
        if needs.lam:
            dlam = linear_sums.lam(S, U0, rays, T, shared=False)
    if needs.weight:
        dweight = torch.mm(grad.t(), x)
    if needs.factors or needs.bias:
        sums = torch.mm(left.t(), grad)
        dA = sums[:R].view(T, r, O).transpose(1, 2).contiguous() if needs.factors else None
        dbias = sums[R : R + biases].view((O,) if bias_dims == 1 else (rays, O)) if needs.bias else None
    return dx, dweight, dbias, None if dA is None or dB is None else [dA, dB], dlam
