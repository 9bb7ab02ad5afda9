"""Modules that rays cannot pass through as they are: each is refused with the reason and a remedy.

Two kinds: modules that mix samples of different rays, and modules that read a submodule's weight directly, so that an
adapter on it would silently be left out.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.lazy import LazyModuleMixin

from palora.layers.inside import named_inside, synchroniser
from palora.layers.norm import SWAPS, RayNorm

SEQUENCE_FIRST = (nn.RNNBase, nn.MultiheadAttention, nn.Transformer)


class UnsupportedModuleError(TypeError):
    """A module that cannot be adapted, or that rays cannot pass through; ``module``: its name, if known."""

    module: str = ""


def _softmax_over_batch(module: nn.Module) -> bool:
    return isinstance(module, (nn.Softmax, nn.LogSoftmax, nn.Softmin)) and module.dim in (0, None)


def _or_may(module: nn.Module) -> str:
    return ", for inputs of three dimensions; say which with dim=..." if module.dim is None else ""


def mixing_reason(module: nn.Module) -> str | None:
    """Why this module would mix the rows of different rays, or None."""
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        return "its parameters do not exist yet; run the model once before adapting it"
    if isinstance(module, (*SWAPS, RayNorm)):
        return None if type(module) in SWAPS or isinstance(module, RayNorm) else _subclass_of_norm(module)
    if isinstance(module, _BatchNorm):
        return _subclass_of_norm(module)
    if isinstance(module, _InstanceNorm) and module.track_running_stats:
        return "its running statistics average over the rows of all rays; use track_running_stats=False"
    if isinstance(module, SEQUENCE_FIRST) and not module.batch_first:
        return (
            "it expects the batch in dimension 1; rays are stacked in dimension 0: use batch_first=True, or say that "
            "its batch is there with rows={name: 1} of palora.adapt"
        )
    if isinstance(module, nn.EmbeddingBag):
        return "its bags are not rows of a batch; use nn.Embedding and a sum"
    if isinstance(module, nn.Embedding) and module.scale_grad_by_freq:
        return "it divides gradients by counts over the batch of all rays; use scale_grad_by_freq=False"
    if _softmax_over_batch(module):
        return f"it normalises over the batch dimension, across rays{_or_may(module)}"
    if isinstance(module, nn.Flatten) and module.start_dim == 0:
        return "it flattens the batch dimension, and with it the rays"
    return None


def _subclass_of_norm(module: nn.Module) -> str:
    return (
        f"{type(module).__name__} is a subclass of a batch normalisation with a forward of its own; "
        "replace it by the torch.nn class, or evaluate one ray at a time"
    )


def refuse_mixing(model: nn.Module, batch_second: Callable[[str], bool] = lambda name: False) -> None:
    """Raise UnsupportedModuleError for the first module that would mix rays.

    ``batch_second(name)``: whether a module is declared to have its batch in dimension 1, as it is.
    """
    for name, module in model.named_modules():
        if isinstance(module, SEQUENCE_FIRST) and batch_second(name):
            continue
        reason = mixing_reason(module)
        if reason is not None:
            raise UnsupportedModuleError(
                f"`model` holds {type(module).__name__} {name or '(itself)'!r}, which rays cannot pass: {reason}."
            )


def refuse_wrapped(model: nn.Module) -> None:
    """Raise UnsupportedModuleError where adapters come too late: their gradients would stay with each process."""
    wrapper = synchroniser(model)
    if wrapper is None and any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
        wrapper = "fully_shard"
    if wrapper is not None:
        raise UnsupportedModuleError(
            f"`model` is under {wrapper} already, which would not synchronise the adapters' gradients; adapt the plain "
            "model first, then wrap it."
        )


def adaptable(module: nn.Module) -> bool:
    """Whether this is a layer that adapters are meant for (it may still be refused)."""
    return isinstance(module, (nn.Linear, nn.Conv2d))


def refuse_layer(name: str, module: nn.Module, owners: dict[int, tuple[str, nn.Module]]) -> None:
    """Raise UnsupportedModuleError where an adapter on this layer would not be seen or not be right."""
    owner_name, owner = owners.get(id(module), ("", None))
    if isinstance(owner, nn.MultiheadAttention):
        raise UnsupportedModuleError(
            f"nn.MultiheadAttention {owner_name!r} reads its projections' weights directly, so an adapter on {name!r} "
            f"would be ignored; leave attention unadapted with exclude=['{owner_name or '*'}*'], or write its "
            "projections as nn.Linear."
        )
    if _of_peft(owner):
        raise UnsupportedModuleError(
            f"{name!r} belongs to PEFT's {type(owner).__name__} {owner_name!r}; merge PEFT's adapters first, with "
            "merge_and_unload(), or leave it unadapted with exclude=[...]."
        )
    if type(module) not in (nn.Linear, nn.Conv2d):
        raise UnsupportedModuleError(
            f"{name!r} is a {type(module).__name__}, a subclass with behaviour of its own (quantised, parametrised or "
            f"custom); exclude it with exclude=[{name!r}], or replace it by torch.nn.{_base(module)}."
        )
    if "weight" not in module._parameters:
        raise UnsupportedModuleError(
            f"The weight of {name!r} is not a parameter of its own (weight or spectral normalisation, or pruning); "
            f"remove that first, or exclude it with exclude=[{name!r}]."
        )
    weight = module._parameters["weight"]
    if weight is not None and not weight.is_floating_point():
        raise UnsupportedModuleError(
            f"The weight of {name!r} has dtype {weight.dtype}; only real floating point weights are supported, no "
            f"quantised or complex ones. Exclude it with exclude=[{name!r}]."
        )


def _base(module: nn.Module) -> str:
    return "Linear" if isinstance(module, nn.Linear) else "Conv2d"


def owners_of(model: nn.Module) -> dict[int, tuple[str, nn.Module]]:
    """id of a module -> (name, parent module), for parents that read their children's weights, and PEFT's layers."""
    found: dict[int, tuple[str, nn.Module]] = {}
    for name, module in named_inside(model):
        if isinstance(module, nn.MultiheadAttention) or _of_peft(module):
            for child in module.modules():
                found.setdefault(id(child), (name, module))
    return found


def _of_peft(module: nn.Module | None) -> bool:
    """Whether this is a layer of PEFT: the wrapped one under "base_layer", its own adapters beside it by name."""
    if module is None or not isinstance(module._modules.get("base_layer"), nn.Module):
        return False
    return type(module).__module__.split(".")[0] == "peft" or any(
        isinstance(child, (nn.ModuleDict, nn.ParameterDict)) and name.startswith(("lora_", "ia3_", "hada_", "oft_"))
        for name, child in module._modules.items()
    )
