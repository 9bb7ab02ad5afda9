"""A second set of module objects over the same parameters, to run a model without leaving a trace in it."""

from __future__ import annotations

import types
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from palora.layers.copies import Copies

_OURS = ("torch.", "palora.")


class NoReplica(Exception):
    """A model whose modules cannot be doubled."""


def replica(model: nn.Module, dtype: torch.dtype | None = None, own_parameters: bool = False) -> nn.Module:
    """Modules of their own, with buffers of their own and the same Parameters, which must not be written.

    What modules hold beside that is copied as far as it goes, and so is what hooks of users hold. Palora's own objects
    and torch's are shared. With ``dtype`` floating parameters and buffers are converted, and so are copies; with
    ``own_parameters`` they are copies in any case, for models that write them as they run.
    """
    return _Doubling(dtype, own_parameters).module(model)


class _Doubling:
    def __init__(self, dtype: torch.dtype | None, own_parameters: bool) -> None:
        self.dtype, self.own_parameters = dtype, own_parameters
        self.done: dict[int, nn.Module] = {}
        self.copies = Copies(self.module, self._tensor)
        self.tensors: dict[int, Tensor] = {}

    def module(self, module: nn.Module) -> nn.Module:
        if id(module) in self.done:
            return self.done[id(module)]
        if isinstance(module, torch.jit.ScriptModule):
            raise NoReplica("a module of TorchScript")
        inner = module._modules.get("_orig_mod")
        if inner is not None and type(module).__name__ == "OptimizedModule":
            return self.module(inner)  # torch.compile's wrapper: what it wraps
        new = module.__class__.__new__(module.__class__)
        self.done[id(module)] = new
        own = {name: self._value(value, module, new) for name, value in module.__dict__.items()}
        own["_parameters"] = {n: self._parameter(p) for n, p in module._parameters.items()}
        own["_buffers"] = {n: None if b is None else self._converted(b.detach().clone()) for n, b in _buffers(module)}
        own["_modules"] = {n: None if m is None else self.module(m) for n, m in module._modules.items()}
        for name in ("_forward_hooks", "_forward_pre_hooks"):
            hooks = module.__dict__[name].items()
            own[name] = OrderedDict((k, hook_without_traces(hook, self.copies)) for k, hook in hooks)
        if "_compiled_call_impl" in own:
            own["_compiled_call_impl"] = None
        new.__dict__.update(own)
        return new

    def _value(self, value: Any, module: nn.Module, new: nn.Module) -> Any:
        if isinstance(value, types.MethodType) and value.__self__ is module:
            return types.MethodType(value.__func__, new)
        return self.copies.of(value)

    def _tensor(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, nn.Parameter):
            return self._parameter(tensor)  # type: ignore[no-any-return]
        return self._converted(tensor.detach().clone())

    def _parameter(self, parameter: nn.Parameter | None) -> Any:
        convert = self.dtype is not None and parameter is not None and parameter.is_floating_point()
        if parameter is None or not (convert or self.own_parameters):
            return parameter
        if id(parameter) not in self.tensors:
            data = self._converted(parameter.detach())
            data = data.clone() if self.own_parameters else data
            self.tensors[id(parameter)] = nn.Parameter(data, parameter.requires_grad)
        return self.tensors[id(parameter)]

    def _converted(self, tensor: Tensor) -> Tensor:
        return tensor if self.dtype is None or not tensor.is_floating_point() else tensor.to(self.dtype)


def _buffers(module: nn.Module) -> Any:
    return module._buffers.items()


def hook_without_traces(hook: Any, copies: Copies) -> Any:
    """Hooks of torch and palora as they are; others over copies of what they hold, and without a word if they fail:
    what they return takes part in the model."""
    if _functional(hook):
        return hook
    if type(hook).__module__.startswith("torchjd."):
        return _nothing  # it looks for a graph
    copied = copies.of_function(hook)

    def quiet(*args: Any) -> Any:
        try:
            return copied(*args)
        except Exception:
            return None

    return quiet


def _functional(hook: Any) -> bool:
    """Hooks that compute something the model needs are objects of torch's classes: weight normalisation, pruning."""
    kind = type(hook)
    return kind is not types.FunctionType and kind is not types.MethodType and kind.__module__.startswith(_OURS)


def _nothing(*args: Any) -> None:
    """A hook that is left out."""
