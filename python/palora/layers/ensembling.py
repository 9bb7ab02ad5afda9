"""Turn any model into an ensemble in weight space, in place: PaMaL's members, of which a ray is a mixture."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from palora.layers import fast_paths
from palora.layers.ensemble_layers import (
    CHANNEL_NORMS,
    TRAILING_NORMS,
    EnsembleConv2d,
    EnsembleLinear,
    EnsembleNorm,
)
from palora.layers.norm import SWAPS, swap_in
from palora.layers.ray_layer import RayLayer
from palora.layers.refusals import UnsupportedModuleError, owners_of, refuse_layer, refuse_mixing
from palora.layers.state import RayState
from palora.layers.wiring import connect, replace_children

NORMS = (*CHANNEL_NORMS, *TRAILING_NORMS)


def ensemble(model: nn.Module, members: int | Sequence[nn.Module], independent: bool = True) -> nn.Module:
    """Give every parameter of ``model`` one copy a member; at a ray alpha it is their mixture (PaMaL, Eq. 2).

    Weights, biases and the scale and shift of normalisations are mixed; running statistics are shared. Then
    ``palora.at(model, rays)`` with rays (M, m) runs M mixtures in one pass, and ``palora.merge`` makes one of them a
    plain model.

    Args:
        model: Linear, Conv2d and normalisation layers, and modules without parameters of their own; the first member.
        members: m, how many members; or the further members themselves, models of the same structure.
        independent: the further members are initialised anew (by the model's ``reset_parameters``, else by that of
            every layer), as the paper does; False: they start as copies of the first.

    Returns:
        The same model, with m times the parameters (a norm that stands in a parent is replaced there).

    Raises:
        ValueError: m < 1, members of another structure, or a model with adapters or members already.
        UnsupportedModuleError: a module that mixes samples, or parameters that cannot be mixed.
    """
    others = _further_members(model, members, independent)
    if any(isinstance(module, RayLayer) for module in model.modules()):
        raise ValueError("`model` has adapters or members already. Use a fresh copy, or merge it first.")
    _refuse(model)
    parameters = dict(model.named_parameters())
    theirs = [dict(other.named_parameters()) for other in others]
    for number, found in enumerate(theirs, start=1):
        odd = set(found) ^ set(parameters) or {n for n, p in found.items() if p.shape != parameters[n].shape}
        if odd:
            raise ValueError(
                f"`members[{number - 1}]` should have the structure of `model`. It differs at {min(odd)!r}."
            )
    stacked = {
        id(p): nn.Parameter(torch.stack([q.detach() for q in (p, *(t[name] for t in theirs))]), p.requires_grad)
        for name, p in parameters.items()
    }
    _swap_layers(model, stacked, 1 + len(others))
    state = RayState(1 + len(others))
    for module in model.modules():
        if type(module) in SWAPS:
            swap_in(module, state, frozen=False)
    connect(model, state, [model])
    fast_paths.disable(model)
    return model


def reinitialise(model: nn.Module) -> None:
    """Fresh parameters, in place: by the model's own ``reset_parameters``, else by every layer's."""
    modules = [model] if hasattr(model, "reset_parameters") else model.modules()
    for module in modules:
        reset: Any = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()


def _further_members(model: nn.Module, members: int | Sequence[nn.Module], independent: bool) -> list[nn.Module]:
    if isinstance(members, Sequence):
        return list(members)
    if not isinstance(members, int) or isinstance(members, bool) or members < 1:
        raise ValueError(f"`members` should be an integer >= 1, or models. Found {members!r}.")
    others = [copy.deepcopy(model) for _ in range(members - 1)]
    for other in others if independent else []:
        reinitialise(other)
    return others


def _refuse(model: nn.Module) -> None:
    """All refusals come before the first change."""
    refuse_mixing(model)
    owners = owners_of(model)
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            refuse_layer(name, module, owners)
        elif not isinstance(module, NORMS) and any(p is not None for p in module._parameters.values()):
            raise UnsupportedModuleError(
                f"`model` holds {type(module).__name__} {name or '(itself)'!r} with parameters of its own, which "
                "cannot be mixed by a ray; only Linear, Conv2d and normalisation layers can."
            )


def _swap_layers(model: nn.Module, stacked: dict[int, nn.Parameter], members: int) -> None:
    replaced: dict[nn.Module, nn.Module] = {}
    for module in list(model.modules()):
        own = {name: stacked[id(p)] for name, p in module._parameters.items() if p is not None}
        if not own:
            continue
        layer = module
        if isinstance(module, NORMS):
            layer = replaced[module] = EnsembleNorm(module)
            layer.bias = None
        else:
            layer.__class__ = EnsembleConv2d if isinstance(module, nn.Conv2d) else EnsembleLinear
        for name, parameter in own.items():
            setattr(layer, name, parameter)
        layer.tasks = members  # type: ignore[assignment]
    replace_children(model, replaced)
