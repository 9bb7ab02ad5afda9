"""From n rows to M*n rows, once, where a pass enters an expansion point.

Rows are ray-major: ray 0's n samples first. Between expansion and the output nothing needs to know about rays.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from palora.layers import private, trial
from palora.layers.arguments import Growth, Rules
from palora.layers.compiled import say_untried
from palora.layers.ray_layer import RayLayer
from palora.layers.routing import RowsError
from palora.layers.splitting import note_places
from palora.layers.state import Expanded, RayState, Slot
from palora.trees import hidden_tensors


class UnusedAdapterWarning(UserWarning):
    """Adapters that a pass of their model left out; ``warnings.simplefilter("error", ...)`` makes it an error."""


class ReducedOutputWarning(UserWarning):
    """A model returned one number for all rays of a pass, a loss of its own perhaps."""


class EnterPass:
    """Forward pre-hook of the adapted model: a new pass begins, its batch size is not known yet."""

    def __init__(self, state: RayState, rules: Rules, tried: bool = True) -> None:
        self.state = state
        self.rules = rules
        self.trial = tried

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        slot = self.state.current()
        if slot is None:
            return
        if slot.depth == 0:
            slot.rows = None
            if torch.compiler.is_compiling():
                learned = None if slot.known is None else slot.known.learned(self.rules)
                if slot.mode != "one" and slot.known is None and self.trial:
                    say_untried(self.state.number)
                if slot.mode == "per_sample":
                    _check_batch(slot, self.rules.growth(args, kwargs, learned), args, kwargs)
            elif not slot.revived:
                slot.used = set()
                if slot.mode != "one" and slot.trial is None:
                    slot.known = trial.known(module, self.state, self.rules, slot, args, kwargs) if self.trial else None
                    if slot.mode == "per_sample":
                        learned = None if slot.known is None else slot.known.learned(self.rules)
                        _check_batch(slot, self.rules.growth(args, kwargs, learned), args, kwargs)
        slot.depth += 1


def _check_batch(slot: Slot, growth: Growth | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if growth is None or growth.rows == slot.count:
        return
    shapes = [tuple(v.shape) for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
    raise RowsError(
        f"The batch should have one row a ray of `rays` (per_sample=True): {slot.count} rows, and inside the model a "
        f"multiple of {slot.count}. Found a batch of {growth.rows} in arguments of shape "
        f"{', '.join(map(str, shapes))}; packed rows are given to rays with palora.at(..., rows=...)."
    )


class LeavePass:
    """Forward hook that ends what `EnterPass` began, also after an exception; and names layers that were left out."""

    def __init__(self, state: RayState, names: tuple[str, ...]) -> None:
        self.state = state
        self.names = names

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        slot = self.state.current()
        if slot is None:
            return
        slot.depth = max(slot.depth - 1, 0)
        if slot.depth > 0 or torch.compiler.is_compiling() or slot.revived or slot.trial is not None:
            return
        if slot.mode == "many" and slot.known is not None and slot.known.outputs is not None:
            self._locate(output, slot)
        if output is not None and len(slot.used) < len(self.names):  # None: the pass failed
            self._report(module, slot.used)

    def _locate(self, output: Any, slot: Slot) -> None:
        note_places(output, slot.known.outputs)
        if "one" in slot.known.outputs and not self.state.told_reduced:
            self.state.told_reduced = True
            warnings.warn(
                f"The model returned one number for all {slot.count} rays, perhaps a loss: it is a sum or a mean over "
                "every ray's rows, and no preference weighs it. Return a value a row (reduction='none') and take "
                "palora.split of that, or use one ray at a time.",
                ReducedOutputWarning,
                stacklevel=2,
            )

    def _report(self, model: nn.Module, used: set[str]) -> None:
        idle = [name for name in self.names if name not in used and name not in self.state.reported]
        self.state.reported.update(idle)
        if idle:  # layers may have been taken out of the model
            there = {layer.rays_name for layer in _ray_layers(model)}
            idle = [name for name in idle if name in there]
        if idle:  # compiled code does not say which layers it runs
            compiled = tuple(name for name, module in model.named_modules() if _is_compiled(module))
            hidden = {layer.rays_name for name in compiled for layer in _ray_layers(model.get_submodule(name))}
            idle = [name for name in idle if name not in hidden]
        if idle:
            some = ", ".join(repr(name) for name in idle[:8]) + (f" and {len(idle) - 8} more" if len(idle) > 8 else "")
            warnings.warn(
                f"A pass did not apply the adapters of {some}: the layers were not called, though their weights may "
                "have been used in another way. Leave them unadapted with `exclude` if that is always so.",
                UnusedAdapterWarning,
                stacklevel=2,
            )


def _is_compiled(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None or type(module).__name__ == "OptimizedModule"


def _ray_layers(module: nn.Module) -> list[RayLayer]:
    return [child for child in module.modules() if isinstance(child, RayLayer)]


class EnterExpansion:
    """Forward pre-hook of an expansion point: expand every batch-first tensor argument from n to M*n rows."""

    def __init__(self, state: RayState, rules: Rules) -> None:
        self.state = state
        self.rules = rules

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        slot = self.state.current()
        if slot is None:
            return args, kwargs
        if slot.revived and slot.mode == "many":
            slot = self._recomputed(slot, args, kwargs)
        slot.inside += 1
        if slot.inside == 1 and not torch.compiler.is_compiling():
            # Without gradients: the node inside which this runs, reentrant checkpointing's perhaps.
            slot.first_node = private.next_number() - (0 if torch.is_grad_enabled() else 1)
        if slot.inside > 1:
            return args, kwargs
        if slot.trial is not None:
            return slot.trial.enter(self.rules, slot, args, kwargs)  # type: ignore[no-any-return]
        if slot.mode != "many":
            return args, kwargs
        return expand_arguments(self.rules, slot, args, kwargs)

    def _recomputed(self, slot: Slot, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Slot:
        """A recomputation that begins before this point, with n rows, gets a slot of its own that expands them."""
        learned = None if slot.known is None else slot.known.learned(self.rules)
        growth = self.rules.growth(args, kwargs, learned)
        if growth is None or slot.rows not in (None, growth.rows) or slot.count == 1:
            return slot
        fresh = slot.like(private.graph_task())
        fresh.rows, fresh.opened = None, object()
        self.state.enter(fresh, fresh.opened)
        return fresh


class LeaveExpansion:
    """Forward hook that ends what `EnterExpansion` began, also after an exception."""

    def __init__(self, state: RayState) -> None:
        self.state = state

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        slot = self.state.current()
        if slot is None:
            return
        slot.inside = max(slot.inside - 1, 0)
        if slot.inside > 0:
            return
        if not torch.compiler.is_compiling() and slot.trial is None:
            self._remember(slot)
        slot.expanded = []
        if slot.opened is not None:
            self.state.leave(slot.opened)
        elif slot.depth == 0:
            slot.rows = None

    def _remember(self, slot: Slot) -> None:
        if torch.is_grad_enabled():
            last = private.next_number()
            self.state.remember(last if slot.first_node is None else slot.first_node, last, slot)
        elif not torch.is_inference_mode_enabled() and slot.first_node is not None:
            self.state.remember_without_graph(slot.first_node, slot)


def expand_arguments(
    rules: Rules, slot: Slot, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Repeat every tensor that has the batch, M times in the dimension where it has it."""
    growth = rules.growth(args, kwargs, None if slot.known is None else slot.known.learned(rules))
    if growth is None:
        raise ValueError(
            "The model was called under several rays without a tensor argument to expand. "
            "Pass the batch as a tensor, or use one ray at a time."
        )
    if slot.rows is not None and growth.rows == slot.rows * slot.count:
        return args, kwargs  # an earlier expansion point of this pass has expanded it already
    slot.rows = growth.rows
    if slot.count == 1:
        return args, kwargs

    def grown(path: str, value: Tensor) -> Tensor:
        axis = growth.axes[path]
        if axis is None:
            return value
        if value.layout not in (torch.strided, torch.sparse_coo):
            raise TypeError(
                f"Argument `{path}` should be a dense tensor under {slot.count} rays. Found one of layout "
                f"{value.layout}; use .to_dense(), or name it in `keep` of palora.adapt if it has no batch."
            )
        compiling = torch.compiler.is_compiling()
        if not compiling and torch.is_inference_mode_enabled():
            with torch.inference_mode(False), torch.no_grad():  # tensors of inference mode have no version
                many = torch.cat([value] * slot.count, dim=axis)
        else:
            many = torch.cat([value] * slot.count, dim=axis)  # keeps channels_last, unlike repeat
        version = 0 if compiling else many._version
        if axis == 0 and (slot.known is None or not slot.known.written):
            slot.expanded.append(Expanded(many, value, version))
        return many

    def refuse(leaf: Any) -> Any:
        if isinstance(leaf, PackedSequence) or any(t.shape[0] == growth.rows for t in hidden_tensors(leaf)):
            raise TypeError(
                f"The model was called under {slot.count} rays with a {type(leaf).__name__}, whose tensors cannot be "
                "expanded to a row a ray. Pass tensors, or tuples, lists, mappings or dataclasses of them."
            )
        return leaf

    return rules.map(args, kwargs, grown, refuse)
