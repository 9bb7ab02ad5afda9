"""Nash-MTL: the update all tasks would agree on as bargainers (Navon et al., 2022, Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from palora.methods.aggregated import Aggregated
from palora.methods.base import Options, option
from palora_kernels.typed import Range


@dataclass(frozen=True)
class NashOptions(Options):
    """The papers use 20 iterations and a norm of 1."""

    niter: Annotated[int, Range(1, 10_000)] = option(20, "Most iterations of the solver in a step.")
    max_norm: Annotated[float, Range(0, 1e9)] = option(1.0, "Largest norm of the shared gradient; 0: no limit.")


class NashMTL(Aggregated):
    """α > 0 with G α = 1/α, where G is the Gramian divided by its Frobenius norm (as in the authors' code).

    α weights the whole losses, heads included; the shared gradient is then cut to `max_norm`. The equation is
    where ½ αᵀGα − Σ_t log α_t is smallest, a convex problem of T variables that :func:`bargain` solves by
    Newton's method. TorchJD's `NashMTL` finds the same direction by a series of convex programs: hundreds of
    times the work, a warning of CVXPY, and a solver (ECOS) that is no longer built for new Python versions.
    """

    name = "nash"
    summary = "Nash-MTL: the bargaining solution of the tasks' gradients, one point"
    Options = NashOptions

    def weigh(self, gramian: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
        size = gramian.norm()
        if size == 0:
            return torch.ones(self.tasks), torch.ones(self.tasks)
        weights = bargain(gramian / size, self.options.niter)
        limit, norm = self.options.max_norm, (weights @ gramian @ weights).clamp(min=0).sqrt()
        cut = limit / norm if limit > 0 and norm > limit else 1.0
        return cut * weights, weights


def bargain(gramian: Tensor, niter: int, tolerance: float = 1e-10) -> Tensor:
    """The α > 0 (T,) with G α = 1/α for a positive semi-definite `gramian` (T, T): damped Newton, `niter` steps.

    The function is self-concordant, so steps of 1/(1 + Newton decrement) stay in α > 0 and converge from
    anywhere. A ridge of 1e-6 stands for the missing solution where gradients oppose each other exactly.
    """
    matrix = gramian + 1e-6 * torch.eye(len(gramian), dtype=gramian.dtype)
    alpha = 1 / matrix.diagonal().clamp(min=1e-3).sqrt()
    for _ in range(niter):
        slope = matrix @ alpha - 1 / alpha
        step = torch.linalg.solve(matrix + torch.diag(alpha**-2), slope)
        decrement = (slope @ step).clamp(min=0).sqrt()
        alpha = alpha - step / (1 + decrement if decrement > 0.25 else 1)
        if decrement < tolerance:
            break
    return alpha
