"""Exact Pareto optimal search: the weights of T gradients that lead to the front along a preference.

Mahapatra & Rajan (2020), Sec. 4. At its goal λ_t L_t is the same for every task: the weight of a task says how
much lower its loss should be than the others'.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_ABSENT = 1e-12
BALANCED = 1e-4
"""Non-uniformity below which a point counts as being on its ray, as in the authors' code."""


def non_uniformity(losses: np.ndarray, ray: np.ndarray) -> tuple[float, np.ndarray]:
    """μ = KL(l̂ ‖ uniform) for l̂ = λ∘L / Σ λ_t L_t, and the direction a = λ∘(log(T l̂) − μ) that lowers it."""
    share = ray * losses / (ray * losses).sum()
    logs = np.log(np.maximum(share, np.finfo(float).tiny) * len(ray))
    mu = float((share * logs).sum())
    return mu, ray * (logs - mu)


def epo_weights(losses: Tensor, gramian: Tensor, ray: Tensor) -> Tensor:
    """β (T,) on the simplex, by one linear programme (HiGHS): move along Σ_t β_t ∇L_t.

    With C = G Gᵀ (`gramian`), −C β is how the losses change, and a as in :func:`non_uniformity`:

    * off the ray (μ > 1e-4): maximise βᵀC a, the fall of μ. The tasks of the largest λ_t L_t must not rise; those
      that balancing lets rise, (C a)_t < 0, must not rise faster than along G a; where it lets all tasks rise, none
      may.
    * on the ray: maximise Σ_t (C β)_t, the fall of all losses together; none may rise, nor μ, if that is possible.

    β is not negative, as in the authors' code, so that not all losses can rise at once: from far on one side the
    search can end on the front beside its ray, where one loss is at its minimum. Tasks of weight 0 take no part.

    Losses, which have to be >= 0 (ValueError), and `ray` (T,). Where the solver gives up, the ray itself.
    """
    from scipy.optimize import linprog

    l, r = losses.double().numpy(), ray.double().numpy()
    if (l < 0).any():
        raise ValueError(f"EPO balances losses that are >= 0. Found {l.min():.3g}.")
    part = r > _ABSENT * r.max()
    if not (r * l)[part].sum() > 0:
        return ray / ray.sum()
    beta = np.zeros(len(l))
    beta[part] = _solve(l[part], gramian.double().numpy()[np.ix_(part, part)], r[part], linprog)
    return torch.from_numpy(beta).to(ray)


def _solve(l: np.ndarray, C: np.ndarray, r: np.ndarray, linprog: Any) -> np.ndarray:
    T = len(l)
    C = C / max(np.abs(C).max(), np.finfo(float).tiny)  # the solution does not depend on the scale, the solver does
    mu, a = non_uniformity(l, r)
    Ca = C @ a
    lower = np.zeros(T)  # of C β
    rows = C
    if mu > BALANCED:
        gain = Ca
        if (Ca > 0).any():
            lower = np.where(Ca > 0, -np.inf, Ca)
            lower[r * l >= (r * l).max()] = 0.0
    else:
        gain = C.sum(0)
        rows, lower = np.vstack([C, Ca]), np.append(lower, min(Ca.max(), 0.0))
    bounded = np.isfinite(lower)
    solved = linprog(
        -gain / max(np.abs(gain).max(), np.finfo(float).tiny),
        A_ub=-rows[bounded] if bounded.any() else None,
        b_ub=-lower[bounded] if bounded.any() else None,
        A_eq=np.ones((1, T)),
        b_eq=[1.0],
        bounds=(0, 1),
        method="highs",
    )
    return np.maximum(solved.x, 0) if solved.success else r / r.sum()
