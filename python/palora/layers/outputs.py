"""The outputs of a trial's stacked pass against those of each batch alone: where they have their rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from palora.layers.comparing import Problem, close, dense, largest, leaves
from palora.layers.splitting import Place


def output_places(stacked: Any, first: Any, second: Any) -> list[Place] | Problem | None:
    """Where each tensor of the outputs has its rows, or what is wrong with one; None: they cannot be compared."""
    found, alone, other = ([dense(t) for t in leaves(outputs)] for outputs in (stacked, first, second))
    if not len(found) == len(alone) == len(other):
        return None
    among = largest(alone)
    places: list[Place] = []
    for y, a, b in zip(found, alone, other, strict=True):
        place = _place(y, a, b, among)
        if place is None:
            return Problem(
                "The model's output at several rays is not what each ray gives alone: something after its last adapted "
                "layer mixes the rows of the batch or chooses among them (statistics, softmax or products over "
                "dimension 0); use one ray at a time.",
                by_value=y.shape == a.shape or bool(_grown(y, a, b)),
            )
        places.append(place)
    return places


def _place(y: Tensor, a: Tensor, b: Tensor, among: float) -> Place | None:
    if close(y, a, among) and close(y, b, among):
        return "same"
    if y.dim() == 0:
        return "one"
    if a.shape == b.shape:
        for d in _grown(y, a, b):
            if close(y, torch.cat([a, b], dim=d), among):
                return d
        if y.dim() == a.dim() + 1 and close(y, torch.stack([a, b]), among):
            return "stacked"
    return None


def _grown(y: Tensor, a: Tensor, b: Tensor) -> list[int]:
    if not y.dim() == a.dim() == b.dim():
        return []
    return [d for d in range(y.dim()) if y.shape[d] == a.shape[d] + b.shape[d]]
