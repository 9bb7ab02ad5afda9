"""Compiled models are tried out too, before the compiled code runs: code that torch.compile traces cannot do it.

``torch.compile(model)`` is a module around the model, and ``model.compile()`` puts a function into it; `palora.at` is
given either, and here gets between. What compiles a function or a module around the model leaves no such place: there a
warning says once that nothing was tried out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from palora.layers import trial
from palora.layers.arguments import Rules
from palora.layers.inside import layers_of_wrapping
from palora.layers.splitting import note_places
from palora.layers.state import RayState


class UntriedWarning(UserWarning):
    """A model was compiled by what is around it, so that it was not tried out at several rays."""


class Tries:
    """Runs the trial of one model from outside its compiled code, and says where outputs have their rows."""

    def __init__(self, model: nn.Module, state: RayState, rules: Rules) -> None:
        self.model, self.state, self.rules = model, state, rules

    def before(self, module: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            return
        slot = self.state.current()
        if slot is not None and slot.depth == 0 and slot.mode != "one" and slot.trial is None and not slot.revived:
            slot.known = trial.known(self.model, self.state, self.rules, slot, args, kwargs)

    def after(self, module: nn.Module | None, args: tuple[Any, ...], output: Any) -> None:
        slot = None if torch.compiler.is_compiling() else self.state.current()
        if slot is not None and slot.mode == "many" and slot.known is not None and slot.known.outputs is not None:
            note_places(output, slot.known.outputs)


class TriedCall:
    """In the place of what ``model.compile()`` made."""

    def __init__(self, tries: Tries, compiled: Callable[..., Any]) -> None:
        self.tries, self.compiled = tries, compiled

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.tries.before(None, args, kwargs)
        output = self.compiled(*args, **kwargs)
        self.tries.after(None, args, output)
        return output


def try_before_compiled(outermost: nn.Module, model: nn.Module, state: RayState, rules: Rules) -> None:
    """Get before the compiled code in the wrappers from ``outermost`` to ``model``, if there is any, and once."""
    for module in layers_of_wrapping(outermost):
        if type(module).__name__ == "OptimizedModule":
            owners = [getattr(hook, "__self__", None) for hook in module._forward_pre_hooks.values()]
            ours = next((owner for owner in owners if isinstance(owner, Tries)), None)
            if ours is None:
                tries = Tries(model, state, rules)
                module.register_forward_pre_hook(tries.before, with_kwargs=True)
                module.register_forward_hook(tries.after)
            else:  # perhaps of an earlier adaptation
                ours.model, ours.state, ours.rules = model, state, rules
            return
        call = module._compiled_call_impl
        if call is not None:
            call = call.compiled if isinstance(call, TriedCall) else call
            module._compiled_call_impl = TriedCall(Tries(model, state, rules), call)
            return


@torch.compiler.assume_constant_result
def say_untried(number: int) -> None:
    """While a pass is traced: that the model of the state of this number was not tried out, unless it was."""
    state = RayState.by_number.get(number)
    if state is None or state.told_untried or state.findings.by_structure:
        return
    state.told_untried = True
    warnings.warn(
        "The adapted model runs at several rays inside code that torch.compile compiles around it, so it was not tried "
        "out whether samples see each other; call it once outside, compile the model itself, or run palora.check.",
        UntriedWarning,
        stacklevel=2,
    )
