"""Evaluate a model at many rays, several of them in every pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from palora.evaluation.front import Front
from palora.evaluation.measures import Measure
from palora.precision import wide, with_float64
from palora.rays.checks import whole
from palora.trees import first_tensor, map_tensors

Forward = Callable[[nn.Module, Any, Tensor], Any]


def sweep(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    loss_fn: Callable[[Any, Any], Tensor],
    rays: Tensor,
    metric_fn: Callable[[Any, Any], dict[str, Tensor]] | None = None,
    rays_per_pass: int | None = None,
    *,
    forward: Forward | None = None,
    tasks: Sequence[str] = (),
    note: str = "",
    measures: Mapping[int, Measure] | None = None,
) -> Front:
    """Mean loss of every task, and mean of every metric, at each of `rays`.

    Args:
        model: adapted by :func:`palora.adapt`; or any other module, which has no preferences and is one
            point: `rays` is then the one row that it is shown at.
        batches: pairs (inputs, targets), gone through once. `inputs` is what ``model(inputs)`` takes,
            `targets` a tensor or nested tuples, lists, mappings and dataclasses of tensors; arrays of NumPy
            are taken for tensors. Both are moved to the model's device. Batches may differ in size: every
            sample counts the same.
        loss_fn: (outputs, targets) → (rows, T), the loss of each sample on each task. A pass over m rays and
            n samples has m·n rows, ray-major: outputs and targets both have all samples of the first ray
            first.
        rays: (M, T) or (T,) preferences.
        metric_fn: (outputs, targets) → name → (rows,), one value a sample.
        rays_per_pass: at most so many rays in one pass, which bounds the memory; None: all of them.
        forward: how to ask another kind of model: (model, inputs, rays (m, T)) → outputs of shape (m, n, …).
        tasks, note: for the `Front`.
        measures: task → a metric that is not a mean over samples (mean IoU, a median, …), see
            :mod:`palora.evaluation.measures`. Task t is ``outputs[t]``, (m, n, …), with ``targets[t]``; its
            metrics are called "<name>/<task>".

    The model is in evaluation mode for the duration, and every module back in its own mode afterwards. No
    gradients. Sums are kept in float64. Raises ValueError for wrong shapes and if there are no samples, TypeError
    for batches that are not pairs.
    """
    rays = torch.as_tensor(rays).detach()
    rays = rays if rays.is_floating_point() else rays.float()
    rays = rays[None] if rays.ndim == 1 else rays
    if rays.ndim != 2 or not rays.numel():
        raise ValueError(f"`rays` should have shape (rays, tasks) or (tasks,). Found {tuple(rays.shape)}.")
    if rays_per_pass is not None:
        whole("rays_per_pass", rays_per_pass, 1)
    own = forward is not None
    forward = forward or forward_of(model, len(rays))
    device = device_of(model)
    groups = rays.to(device).split(rays_per_pass or len(rays))
    totals = [_Totals() for _ in groups]
    measures = measures or {}

    with evaluating(model), torch.no_grad():
        for batch in batches:
            inputs, targets = (placed(part, device) for part in _pair(batch, own))
            for group, total in zip(groups, totals, strict=True):
                answers = forward(model, inputs, group)
                for task, measure in measures.items():
                    total.add_sums(task, measure.sums(with_float64(answers[task]), with_float64(targets[task])))
                outputs = map_tensors(lambda part: part.flatten(0, 1), answers)
                rows = _for_every_ray(targets, len(group))
                total.add(group, loss_fn(outputs, rows), metric_fn(outputs, rows) if metric_fn else {})
    if not totals[0].samples:
        raise ValueError("`batches` should hold at least one sample. Found none; was it gone through before?")
    losses = torch.cat([total.losses / total.samples for total in totals]).to(totals[0].dtype)
    metrics = {name: torch.cat([t.metrics[name] / t.samples for t in totals]) for name in totals[0].metrics}
    for task, measure in measures.items():
        values = torch.cat([measure.values(total.sums[task]) for total in totals])
        of = tasks[task] if tasks else f"task {task + 1}"
        metrics.update({f"{name}/{of}": values[:, i] for i, name in enumerate(measure.names)})
    return Front(rays, losses, metrics, tuple(tasks), note)


def _pair(batch: Any, any_inputs: bool) -> tuple[Any, Any]:
    """The two parts of a batch; what else loaders give is refused with what it is and how to make a pair of it.

    ``any_inputs``: a `forward` of the caller's own says what inputs are.
    """
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        inputs, targets = batch
        plain = inputs is None or isinstance(inputs, (str, int, float, list, tuple, Mapping))
        if any_inputs or not plain or first_tensor(inputs) is not None or _arrays(inputs):
            return inputs, targets
        found = f"a pair whose inputs are {type(inputs).__name__} without a tensor"
    elif isinstance(batch, (tuple, list)):
        found = f"a {type(batch).__name__} of {len(batch)}"
    elif isinstance(batch, Mapping):
        found = f"a {type(batch).__name__} with the keys {', '.join(map(str, batch))}"
    else:
        found = f"a {type(batch).__name__}"
        found += f" of shape {tuple(batch.shape)}" if isinstance(batch, (Tensor, np.ndarray)) else ""
    raise TypeError(
        f"`batches` should yield pairs (inputs, targets) of tensors or containers of them. Found {found}; make pairs "
        "of it, as in ((x, (y1, y2)) for x, y1, y2 in loader) or ((b['x'], b['y']) for b in loader)."
    )


def _arrays(tree: Any) -> bool:
    found: list[Any] = []
    map_tensors(lambda tensor: tensor, tree, lambda leaf: found.append(leaf) if isinstance(leaf, np.ndarray) else leaf)
    return bool(found)


def placed(part: Any, device: torch.device) -> Any:
    """Inputs or targets on the device, arrays of NumPy as tensors."""
    return map_tensors(lambda tensor: tensor.to(device), part, lambda leaf: _from_array(leaf, device))


def _from_array(leaf: Any, device: torch.device) -> Any:
    """An array of numbers as a tensor; other leaves as they are."""
    numbers = isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf"
    return torch.as_tensor(leaf, device=device) if numbers else leaf


def _for_every_ray(targets: Any, m: int) -> Any:
    """Targets (n, …) repeated to m·n rows, ray-major, as the outputs are; a tensor without dimensions stays."""
    return map_tensors(lambda part: part.repeat(m, *(1,) * (part.ndim - 1)) if part.ndim else part, targets)


@dataclass
class _Totals:
    """Sums over the samples seen so far, for a group of m rays."""

    losses: Tensor = field(default_factory=lambda: torch.zeros(()))  # (m, T) float64
    metrics: dict[str, Tensor] = field(default_factory=dict)  # (m,) float64
    sums: dict[int, Tensor] = field(default_factory=dict)  # (m, K) float64, of measures
    samples: int = 0
    dtype: torch.dtype = torch.float32  # what the loss function returned

    def add(self, rays: Tensor, losses: Tensor, metrics: dict[str, Tensor]) -> None:
        m, tasks = rays.shape
        rows = len(losses)
        if losses.ndim != 2 or losses.shape[1] != tasks or rows % m:
            raise ValueError(
                f"`loss_fn` should return the loss of each sample on each task, shape ({m}·samples, {tasks}) "
                f"for {m} rays. Found shape {tuple(losses.shape)}; do not average over the samples."
            )
        self.losses = self.losses + wide(losses).unflatten(0, (m, rows // m)).sum(1)
        for name, values in metrics.items():
            if values.shape != (rows,):
                raise ValueError(
                    f"`metric_fn` should return one value a sample, shape ({rows},), for {name!r}. "
                    f"Found shape {tuple(values.shape)}."
                )
            total = wide(values).unflatten(0, (m, rows // m)).sum(1)
            self.metrics[name] = self.metrics[name] + total if name in self.metrics else total
        self.samples += rows // m
        self.dtype = losses.dtype

    def add_sums(self, task: int, sums: Tensor) -> None:
        self.sums[task] = self.sums[task] + sums if task in self.sums else sums


def forward_of(model: nn.Module, rays: int) -> Forward:
    """Ask an adapted model under `palora.at`, and a model without adapters as it is."""
    from palora.layers import at, ray_layers, split  # not needed with a `forward` of one's own

    if ray_layers(model):

        def adapted(model: nn.Module, inputs: Any, rays: Tensor) -> Any:
            with at(model, rays):
                return split(model(inputs), len(rays))

        return adapted
    if rays != 1:
        raise ValueError(
            f"`rays` should be one row for a model without adapters, a single point. Found {rays} rows. "
            "palora.adapt adds adapters; `forward` says how to ask a model that takes rays in another way."
        )
    return lambda model, inputs, rays: map_tensors(lambda part: part[None], model(inputs))


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer is."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each module is as it was, also where parts were frozen by hand."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
