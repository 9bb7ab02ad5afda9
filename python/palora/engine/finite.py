"""A run stops at the first loss or weight that is not finite, and says where."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from palora.errors import PaloraError


class Diverged(PaloraError):
    """A loss or a weight is NaN or infinite: to go on would only spread it."""


def require_finite_losses(
    losses: Tensor, rays: Tensor, tasks: Sequence[str], epoch: int, step: int, checkpoint: Path
) -> None:
    """Raise Diverged, naming ray, task and step, if any of `losses` (M, T) at `rays` (M, T) is not finite."""
    if bool(torch.isfinite(losses).all()):
        return
    m, t = torch.nonzero(~torch.isfinite(losses))[0].tolist()
    ray = ", ".join(f"{weight:.3g}" for weight in rays[m].tolist())
    raise Diverged(
        f"The loss of task '{tasks[t]}' at ray {m + 1} of {len(rays)} ({ray}) is {losses[m, t].item()} "
        f"in step {step} (epoch {epoch}){_kept(checkpoint)}. Lower --lr, or train with --precision fp32."
    )


def require_finite_weights(model: nn.Module, step: int, checkpoint: Path) -> None:
    """Raise Diverged if a parameter or buffer is not finite: it must not replace a good checkpoint."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise Diverged(
                f"The weight {name} is not finite after step {step}{_kept(checkpoint)}. "
                "Lower --lr, or train with --precision fp32."
            )


def _kept(checkpoint: Path) -> str:
    return f"; the last good checkpoint is kept: {checkpoint}" if checkpoint.exists() else ""
