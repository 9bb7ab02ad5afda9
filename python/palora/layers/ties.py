"""Parameters that several modules share: an embedding and its head, two layers of one weight."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import nn

Users = list[tuple[str, nn.Module, str]]  # name of the module, the module, name of the parameter in it


def shared_parameters(model: nn.Module, concerned: Callable[[nn.Module], bool]) -> list[Users]:
    """The users of every Parameter that more than one module holds, at least one of them ``concerned``."""
    users: dict[int, Users] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                users.setdefault(id(parameter), []).append((prefix, module, name))
    return [group for group in users.values() if len(group) > 1 and any(concerned(module) for _, module, _ in group)]


def untie(groups: list[Users]) -> None:
    """A Parameter of its own for every user."""
    for group in groups:
        for _, module, name in group[1:]:
            old = module._parameters[name]
            assert old is not None
            module._parameters[name] = nn.Parameter(old.detach().clone(), old.requires_grad)


def tie_again(groups: list[Users], model: nn.Module) -> None:
    """One Parameter again for those whose values are still equal; a warning names the others."""
    apart = []
    for group in groups:
        found = [module._parameters.get(name) for _, module, name in group]
        first = found[0]
        if first is not None and all(p is not None and p.shape == first.shape and torch.equal(p, first) for p in found):
            for _, module, name in group:
                module._parameters[name] = first
        else:
            apart.append(" and ".join(f"{prefix}.{name}" if prefix else name for prefix, _, name in group))
    if not apart:
        return
    config = getattr(model, "config", None)
    if getattr(config, "tie_word_embeddings", False):
        config.tie_word_embeddings = False  # type: ignore[union-attr]  # or loading it would tie them again
    warnings.warn(
        f"Weights that are shared in the adapted model are untied in the merged one ({'; '.join(apart)}): an adapter "
        "changes the weight of its own layer alone.",
        stacklevel=3,
    )
