"""The model inside what PyTorch wraps around it: names, files and merged models are those of the model inside.

``torch.compile``, DataParallel, DDP, FSDP, AveragedModel and checkpoint wrappers hold the model as their one child and
put a word in front of its names; ``fully_shard`` (FSDP2) wraps nothing, but shards the parameters themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

# class name -> attribute; by name, as importing torch.distributed only to ask costs time and fails where it is absent.
_WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
    "OffloadWrapper": "_checkpoint_wrapped_module",
}
_SYNCHRONISING = ("DistributedDataParallel", "FullyShardedDataParallel")


def _child(module: nn.Module) -> str | None:
    """The attribute under which a wrapper holds the model; None for any other module."""
    if isinstance(module, AveragedModel):
        return "module"
    for kind in type(module).__mro__:
        if kind.__module__.split(".")[0] == "torch" and kind.__name__ in _WRAPPERS:
            return _WRAPPERS[kind.__name__]
    return None


def layers_of_wrapping(model: nn.Module) -> Iterator[nn.Module]:
    """``model``, what it wraps, what that wraps, down to the model inside."""
    yield model
    name = _child(model)
    while name is not None:
        model = getattr(model, name)
        yield model
        name = _child(model)


def inside(model: nn.Module) -> nn.Module:
    """``model`` without the wrappers around it."""
    name = _child(model)
    while name is not None:
        model = getattr(model, name)
        name = _child(model)
    return model


def synchroniser(model: nn.Module) -> str | None:
    """The class of a wrapper in or around ``model`` that synchronises the parameters it had when it was made."""
    for module in model.modules():
        for kind in type(module).__mro__:
            if kind.__name__ in _SYNCHRONISING and kind.__module__.split(".")[0] == "torch":
                return kind.__name__
    return None


def named_inside(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """As ``model.named_modules()``, each module once, without wrappers and under the names that it has without them."""
    seen: set[int] = set()

    def walk(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
        module = inside(module)
        if id(module) in seen:
            return
        seen.add(id(module))
        yield name, module
        for own, child in module._modules.items():
            if child is not None:
                yield from walk(child, f"{name}.{own}" if name else own)

    return walk(model, "")


def unwrap_children(model: nn.Module) -> None:
    """Put the modules inside in the place of their wrappers, anywhere below ``model``."""
    for _, module in list(named_inside(model)):
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = inside(child)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that FSDP2 or tensor parallelism has sharded, gathered from all processes; any other as it is.

    Every process has to ask.
    """
    gather: Any = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def sharded_as(target: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor cut for this process as ``target`` is; as it is where that is not sharded."""
    if getattr(target, "full_tensor", None) is None:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = target
    return distribute_tensor(tensor.to(target.device), sharded.device_mesh, sharded.placements)
