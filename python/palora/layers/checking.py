"""The comparisons of `palora.check`: one model in one mode, at many rays in several ways, and ray by ray."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palora.layers.calling import Call
from palora.layers.causes import MIXED, Parted, likely, reduced, said
from palora.layers.comparing import close, dense, largest, leaves
from palora.layers.context import at
from palora.layers.expansion import EnterPass
from palora.layers.merging import merge
from palora.layers.norm import RayNorm
from palora.layers.recording import Event, Recorder, first_parting, side_by_side
from palora.layers.routing import RowsError
from palora.layers.state import RayState
from palora.layers.undisturbed import drawn_by_host, undisturbed
from palora.layers.watching import Watch


@dataclass
class _Run:
    """One pass: its outputs, what its modules saw, and the error it ended with."""

    outputs: list[Tensor]
    events: list[Event]
    error: Exception | None
    at_module: str
    random: bool  # whether it drew numbers that `Watch` could not settle


class Comparison:
    """All comparisons in one mode.

    Args:
        notes: what was compared, in words. used: names of the layers that a pass applied; both are added to.
    """

    def __init__(self, base: nn.Module, rays: Tensor, call: Call, mode: str, notes: list[str], used: set[str]) -> None:
        self.base, self.rays, self.call, self.mode, self.notes, self.used = base, rays, call, mode, notes, used
        self.axes: list[int | None] = []  # where each output has its rows, if in a dimension of its own

    def run(self) -> None:
        stacked_model, looped_model = self._copy(), self._copy()
        singles = [self._pass(looped_model, at(looped_model, ray)) for ray in self.rays]
        for single in singles:
            if single.error is not None:
                named = getattr(single.error, "module", "") or single.at_module
                cause, remedy = said(single.error, "At one ray it should run as before palora.adapt.")
                where = f"In the forward of {single.at_module or type(self.base).__name__!r}: "
                raise Parted("one ray", named, where + cause, remedy)
        stacked = self._pass(stacked_model, at(stacked_model, self.rays))
        if any(run.random for run in (stacked, *singles)):
            self.notes.append(f"{self.mode}: not compared, as the model draws numbers that cannot be settled")
            return
        self._compare("stacked", stacked, singles)
        self._gradients(stacked_model, stacked, looped_model, singles)
        self._merged(singles)
        self._per_sample(singles)

    def _copy(self) -> nn.Module:
        return copy.deepcopy(self.base).train(self.mode == "training")

    def _pass(self, model: nn.Module, block: at | None = None) -> _Run:
        recorder, watch = Recorder(model), Watch()
        args, kwargs = self.call.arguments()
        outputs: list[Tensor] = []
        error: Exception | None = None
        try:
            with undisturbed(torch.float64), watch:
                before = drawn_by_host(model)
                if block is None:
                    outputs = leaves(model(*args, **kwargs))
                else:
                    with block:
                        outputs = leaves(model(*args, **kwargs))
                        self._note_used(block.state)
                watch.random |= drawn_by_host(model) != before
            outputs = [dense(y) for y in outputs]
        except Exception as caught:
            error = caught
        finally:
            recorder.close()
        return _Run(outputs, recorder.events, error, recorder.running or "", watch.random)

    def _note_used(self, state: RayState) -> None:
        slot = state.current()
        self.used.update(() if slot is None else slot.used)

    def _compare(self, part: str, stacked: _Run, singles: list[_Run]) -> None:
        """Outputs at many rays; where they part, a pass without the trial shows at which module."""
        if stacked.error is None and self._outputs_agree(stacked, singles):
            self.notes.append(f"{self.mode}: {part} outputs agree")
            return
        named = getattr(stacked.error, "module", "")
        others = [single.events for single in singles]
        if isinstance(stacked.error, RowsError):
            model = self._copy()
            for hook in model._forward_pre_hooks.values():
                if isinstance(hook, EnterPass):
                    hook.trial = False
            plain = self._pass(model, at(model, self.rays))
            event = first_parting(plain.events, others)
            where = named if event is None else event.name
            raise Parted(part, where, *said(stacked.error), self._gap(plain, singles))
        if stacked.error is not None:
            raise Parted(part, named or stacked.at_module, *said(stacked.error))
        event = first_parting(stacked.events, others)
        if event is None:
            self._numbers(part, stacked, singles)
        where = "" if event is None else event.name
        raise Parted(part, where, *likely(self.base, where, event), self._gap(stacked, singles))

    def _numbers(self, part: str, stacked: _Run, singles: list[_Run]) -> None:
        """Whether what parts is one number for all rays."""
        for i, y in enumerate(stacked.outputs):
            theirs = [single.outputs[i] for single in singles if i < len(single.outputs)]
            if y.dim() == 0 and len(theirs) == len(singles) and not side_by_side(y, theirs):
                event = first_parting(stacked.events, [single.events for single in singles], numbers=True)
                raise Parted(part, "" if event is None else event.name, *reduced(y, theirs))

    @staticmethod
    def _outputs_agree(stacked: _Run, singles: list[_Run]) -> bool:
        if any(len(single.outputs) != len(stacked.outputs) for single in singles):
            return False
        return all(side_by_side(y, [single.outputs[i] for single in singles]) for i, y in enumerate(stacked.outputs))

    @staticmethod
    def _gap(stacked: _Run, singles: list[_Run]) -> float:
        gaps = []
        for i, y in enumerate(stacked.outputs):
            theirs = [single.outputs[i] for single in singles if i < len(single.outputs)]
            if y.dim() and len(theirs) == len(singles) and all(t.dim() == y.dim() for t in theirs):
                expected = torch.cat(theirs) if _joined(y, theirs, 0) else y
                if y.shape == expected.shape and y is not expected and y.numel():
                    gaps.append(((y - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item())
        return max(gaps, default=float("nan"))

    def _gradients(self, stacked_model: nn.Module, stacked: _Run, looped_model: nn.Module, singles: list[_Run]) -> None:
        rays = len(self.rays)
        outputs: list[list[Tensor]] = []
        kept = []
        self.axes = []
        for i, y in enumerate(stacked.outputs):
            theirs = [single.outputs[i] for single in singles]
            self.axes.append(next((d for d in range(y.dim()) if _joined(y, theirs, d)), None))
            axis = self.axes[-1]
            if axis is not None:
                outputs.append(list(y.split([t.shape[axis] for t in theirs], dim=axis)))
            elif y.dim() and all(t.shape == y.shape[1:] for t in theirs):
                outputs.append(list(y.unbind()))
            else:
                continue
            kept.append(i)
        if not outputs or not any(part.requires_grad for parts in outputs for part in parts):
            self.notes.append(f"{self.mode}: no output to take gradients of")
            return
        sum((self.call.loss([parts[m] for parts in outputs]) for m in range(rays)), torch.zeros(())).backward()
        sum((self.call.loss([single.outputs[i] for i in kept]) for single in singles), torch.zeros(())).backward()
        self._same_gradients(stacked_model, looped_model)
        self.notes.append(f"{self.mode}: gradients and buffers agree")

    def _same_gradients(self, stacked_model: nn.Module, looped_model: nn.Module) -> None:
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
                    f"The gradient of {name!r} is another: an operation with a backward of its own, or a detached or "
                    "remembered tensor, treats rows together.",
                    "Let its backward treat rows one by one, or use one ray at a time in training.",
                    ((found - expected).abs().max() / scale).item(),
                )
        buffers = dict(looped_model.named_buffers())
        for name, buffer in stacked_model.named_buffers():
            if not close(buffer, buffers[name]):
                raise Parted(
                    "buffers",
                    name.rpartition(".")[0],
                    f"The buffer {name!r} ends with another value: it is updated once for all rays where a loop does "
                    "so ray by ray.",
                    "Freeze it, or use one ray at a time in training.",
                )

    def _merged(self, singles: list[_Run]) -> None:
        looped = self._copy()
        for ray, single in zip(self.rays, singles, strict=True):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that shared weights are untied
                    plain = merge(looped, ray)
            except Exception as error:
                raise Parted("merged", "", *said(error, "Until then use the adapted model.")) from error
            run = self._pass(plain)
            if run.error is not None:
                raise Parted("merged", run.at_module, *said(run.error, "Until then use the adapted model."))
            if not self._outputs_agree(run, [single]):
                event = first_parting(run.events, [single.events])
                raise Parted(
                    "merged",
                    "" if event is None else event.name,
                    "A merged copy computes something else there: the adapter is not used, or its weight is shared "
                    "with a module that has none (tied).",
                    "Call the layer itself, untie the weights, or leave that layer unadapted with exclude.",
                    self._gap(run, [single]),
                )
        self.notes.append(f"{self.mode}: merged copies agree")

    def _per_sample(self, singles: list[_Run]) -> None:
        model = self._copy()
        norms = [name for name, module in model.named_modules() if isinstance(module, RayNorm) and _of_batch(module)]
        if norms:
            self.notes.append(
                f"{self.mode}: a ray a sample is not compared: {', '.join(map(repr, norms[:4]))} normalise by the "
                "statistics of the whole batch, all its rays together, and merged copies by those of one ray's rows; "
                "that is how per_sample=True is meant, and no fault"
            )
            return
        hook = next((h for h in model._forward_pre_hooks.values() if isinstance(h, EnterPass)), None)
        args, kwargs = self.call.arguments()
        growth = None if hook is None else hook.rules.growth(args, kwargs)
        if growth is None:
            return
        which = torch.arange(growth.rows, device=self.rays.device) % len(self.rays)
        run = self._pass(model, at(model, self.rays[which], per_sample=True))
        if run.error is not None:
            self.notes.append(f"{self.mode}: a ray a sample is refused: {' '.join(said(run.error, ''))}".rstrip())
            return
        for i, (y, axis) in enumerate(zip(run.outputs, self.axes, strict=True)):
            theirs = [single.outputs[i] for single in singles]
            if axis is None or y.shape != theirs[0].shape or growth.rows == 0 or y.shape[axis] % growth.rows:
                continue
            y, each = y.movedim(axis, 0), torch.stack([t.movedim(axis, 0) for t in theirs])
            index = which.repeat_interleave(y.shape[0] // growth.rows)
            expected = each[index, torch.arange(y.shape[0], device=y.device)]
            if not close(y, expected):
                remedy = "Use the same ray for a whole batch."
                raise Parted("per sample", "", MIXED, remedy, (y - expected).abs().max().item())
        self.notes.append(f"{self.mode}: a ray a sample agrees")


def _of_batch(norm: RayNorm) -> bool:
    """Whether it normalises by the statistics of what it is given."""
    return norm.training or norm.running_mean is None


def _joined(y: Tensor, theirs: list[Tensor], d: int) -> bool:
    return all(t.dim() == y.dim() for t in theirs) and y.shape[d] == sum(t.shape[d] for t in theirs)
