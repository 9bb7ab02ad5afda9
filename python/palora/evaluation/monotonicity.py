"""Does more weight on a task mean a lower loss? Rank correlation between preference and loss."""

from __future__ import annotations

import torch
from torch import Tensor


def monotonicity(rays: Tensor, losses: Tensor) -> Tensor:
    """Spearman's rank correlation between λ_t and the loss of task t, for every task.

    −1 is what Pareto front learning wants: the loss of a task falls whenever its weight rises. Tied values
    share the mean of their ranks. A task whose weight or whose loss is the same at every ray has no ranking:
    its entry is NaN.

    Args:
        rays: (M, T).
        losses: (M, T).

    Returns a float64 tensor of shape (T,). Raises ValueError unless both are two-dimensional and of equal
    shape, or if they hold NaN.
    """
    rays, losses = (torch.as_tensor(values).detach().to("cpu", torch.float64) for values in (rays, losses))
    if rays.ndim != 2 or rays.shape != losses.shape:
        raise ValueError(
            "`rays` and `losses` should have the same shape (rays, tasks). "
            f"Found {tuple(rays.shape)} and {tuple(losses.shape)}."
        )
    if rays.isnan().any() or losses.isnan().any():
        raise ValueError("`rays` and `losses` should be numbers. Found NaN; leave such rays out.")
    if not len(rays):
        return torch.full((rays.shape[1],), torch.nan, dtype=torch.float64)
    first, second = _centred_ranks(rays), _centred_ranks(losses)
    # A constant column has centred ranks of exactly 0: 0/0 is the NaN that the docstring promises.
    return (first * second).sum(0) / (first.square().sum(0) * second.square().sum(0)).sqrt()


def _centred_ranks(values: Tensor) -> Tensor:
    """Twice (rank − mean rank), per column: (number smaller) − (number larger), exact for ties."""
    smaller = (values[None] < values[:, None]).sum(1)
    larger = (values[None] > values[:, None]).sum(1)
    return (smaller - larger).double()
