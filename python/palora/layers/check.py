"""`palora.check`: is a model at many rays what it is at each of them? On copies, and where it is not, why."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from palora.layers.adapter import Adapter
from palora.layers.checking import Call, Comparison, Parted
from palora.layers.context import _as_tensor
from palora.layers.copies import Copies
from palora.layers.inside import inside
from palora.layers.replica import hook_without_traces
from palora.layers.wiring import adapted_layers, ray_layers, states_of


@dataclass
class Report:
    """What `check` found. Its truth value is `ok`; printed, it is the whole of it in words.

    Attributes:
        ok: stacked, per sample and merged, forward and gradients, are as ray by ray.
        part: where they part first: "stacked", "per sample", "merged", "gradients", "buffers" or "one ray"; "" if ok.
        mode: "evaluation" or "training", in which that is so.
        module: name of the first module where they part; "" is the model itself, or nothing.
        cause, remedy: what it probably is, and what can be done.
        difference: the largest one, relative to the largest value; NaN where shapes differ or a pass raised.
        unused: adapted layers that no pass applied.
        notes: what was compared, and what could not be.
    """

    ok: bool = True
    part: str = ""
    mode: str = ""
    module: str = ""
    cause: str = ""
    remedy: str = ""
    difference: float = 0.0
    unused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        lines = [f"  {note}" for note in self.notes]
        if self.unused:
            lines.append(f"  never applied: the adapters of {', '.join(self.unused)}")
        if self.ok:
            return "\n".join(["Many rays are as each ray alone.", *lines])
        where = f"module {self.module!r}" if self.module else "the model itself"
        gap = "" if self.difference != self.difference else f", relative difference {self.difference:.1e}"
        head = f"NOT as each ray alone: {self.part}, in {self.mode}{gap}. First at {where}. {self.cause}"
        return "\n".join([f"{head} {self.remedy}".rstrip(), *lines])


def check(model: nn.Module, inputs: Any, rays: Any = None, targets: Any = None) -> Report:
    """Run an adapted model at all rays at once, with a ray a sample, ray by ray and merged, and compare.

    On copies in float64, in evaluation and in training mode, outputs, gradients of every parameter, and buffers; random
    operations are settled, and adapters that are still zero filled, so that rays differ. The model is not changed. Take
    a small batch: all that its modules compute is kept.

    Args:
        model: an adapted model.
        inputs: its argument, a tuple of its arguments, or a dict of its keyword arguments.
        rays: (M, T); by default every single task, as far as four, and their mean.
        targets: what the outputs are compared with, a tensor or one for each output: classes or values. By default
            gradients are those of a fixed random weighting of the outputs.

    Returns:
        A `Report`: what was compared, and the first module where passes part, with the likely cause and a remedy.

    Raises:
        ValueError: no adapted layers, rays of the wrong shape, or a model that cannot be copied.
    """
    if not ray_layers(model):
        raise ValueError(f"`model` ({type(model).__name__}) has no adapted layers. Call palora.adapt first.")
    report = Report()
    base = _copied(inside(model))
    first = next(iter(ray_layers(base).values()))
    given = _default_rays(first.tasks) if rays is None else _as_tensor(rays, first)
    if given.dim() != 2 or given.shape[1] != first.tasks or not len(given):
        raise ValueError(f"`rays` should have shape (M, {first.tasks}). Found {tuple(given.shape)}.")
    given = given.to(device=first.base_weight().device, dtype=torch.float64)
    call = Call(inputs, targets)
    used: set[str] = set()
    for mode in ("evaluation", "training"):
        try:
            Comparison(base, given, call, mode, report.notes, used).run()
        except Parted as parted:
            report.ok, report.part, report.mode, report.module = False, parted.part, mode, parted.module
            report.cause, report.remedy, report.difference = parted.cause, parted.remedy, parted.difference
            break
    if report.ok:
        report.unused = [name for name in ray_layers(base) if name not in used]
        for state in states_of(model):
            if state is not None:
                state.told_untried = True  # compiled code need not say that it was not tried out
    return report


def _copied(model: nn.Module) -> nn.Module:
    try:
        base = copy.deepcopy(model).double()
    except Exception as error:
        raise ValueError(f"`model` cannot be copied, so it cannot be checked: {error}") from error
    double = {id(module): copied for module, copied in zip(model.modules(), base.modules(), strict=True)}
    copies = Copies(lambda module: double.get(id(module), module), _doubled)
    for module in base.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in hooks.items():
                hooks[key] = hook_without_traces(hook, copies)
    generator = torch.Generator().manual_seed(0)
    for layer in adapted_layers(base).values():
        _fill(layer, generator)
    return base


def _doubled(tensor: Tensor) -> Tensor:
    copied = tensor.detach().clone()
    return copied.double() if copied.is_floating_point() else copied


def _fill(layer: Adapter, generator: torch.Generator) -> None:
    """Fresh adapters give every ray the same weight: make them say something."""
    with torch.no_grad():
        for factor in (layer.lora_A, layer.lora_B):
            if not factor.any():
                factor.copy_(0.3 * torch.randn(factor.shape, generator=generator, dtype=torch.float64))


def _default_rays(tasks: int) -> Tensor:
    single = torch.eye(tasks, dtype=torch.float64)[:4]
    return torch.cat([single, torch.full((1, tasks), 1 / tasks, dtype=torch.float64)])
