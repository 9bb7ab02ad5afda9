"""Members and tasks: which tasks a member of an ensemble is for, and which mixture answers a preference."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from palora.rays import schedules

EXACT = 1e4
"""How much more αᵀW = λ counts than a short α, in the least squares that find α."""


def weighting(tasks: int, members: int | None = None, text: str | None = None) -> Tensor:
    """The (m, T) matrix W of a member's task weights; every row lies on the simplex.

    The identity for one member a task (m None or T); otherwise rows spread over the simplex, with the vertices
    among them where m ≥ T; or what `text` says: rows separated by semicolons, weights by commas.

    Raises ValueError for fewer than two members, and for rows that are not weights of T tasks.
    """
    if members is not None and members < 2:
        raise ValueError(f"`members` should be an integer >= 2. Found {members}.")
    if text is None:
        return schedules.Fixed(tasks, members or tasks, epsilon=0.0)(1.0)
    try:
        rows = [[float(number) for number in row.split(",")] for row in text.split(";")]
        matrix = torch.tensor(rows)
    except ValueError as error:
        raise ValueError(f'`weighting` should look like "1,0; 0,1". Found {text!r}.') from error
    if matrix.shape[1] != tasks or len(matrix) != (members or len(matrix)) or len(matrix) < 2:
        expected = f"({members or 'm >= 2'}, {tasks})"
        raise ValueError(f"`weighting` should have shape {expected}. Found {tuple(matrix.shape)}.")
    if (matrix < 0).any() or not torch.allclose(matrix.sum(1), torch.ones(())):
        raise ValueError(f"`weighting` should have rows >= 0 that sum to 1. Found {text!r}.")
    if len(matrix) == tasks and torch.linalg.matrix_rank(matrix) < tasks:
        raise ValueError(f"`weighting` should be invertible where there is one member a task. Found {text!r}.")
    return matrix


def member_weights(rays: Tensor, matrix: Tensor) -> Tensor:
    """The mixtures α (K, m) with αᵀW = λ, for preferences λ (K, T).

    α lies on the simplex. Of several, the one of least Euclidean length, so that members of equal weights share
    alike; where there is none (no member is near that vertex), the closest. `rays` itself for W = I.
    """
    m, tasks = matrix.shape
    if m == tasks and torch.equal(matrix, torch.eye(m)):
        return rays
    W = matrix.double().numpy()
    system = np.concatenate([EXACT * W.T, np.full((1, m), EXACT), np.eye(m)])
    found = []
    for ray in rays.detach().cpu().double().numpy():
        alpha = nonnegative_least_squares(system, np.concatenate([EXACT * ray, [EXACT], np.zeros(m)]))
        found.append(alpha / alpha.sum())
    return torch.tensor(np.array(found)).to(rays)


def nonnegative_least_squares(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """x >= 0 that minimises ‖A x − b‖, A of full column rank (active sets, Lawson and Hanson)."""
    n = A.shape[1]
    x, free = np.zeros(n), np.zeros(n, dtype=bool)
    tolerance = 1e-12 * np.abs(A.T @ b).max(initial=1.0)
    while not free.all():
        slope = A.T @ (b - A @ x)
        slope[free] = -np.inf
        if slope.max() <= tolerance:
            break
        free[slope.argmax()] = True
        while True:
            best = np.zeros(n)
            best[free] = np.linalg.lstsq(A[:, free], b, rcond=None)[0]
            if (best[free] > 0).all():
                break
            # As far towards the best as the signs allow; what arrives at zero is fixed there.
            falling = free & (best <= 0)
            step = (x[falling] / (x[falling] - best[falling])).min()
            x = x + step * (best - x)
            free &= x > 1e-15
        x = best
    return x
