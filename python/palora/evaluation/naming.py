"""A preference as text, and text as a preference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from palora.errors import PaloraError


def weight_text(weight: Tensor) -> str:
    """The shortest decimals that are the same number again: 0.3, not 0.30000001192092896."""
    text = str(weight.detach().cpu().numpy())
    return text.removesuffix(".0")


def ray_text(ray: Tensor) -> str:
    """(0.3, 0.7)."""
    return f"({', '.join(map(weight_text, ray))})"


def ray_words(ray: Tensor) -> str:
    """0.3,0.7: as `--preference` takes it, and :func:`read_ray` reads it back to the bit."""
    return ",".join(map(weight_text, ray))


def read_ray(text: str, tasks: Sequence[str]) -> Tensor:
    """`text`, "0.3,0.7", as a preference (T,), float32: one weight >= 0 a task, which sum to 1.

    Raises PaloraError that says what was expected and, where the weights are not on the simplex, the nearest that are.
    """
    try:
        weights = torch.tensor([float(word) for word in text.split(",")], dtype=torch.float64)
    except ValueError:
        weights = torch.empty(0)
    if len(weights) != len(tasks) or not bool(weights.isfinite().all()):
        raise PaloraError(
            f"A preference should be {len(tasks)} weights, for {', '.join(tasks)}, as in "
            f"{ray_words(on_simplex(torch.ones(len(tasks)), digits=2))}. Found {text!r}."
        )
    if (weights < 0).any() or abs(weights.sum().item() - 1) > 1e-4:
        near = on_simplex(weights)
        raise PaloraError(
            f"A preference should be weights >= 0 that sum to 1. Found {text!r}; the nearest is {ray_words(near)}."
        )
    return weights.float()


def on_simplex(weights: Tensor, digits: int = 4) -> Tensor:
    """The nearest point of the simplex (T,), float32, in so many decimals (Held et al., 1974: sort and threshold)."""
    values = weights.double()
    ordered = values.sort(descending=True).values
    steps = torch.arange(1, len(values) + 1, dtype=torch.float64)
    thresholds = (ordered.cumsum(0) - 1) / steps
    count = int((ordered > thresholds).sum())
    point = (values - thresholds[count - 1]).clamp(min=0)
    point = (point * 10**digits).round() / 10**digits
    largest = int(point.argmax())
    point[largest] = 0
    point[largest] = round(1 - point.sum().item(), digits)
    return point.float()
