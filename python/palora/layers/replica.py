"""A second set of module objects over the same parameters, to run a model without leaving a trace in it."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict, deque
from typing import Any

import torch
from torch import Tensor, nn

_CONTAINERS = (list, dict, set, tuple, deque, OrderedDict)
_OURS = ("torch.", "palora.")


class NoReplica(Exception):
    """A model whose modules cannot be doubled."""


def replica(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Modules of their own, with buffers of their own and the same Parameters, which must not be written.

    Hooks that users registered are left out; those of torch and of palora stay. With ``dtype`` floating parameters and
    buffers are converted, and so are copies.
    """
    return _Doubling(dtype).module(model)


class _Doubling:
    def __init__(self, dtype: torch.dtype | None) -> None:
        self.dtype = dtype
        self.done: dict[int, nn.Module] = {}
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
            own[name] = OrderedDict((k, hook) for k, hook in module.__dict__[name].items() if functional_hook(hook))
        if "_compiled_call_impl" in own:
            own["_compiled_call_impl"] = None
        new.__dict__.update(own)
        return new

    def _value(self, value: Any, module: nn.Module, new: nn.Module) -> Any:
        if isinstance(value, types.MethodType) and value.__self__ is module:
            return types.MethodType(value.__func__, new)
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            return self._converted(value.detach().clone())
        if isinstance(value, nn.Module):
            return self.module(value)
        if type(value) in _CONTAINERS:
            return self._container(value)
        return value

    def _container(self, value: Any) -> Any:
        if type(value) in (list, tuple):
            return type(value)(self.module(item) if isinstance(item, nn.Module) else item for item in value)
        if isinstance(value, dict):
            return type(value)((k, self.module(v) if isinstance(v, nn.Module) else v) for k, v in value.items())
        return copy.copy(value)

    def _parameter(self, parameter: nn.Parameter | None) -> Any:
        if parameter is None or self.dtype is None or not parameter.is_floating_point():
            return parameter
        if id(parameter) not in self.tensors:
            self.tensors[id(parameter)] = nn.Parameter(parameter.detach().to(self.dtype), parameter.requires_grad)
        return self.tensors[id(parameter)]

    def _converted(self, tensor: Tensor) -> Tensor:
        return tensor if self.dtype is None or not tensor.is_floating_point() else tensor.to(self.dtype)


def _buffers(module: nn.Module) -> Any:
    return module._buffers.items()


def functional_hook(hook: Any) -> bool:
    """Hooks that compute something the model needs are objects of torch's classes: weight normalisation, pruning."""
    kind = type(hook)
    return kind is not types.FunctionType and kind is not types.MethodType and kind.__module__.startswith(_OURS)
