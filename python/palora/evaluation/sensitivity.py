"""How the losses move with the preference: their gradient with respect to λ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from palora.evaluation.sweep import Forward, device_of, evaluating, forward_of, placed
from palora.precision import wide
from palora.trees import map_tensors


def sensitivity(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    loss_fn: Callable[[Any, Any], Tensor],
    ray: Tensor,
    forward: Forward | None = None,
) -> Tensor | None:
    """(T, T) float64: entry (t, j) is the derivative of the mean loss of task t in λ_j, at `ray` (T,).

    Arguments as for :func:`palora.sweep`. The weights λ_j count as independent: for moves on the simplex subtract the
    mean of each row. None where the model's answer has no gradient with respect to the preference.
    """
    forward = forward or forward_of(model, 1)
    device = device_of(model)
    total, samples = torch.zeros(len(ray), len(ray), dtype=torch.float64), 0
    with evaluating(model), _frozen(model), torch.enable_grad():
        for batch in batches:
            inputs, targets = (placed(part, device) for part in batch)
            point = ray.detach().to(device)[None].requires_grad_()
            outputs = map_tensors(lambda part: part.flatten(0, 1), forward(model, inputs, point))
            losses = loss_fn(outputs, targets)  # (n, T)
            if not losses.requires_grad:
                return None
            for t, loss in enumerate(wide(losses).sum(0)):
                (gradient,) = torch.autograd.grad(loss, point, retain_graph=True, allow_unused=True)
                if gradient is None:
                    return None
                total[t] += gradient[0].double().cpu()
            samples += len(losses)
    return total / max(samples, 1)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No gradients of parameters, which nobody asks for here."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
