"""Plain copies and plain weights: what may stand between a layer and its weight is taken away, its value kept."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from palora.layers.inside import inside, named_inside, whole

_SHARDING = ("__composable_api_state_key", "_is_fsdp_managed_module", "_fsdp_use_orig_params")  # what FSDP2 notes


def computed(module: nn.Module, name: str) -> str | None:
    """What computes a tensor of ``module`` that should be a Parameter of its own, in words; None: it is one."""
    if name in module._parameters:
        return None
    if parametrize.is_parametrized(module, name):
        return "a parametrisation"
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, (WeightNorm, SpectralNorm)) and hook.name == name:
            return "weight_norm" if isinstance(hook, WeightNorm) else "spectral_norm"
        if isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == name:
            return "pruning"
    return "something else"


def bake(module: nn.Module) -> None:
    """Make Parameters of what parametrisations, weight_norm, spectral_norm and pruning compute, and remove those.

    In evaluation mode, as spectral_norm goes on estimating in training.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    if parametrize.is_parametrized(module):
        # The class that holds the properties is the original's too, and would lose them there.
        kind = type(module)
        own = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
        module.__class__ = type(kind.__name__, kind.__bases__, own)
        for name in list(module.parametrizations):  # type: ignore[arg-type]
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)
    for part, training in modes:
        part.training = training


def plain_copy(model: nn.Module) -> nn.Module:
    """A deep copy of the model inside, without wrappers, with whole tensors where FSDP2 has sharded them, and also
    where a tensor that a layer has computed (by weight_norm, say) stands among its attributes."""
    memo: dict[int, Any] = {}
    for _, module in named_inside(model):
        for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
            if isinstance(value, Tensor) and id(value) not in memo:
                _remember(value, memo)
        for name, hooks in vars(module).items():
            if name.endswith("hooks") and any(_of_distributed(hook) for hook in hooks.values()):
                kept = {key: hook for key, hook in hooks.items() if not _of_distributed(hook)}
                memo[id(hooks)] = type(hooks)(kept)
            elif name.startswith(_SHARDING[0]):
                memo[id(hooks)] = None
    with _unsharded_classes(model):
        wrappers = [module for module in model.modules() if inside(module) is not module]
        for wrapper in reversed(wrappers):  # the inner ones first
            memo[id(wrapper)] = copy.deepcopy(inside(wrapper), memo)
        copied: nn.Module = copy.deepcopy(inside(model), memo)
    for module in copied.modules():
        for name in [name for name in vars(module) if name.startswith(_SHARDING)]:
            delattr(module, name)
    return copied


def _remember(tensor: Tensor, memo: dict[int, Any]) -> None:
    part = tensor.detach()
    full = whole(part)
    if full is not part:  # it was sharded; of one process the whole may be the very part
        copied = full.clone()
        memo[id(tensor)] = nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
    elif tensor.grad_fn is not None:
        memo[id(tensor)] = full.clone()


def _of_distributed(hook: Any) -> bool:
    function = getattr(hook, "hook", getattr(hook, "func", hook))  # torch wraps some; of a partial
    owner = type(getattr(function, "__self__", function)).__module__
    return f"{owner} {getattr(function, '__module__', '')}".find("torch.distributed.") >= 0


@contextmanager
def _unsharded_classes(model: nn.Module) -> Iterator[None]:
    """fully_shard puts a class in front of a module's own that refuses to be copied."""
    sharded = [(m, type(m)) for m in model.modules() if any(c.__name__ == "FSDPModule" for c in type(m).__bases__)]
    try:
        for module, kind in sharded:
            module.__class__ = kind.__bases__[-1]
        yield
    finally:
        for module, kind in sharded:
            module.__class__ = kind
