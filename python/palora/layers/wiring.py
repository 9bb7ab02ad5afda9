"""Connect layers to one state, and register the hooks of the expansion points; and undo it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from palora.layers.adapter import Adapter
from palora.layers.arguments import Rules
from palora.layers.expansion import EnterExpansion, EnterPass, LeaveExpansion, LeavePass
from palora.layers.inside import named_inside
from palora.layers.norm import RayNorm
from palora.layers.ray_layer import RayLayer
from palora.layers.state import RayState

HOOKS = (EnterExpansion, EnterPass, LeaveExpansion, LeavePass)


def ray_layers(model: nn.Module) -> dict[str, RayLayer]:
    """Every layer of a model whose weights depend on the ray, by name: adapted ones, and those with members."""
    return {name: module for name, module in named_inside(model) if isinstance(module, RayLayer)}


def ray_modules(model: nn.Module) -> list[RayLayer]:
    """The same without names: what `palora.at` asks for in every step, and what torch.compile can trace."""
    return [module for module in model.modules() if isinstance(module, RayLayer)]


def adapted_layers(model: nn.Module) -> dict[str, Adapter]:
    """Every adapted layer of a model by name; of a wrapped one (torch.compile, DDP, ...) by its name inside."""
    return {name: module for name, module in named_inside(model) if isinstance(module, Adapter)}


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What the adapters add to every layer, lora_A and lora_B, and magnitude of the family "dora": the parameters that
    learn T times faster in the papers' recipes."""
    return [p for layer in adapted_layers(model).values() for p in layer.own_parameters().values()]


def connect(
    model: nn.Module,
    state: RayState,
    points: Iterable[nn.Module],
    expand: Mapping[str, int] | None = None,
    keep: Sequence[str] = (),
    trial: bool = True,
) -> None:
    """Give all adapted and ray-wise layers of ``model`` this state; make ``points`` expand the batch.

    ``expand`` and ``keep`` name arguments of the points, see `Rules`; ``trial``: stacked passes are tried out first.
    """
    disconnect(model)
    for name, module in named_inside(model):
        if isinstance(module, (RayLayer, RayNorm)):
            module.rays_state = state
        if isinstance(module, RayLayer):
            module.rays_name = name
    rules = {id(module): Rules(module, expand or {}, list(keep)) for module in (model, *points)}
    # The pass opens before the model's own expansion, and closes after it.
    model.register_forward_pre_hook(EnterPass(state, rules[id(model)], trial), with_kwargs=True)
    for point in points:
        point.register_forward_pre_hook(EnterExpansion(state, rules[id(point)]), with_kwargs=True)
        point.register_forward_hook(LeaveExpansion(state), always_call=True)
    model.register_forward_hook(LeavePass(state, tuple(ray_layers(model))), always_call=True)


def disconnect(model: nn.Module) -> None:
    """Remove the hooks that `connect` registered anywhere in the model."""
    for module in model.modules():
        for hooks, flags in (
            (module._forward_pre_hooks, (module._forward_pre_hooks_with_kwargs,)),
            (module._forward_hooks, (module._forward_hooks_with_kwargs, module._forward_hooks_always_called)),
        ):
            for key in [k for k, hook in hooks.items() if isinstance(hook, HOOKS)]:
                del hooks[key]
                for flag in flags:
                    flag.pop(key, None)


def states_of(model: nn.Module) -> list[RayState | None]:
    """The distinct states of a model's adapted layers; None stands for layers that were never connected."""
    found: list[RayState | None] = []
    for layer in ray_modules(model):
        if all(layer.rays_state is not state for state in found):
            found.append(layer.rays_state)
    return found


def replace_children(model: nn.Module, replaced: Mapping[Any, nn.Module]) -> None:
    """Put modules in the place of others, wherever those stand in ``model``."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and child in replaced:
                parent._modules[name] = replaced[child]
