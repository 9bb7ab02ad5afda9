"""The comparisons of `palora.check`: one model in one mode, at many rays in several ways, and ray by ray."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palora.layers.comparing import close, largest, leaves
from palora.layers.context import at
from palora.layers.expansion import EnterPass
from palora.layers.merging import merge
from palora.layers.recording import Event, Recorder, first_parting, side_by_side
from palora.layers.routing import RowsError
from palora.layers.trial_pass import own, undisturbed
from palora.layers.watching import Watch
from palora.trees import map_tensors

MIXED = "Rows of the batch see each other there, or are put elsewhere: statistics, softmax, attention or an index over "
MIXED += "dimension 0."


class Parted(Exception):
    """Where passes part first, and why."""

    def __init__(self, part: str, module: str, cause: str, remedy: str, difference: float = float("nan")) -> None:
        super().__init__(cause)
        self.part, self.module, self.cause, self.remedy, self.difference = part, module, cause, remedy, difference


class Call:
    """The arguments of a pass, fresh each time, and the loss that is differentiated."""

    def __init__(self, inputs: Any, targets: Any) -> None:
        self.kwargs: dict[str, Any] = dict(inputs) if isinstance(inputs, Mapping) else {}
        self.args: tuple[Any, ...] = ()
        if not isinstance(inputs, Mapping):
            self.args = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
        self.targets = None if targets is None else [_double(t) for t in leaves(targets)]

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = _double_all(self.args), _double_all(self.kwargs)
        return args, kwargs

    def loss(self, outputs: list[Tensor]) -> Tensor:
        """One ray's loss. The weighting depends on the outputs' shapes alone, so that all passes have the same."""
        total = torch.zeros((), dtype=torch.float64)
        for i, y in enumerate(y for y in outputs if y.requires_grad):
            if self.targets is not None and i < len(self.targets):
                target = self.targets[i].to(y.device)
                classes = not target.is_floating_point() and target.dim() < y.dim()
                value = F.cross_entropy(y, target) if classes else F.mse_loss(y, target.to(y.dtype).view_as(y))
            else:
                weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
                value = (y * weights.to(y.device)).sum()
            total = total + value.cpu()
        return total


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().double() if tensor.is_floating_point() else tensor.detach()


def _double_all(value: Any) -> Any:
    return own(map_tensors(lambda tensor: _double(tensor).clone(), value))


@dataclass
class _Run:
    """One pass: its outputs, what its modules saw, and the error it ended with."""

    outputs: list[Tensor]
    events: list[Event]
    error: Exception | None
    at_module: str
    random: bool  # whether it drew numbers that `Watch` could not settle


class Comparison:
    """All comparisons in one mode."""

    def __init__(
        self, base: nn.Module, rays: Tensor, call: Call, mode: str, notes: list[str], used: set[str]
    ) -> None:
        self.base, self.rays, self.call, self.mode, self.notes, self.used = base, rays, call, mode, notes, used

    def run(self) -> None:
        stacked_model, looped_model = self._copy(), self._copy()
        singles = [self._pass(looped_model, at(looped_model, ray)) for ray in self.rays]
        for single in singles:
            if single.error is not None:
                named = getattr(single.error, "module", "") or single.at_module
                where = f"(In the forward of {single.at_module or type(self.base).__name__!r}.)"
                raise Parted("one ray", named, _says(single.error), where)
        stacked = self._pass(stacked_model, at(stacked_model, self.rays))
        if any(run.random for run in (stacked, *singles)):
            self.notes.append(f"{self.mode}: not compared, as the model draws numbers that cannot be settled")
            return
        self._compare("stacked", stacked, singles)
        self._gradients(stacked_model, stacked, looped_model, singles)
        self._merged(singles)
        if self.mode == "evaluation":
            self._per_sample(singles)

    def _copy(self) -> nn.Module:
        return copy.deepcopy(self.base).train(self.mode == "training")

    def _pass(self, model: nn.Module, block: Any = None) -> _Run:
        recorder, watch = Recorder(model), Watch()
        args, kwargs = self.call.arguments()
        outputs: list[Tensor] = []
        error: Exception | None = None
        try:
            with undisturbed(torch.float64), watch:
                if block is None:
                    outputs = leaves(model(*args, **kwargs))
                else:
                    with block:
                        outputs = leaves(model(*args, **kwargs))
        except Exception as caught:
            error = caught
        finally:
            recorder.close()
        self.used.update(event.name for event in recorder.events)
        return _Run(outputs, recorder.events, error, recorder.running or "", watch.random)

    def _compare(self, part: str, stacked: _Run, singles: list[_Run]) -> None:
        """Outputs at many rays; where they part, a pass without the trial shows at which module."""
        if stacked.error is None and self._outputs_agree(stacked, singles):
            self.notes.append(f"{self.mode}: {part} outputs agree")
            return
        named = getattr(stacked.error, "module", "")
        if isinstance(stacked.error, RowsError):
            model = self._copy()
            for hook in model._forward_pre_hooks.values():
                if isinstance(hook, EnterPass):
                    hook.trial = False
            plain = self._pass(model, at(model, self.rays))
            event = first_parting(plain.events, [single.events for single in singles])
            where = named if event is None else event.name
            raise Parted(part, where, _says(stacked.error), "", self._gap(plain, singles))
        if stacked.error is not None:
            raise Parted(part, named or stacked.at_module, _says(stacked.error), "")
        event = first_parting(stacked.events, [single.events for single in singles])
        where = "" if event is None else event.name
        cause, remedy = _likely(self.base, where, event)
        raise Parted(part, where, cause, remedy, self._gap(stacked, singles))

    @staticmethod
    def _outputs_agree(stacked: _Run, singles: list[_Run]) -> bool:
        if any(len(single.outputs) != len(stacked.outputs) for single in singles):
            return False
        return all(
            y.dim() == 0 or side_by_side(y, [single.outputs[i] for single in singles])
            for i, y in enumerate(stacked.outputs)
        )

    @staticmethod
    def _gap(stacked: _Run, singles: list[_Run]) -> float:
        gaps = [0.0]
        for i, y in enumerate(stacked.outputs):
            theirs = [single.outputs[i] for single in singles if i < len(single.outputs)]
            if y.dim() and len(theirs) == len(singles) and y.shape == torch.cat(theirs).shape:
                expected = torch.cat(theirs)
                gaps.append(((y - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item())
        return max(gaps) if len(gaps) > 1 else float("nan")

    def _gradients(self, stacked_model: nn.Module, stacked: _Run, looped_model: nn.Module, singles: list[_Run]) -> None:
        rays = len(self.rays)
        outputs: list[list[Tensor]] = []
        kept = []
        for i, y in enumerate(stacked.outputs):
            theirs = [single.outputs[i] for single in singles]
            axis = next((d for d in range(y.dim()) if _joined(y, theirs, d)), None)
            if axis is not None:
                kept.append(i)
                outputs.append(list(y.split([t.shape[axis] for t in theirs], dim=axis)))
        if not outputs or not any(part.requires_grad for parts in outputs for part in parts):
            self.notes.append(f"{self.mode}: no output to take gradients of")
            return
        sum((self.call.loss([parts[m] for parts in outputs]) for m in range(rays)), torch.zeros(())).backward()
        sum((self.call.loss([single.outputs[i] for i in kept]) for single in singles), torch.zeros(())).backward()
        among = largest(p.grad for p in looped_model.parameters() if p.grad is not None)
        theirs_by_name = dict(looped_model.named_parameters())
        for name, parameter in reversed(list(stacked_model.named_parameters())):
            found, expected = parameter.grad, theirs_by_name[name].grad
            zero = torch.zeros_like(parameter)
            found, expected = zero if found is None else found, zero if expected is None else expected
            if not close(found, expected, among):
                scale = expected.abs().max().clamp_min(1e-30)
                raise Parted(
                    "gradients",
                    name.rpartition(".")[0],
                    f"The gradient of {name!r} is another.",
                    "An operation of its own backward, or a detached or remembered tensor, treats rows together.",
                    ((found - expected).abs().max() / scale).item(),
                )
        for name, buffer in stacked_model.named_buffers():
            if not close(buffer, dict(looped_model.named_buffers())[name]):
                raise Parted(
                    "buffers",
                    name.rpartition(".")[0],
                    f"The buffer {name!r} ends with another value.",
                    "It is updated once for all rays where a loop updates it ray by ray; freeze it, or use one ray at "
                    "a time in training.",
                )
        self.notes.append(f"{self.mode}: gradients and buffers agree")

    def _merged(self, singles: list[_Run]) -> None:
        looped = self._copy()
        for ray, single in zip(self.rays, singles, strict=True):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that shared weights are untied
                    plain = merge(looped, ray)
            except Exception as error:
                raise Parted("merged", "", _says(error), "") from error
            run = self._pass(plain)
            if run.error is not None:
                raise Parted("merged", run.at_module, _says(run.error), "")
            if not self._outputs_agree(run, [single]):
                event = first_parting(run.events, [single.events])
                raise Parted(
                    "merged",
                    "" if event is None else event.name,
                    "A merged copy computes something else there: its weight is shared with a module that has no "
                    "adapter (tied), or used where the adapter is not.",
                    "Untie the weights, or leave that layer unadapted with exclude.",
                    self._gap(run, [single]),
                )
        self.notes.append(f"{self.mode}: merged copies agree")

    def _per_sample(self, singles: list[_Run]) -> None:
        model = self._copy()
        hook = next((h for h in model._forward_pre_hooks.values() if isinstance(h, EnterPass)), None)
        args, kwargs = self.call.arguments()
        growth = None if hook is None else hook.rules.growth(args, kwargs)
        if growth is None:
            return
        which = torch.arange(growth.rows, device=self.rays.device) % len(self.rays)
        run = self._pass(model, at(model, self.rays[which], per_sample=True))
        if run.error is not None:
            self.notes.append(f"{self.mode}: a ray a sample is refused: {_says(run.error)}")
            return
        for i, y in enumerate(run.outputs):
            theirs = [single.outputs[i] for single in singles]
            if y.dim() == 0 or y.shape != theirs[0].shape or growth.rows == 0 or y.shape[0] % growth.rows:
                continue
            index = which.repeat_interleave(y.shape[0] // growth.rows)
            expected = torch.stack(theirs)[index, torch.arange(y.shape[0], device=y.device)]
            if not close(y, expected):
                raise Parted(
                    "per sample", "", MIXED, "Use the same ray for a whole batch.", (y - expected).abs().max().item()
                )
        self.notes.append(f"{self.mode}: a ray a sample agrees")


def _joined(y: Tensor, theirs: list[Tensor], d: int) -> bool:
    return all(t.dim() == y.dim() for t in theirs) and y.shape[d] == sum(t.shape[d] for t in theirs)


def _says(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return text if isinstance(error, (RowsError, TypeError, ValueError)) else f"{type(error).__name__}: {text}"


def _likely(model: nn.Module, name: str, event: Event | None) -> tuple[str, str]:
    remedy = (
        "Give rows that are chosen to rays with `palora.rows`, say where the batch is with `rows`, `expand` and `keep` "
        "of palora.adapt, or use one ray at a time."
    )
    if event is None:
        return "Something after the last module treats the rows of all rays together.", remedy
    if event.began:
        parent = event.parent or type(model).__name__
        return f"What the forward of {parent!r} gives to it is not each ray's own already. {MIXED}", remedy
    kind = type(dict(model.named_modules())[name]).__name__
    return f"This {kind} is given each ray's rows and gives something else. {MIXED}", remedy
