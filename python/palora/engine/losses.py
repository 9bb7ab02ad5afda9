"""Losses and metrics by name, one value per sample: what a `TaskSpec` names is found here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from palora.data import TaskSpec
from palora.errors import PaloraError
from palora.evaluation.measures import Angles, Depth, Measure, Segmentation
from palora.suggest import unknown

PerSample = Callable[[Tensor, Tensor], Tensor]
"""(output (rows, …), target (rows, …)) → (rows,), float32."""


def _cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Output (rows, classes) or (rows, classes, …), target the class indices; -1 means no label."""
    loss = F.cross_entropy(output, target, ignore_index=-1, reduction="none")
    if loss.dim() == 1:
        return loss
    return loss.flatten(1).sum(1) / (target != -1).flatten(1).sum(1).clamp(min=1)


def _nll(output: Tensor, target: Tensor) -> Tensor:
    """As cross-entropy, of outputs that are log-probabilities already."""
    loss = F.nll_loss(output, target, ignore_index=-1, reduction="none")
    if loss.dim() == 1:
        return loss
    return loss.flatten(1).sum(1) / (target != -1).flatten(1).sum(1).clamp(min=1)


def _masked_l1(output: Tensor, target: Tensor) -> Tensor:
    """|d − d̂| over the pixels with a depth: (rows, 1, H, W) both, a target of 0 means none."""
    return _over_pixels((output - target).abs().sum(1), (target != 0).any(1))


def _cosine_normals(output: Tensor, target: Tensor) -> Tensor:
    """1 − n·n̂ over the pixels with a normal: (rows, 3, H, W) both, of length 1; a target (0, 0, 0) means none.

    With :class:`palora.models.SegNet` the network scales its output to length 1 (`unit_length`).
    """
    return _over_pixels(1 - (output * target).sum(1), (target != 0).any(1))


def _over_pixels(loss: Tensor, valid: Tensor) -> Tensor:
    """The mean of (rows, H, W) over the valid pixels of each sample; 0 for a sample without any.

    Every sample counts the same. The authors' code divides by the valid pixels of the whole batch, so that
    there the value of a sample depends on the others of its batch.
    """
    pixels = valid.flatten(1)
    return (loss.flatten(1) * pixels).sum(1) / pixels.sum(1).clamp(min=1)


def _elementwise(loss: Callable[..., Tensor]) -> PerSample:
    """A regression loss, averaged over all elements of a sample; (rows, 1) and (rows,) are the same thing."""

    def per_sample(output: Tensor, target: Tensor) -> Tensor:
        target = target.reshape(output.shape).to(output.dtype)
        return loss(output, target, reduction="none").reshape(len(output), -1).mean(1)

    return per_sample


def _accuracy(output: Tensor, target: Tensor) -> Tensor:
    """1 where the largest score is the target's; the mean over pixels with a label where there are many."""
    hit = (output.argmax(1) == target).float()
    if hit.dim() == 1:
        return hit
    return hit.flatten(1).sum(1) / (target != -1).flatten(1).sum(1).clamp(min=1)


LOSSES: dict[str, PerSample] = {
    "cross_entropy": _cross_entropy,
    "mse": _elementwise(F.mse_loss),
    "l1": _elementwise(F.l1_loss),
    "huber": _elementwise(F.huber_loss),
    "nll": _nll,
    "masked_l1": _masked_l1,
    "cosine_normals": _cosine_normals,
    "l1_normals": _masked_l1,  # Σ over the three components, as for depth
}

METRICS: dict[str, PerSample] = {
    "accuracy": _accuracy,
    "mse": LOSSES["mse"],
    "mae": LOSSES["l1"],
    "huber": LOSSES["huber"],
}

MEASURES: dict[str, type[Measure]] = {
    "segmentation": Segmentation,
    "depth": Depth,
    "angles": Angles,
}
"""Metrics that are not a mean over samples; each has several names of its own."""


def loss_fn(tasks: Sequence[TaskSpec]) -> Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]:
    """(outputs, targets) → per-sample losses (rows, T), in float32 or wider; one row per ray and sample."""
    functions = [_named("loss", task.loss, LOSSES) for task in tasks]

    def losses(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        columns = [f(_wide(o), t) for f, o, t in zip(functions, outputs, targets, strict=True)]
        return torch.stack(columns, dim=1)

    return losses


def metric_fn(tasks: Sequence[TaskSpec]) -> Callable[[Sequence[Tensor], Sequence[Tensor]], dict[str, Tensor]]:
    """(outputs, targets) → {"accuracy/left": per-sample values (rows,), …}: every metric that is a mean over
    samples; :func:`measures` has the others."""
    for task in tasks:
        if task.metric not in METRICS and task.metric not in MEASURES:
            raise PaloraError(unknown("metric", task.metric, [*METRICS, *MEASURES]))
    named = {t: METRICS[task.metric] for t, task in enumerate(tasks) if task.metric in METRICS}

    def metrics(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> dict[str, Tensor]:
        return {metric_name(tasks[t]): f(_wide(outputs[t]), targets[t]) for t, f in named.items()}

    return metrics


def measures(tasks: Sequence[TaskSpec]) -> dict[int, Measure]:
    """Task → its metric where that is a function of sums over the data set (see `palora.sweep`)."""
    return {t: MEASURES[task.metric]() for t, task in enumerate(tasks) if task.metric in MEASURES}


def metric_name(task: TaskSpec) -> str:
    """What a task's metric is called in records and figures: "accuracy/left"."""
    return f"{task.metric}/{task.name}"


def _wide(output: Tensor) -> Tensor:
    """At least float32: a loss in half precision would be rounded to three digits."""
    return output.float() if output.dtype in (torch.float16, torch.bfloat16) else output


def _named(kind: str, name: str, known: dict[str, PerSample]) -> PerSample:
    if name not in known:
        raise PaloraError(unknown(kind, name, known))
    return known[name]
