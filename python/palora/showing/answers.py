"""What a model answers for a sample at many rays, and what is true, shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from palora.showing import pictures
from palora.showing.numbers import rounded, shares

MOST_CLASSES = 10
"""The most classes of a sample whose probabilities are shown: the true one and those that any ray finds likeliest."""


@dataclass(frozen=True)
class Shown:
    """One sample: ``truth`` has an entry per task, ``answers`` one per ray and task."""

    truth: list[dict[str, Any]]
    answers: list[list[dict[str, Any]]]


def kind_of(output: Tensor, target: Tensor) -> str:
    """Which of the five kinds a task is, from one sample's output and target (neither with a batch dimension)."""
    if not target.is_floating_point():
        return "segmentation" if output.dim() == 3 else "classes"
    if output.dim() == 3 and len(output) in (1, 3):
        return "depth" if len(output) == 1 else "normals"
    return "values"


def dense(kind: str) -> bool:
    """Whether the kind is shown as a picture."""
    return kind in ("segmentation", "depth", "normals")


def show_tasks(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Shown:
    """One sample at M rays: `outputs` has a tensor (M, …) per task, `targets` the truth without a batch dimension."""
    shown = [_SHOW[kind_of(output[0], target)](output, target) for output, target in zip(outputs, targets, strict=True)]
    truth = [true for true, _ in shown]
    answers = [list(of_ray) for of_ray in zip(*(answers for _, answers in shown), strict=True)]
    return Shown(truth, answers)


Task = tuple[dict[str, Any], list[dict[str, Any]]]
"""The truth of one task, and its answer at each ray."""


def _classes(output: Tensor, target: Tensor) -> Task:
    probabilities = output.float().softmax(1)
    likeliest = probabilities.amax(0)
    if target >= 0:
        likeliest[target] = 2.0  # always among them
    chosen = likeliest.topk(min(MOST_CLASSES, len(likeliest))).indices.sort().values
    predicted = probabilities.argmax(1).tolist()
    confident = probabilities.amax(1)
    answers = [
        {"class": guess, "confidence": shares(confident[m]), "probabilities": shares(probabilities[m, chosen])}
        for m, guess in enumerate(predicted)
    ]
    return {"class": int(target) if target >= 0 else None, "classes": chosen.tolist()}, answers


def _values(output: Tensor, target: Tensor) -> Task:
    return {"values": rounded(target.flatten())}, [{"values": rounded(answer.flatten())} for answer in output]


def _segmentation(output: Tensor, target: Tensor) -> Task:
    answers = [{"picture": pictures.classes(guess)} for guess in output.argmax(1)]
    return {"picture": pictures.classes(target)}, answers


def _depth(output: Tensor, target: Tensor) -> Task:
    valid = target[0] != 0
    known = target[0][valid] if valid.any() else torch.tensor([0.0, 1.0])
    low, high = float(known.min()), float(known.max())
    truth = {"picture": pictures.depth(target[0], low, high, valid), "range": rounded(torch.tensor([low, high]))}
    return truth, [{"picture": pictures.depth(answer[0], low, high)} for answer in output]


def _normals(output: Tensor, target: Tensor) -> Task:
    valid = (target != 0).any(0, keepdim=True)
    return {"picture": pictures.normals(target, valid)}, [{"picture": pictures.normals(answer)} for answer in output]


_SHOW = {
    "classes": _classes,
    "values": _values,
    "segmentation": _segmentation,
    "depth": _depth,
    "normals": _normals,
}
