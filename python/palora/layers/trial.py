"""Whose rows are whose is tried out, once for every form of a model's arguments, before its first stacked pass.

Shapes do not tell a token axis of M*n rows from the expanded batch, nor a table as long as the batch from a second
batch. So two batches of different samples run stacked, at two of the rays, and then each alone: every adapted layer
must see the rows of the first, then those of the second, and so must the outputs. Arguments that might or might not be
batches are tried either way. What does not come out is refused with the layer at which the two part.

A trial takes four times a small batch forward, without gradients, on a replica of the modules: see
`palora.layers.replica`, and `palora.layers.outside` for what their code changes elsewhere. Where it cannot run, rows
are counted as they come.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from palora.layers import private
from palora.layers.arguments import Rules
from palora.layers.comparing import Problem
from palora.layers.forms import Form
from palora.layers.known import Known
from palora.layers.outside import outside_kept
from palora.layers.routing import RowsError
from palora.layers.state import RayState, Slot
from palora.layers.trial_pass import Runner
from palora.layers.watching import Watch

_MOST_TRIES = 16  # ways to read the arguments that are tried


def known(
    model: nn.Module, state: RayState, rules: Rules, slot: Slot, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Known | None:
    """What is known of passes with arguments of this form, from an earlier trial or a new one; None: nothing.

    Raises:
        RowsError: a trial found rows whose ray is not known.
    """
    if slot.count < 2 or torch.compiler.is_compiling():
        return None
    growth = rules.growth(args, kwargs)
    if growth is None or growth.rows == 0:
        return None
    form = Form(model, rules, growth.rows, args, kwargs)
    there, found = state.findings.get(form)
    if not there:
        if not state.findings.room_for(form) or not _can_try(model, rules, args, kwargs):
            return None
        with outside_kept(model):
            found = _tried(model, state, rules, slot, args, kwargs)
        state.findings.put(form, found)
    if isinstance(found, Problem):
        raise RowsError(found.text, found.name)
    return found  # type: ignore[no-any-return]


def _can_try(model: nn.Module, rules: Rules, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if private.watched(Watch) or private.graph_task() != -1:
        return False
    tensors = [v for _, v in rules.tensors(args, kwargs)]
    for tensor in (*tensors, *model.parameters(), *model.buffers()):
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_meta or tensor.layout is not torch.strided:
            return False
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        kinds = {type(m).__name__ for m in model.modules()}
        return not any("FullySharded" in kind or "SyncBatchNorm" in kind for kind in kinds)
    return True


def _tried(
    model: nn.Module, state: RayState, rules: Rules, slot: Slot, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Known | Problem | None:
    """The first reading of the arguments under which stacked passes are as single ones; else what is wrong."""
    rays = torch.stack([slot.rays[0], slot.rays[-1]]).detach()
    runner = Runner(model, state, rules, rays)
    few = True
    found = runner.outcome(args, kwargs, {}, few)
    if found is None or found.problem is not None:  # perhaps because the batch was cut
        few = False
        found = runner.outcome(args, kwargs, {}, few)
    if found is None:
        return None
    if found.problem is None:
        return found.known
    for axes in _other_readings(found.open):
        another = runner.outcome(args, kwargs, axes, few)
        if another is not None and another.problem is None:
            return another.known
    if found.problem.by_value and found.random:
        return found.known  # draws that differ, or samples that see each other: it cannot be told
    if found.problem.by_value:
        exact = Runner(model, state, rules, rays, torch.float64).outcome(args, kwargs, {}, few)
        if exact is None or exact.problem is None:  # rounding, or nothing that can be shown
            return found.known if exact is None else exact.known
        found = exact
    problem = found.problem
    assert problem is not None
    if found.open and problem.by_error:
        names = ", ".join(f"`{path}`" for _, path in found.open)
        return Problem(
            f"Rays do not reach all arguments: {names} may or may not belong to the batch, and the model runs at many "
            f"rays in no reading ({problem.text}). Name it in `expand` or `keep` of palora.adapt."
        )
    return problem


def _other_readings(
    open_: dict[tuple[int, str], list[int | None]],
) -> Iterator[dict[tuple[int, str], int | None]]:
    """All combinations but the default one, those that differ from it in few arguments first."""
    keys = list(open_)
    every = itertools.islice(itertools.product(*(range(len(open_[k])) for k in keys)), 1, 4096)
    for choice in sorted(every, key=lambda c: sum(1 for i in c if i))[:_MOST_TRIES]:
        yield {k: open_[k][i] for k, i in zip(keys, choice, strict=True)}
