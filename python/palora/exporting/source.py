"""A model as a Python file that imports torch alone: for who has the weights and not the class."""

from __future__ import annotations

import inspect
import math
import re
from typing import Any

import torch
from torch import Tensor, fx, nn

from palora.errors import PaloraError

_OURS = ("palora", "palora_kernels")

TEMPLATE = '''"""The architecture of {title}, in plain PyTorch. Written by palora {version}.

    model = Model()
    model.load_state_dict(torch.load("{weights}", weights_only=True))
    model.eval()
"""

from __future__ import annotations

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {{
{layers}
        }}
        for path, layer in layers.items():
            *parents, name = path.split(".")
            _within(self, parents).add_module(name, layer){tensors}

{forward}


def _within(module: nn.Module, parents: list[str]) -> nn.Module:
    for name in parents:
        if name not in dict(module.named_children()):
            module.add_module(name, nn.Module())
        module = module.get_submodule(name)
    return module
'''


def source(model: nn.Module, title: str, weights: str) -> str:
    """Python that defines a class ``Model`` with the computation and the state_dict keys of `model`.

    The computation is what torch.fx traces: straight-line code, the same for all inputs; layers of torch.nn are made by
    their constructors. `title` and `weights` (a file name) stand in its docstring. Raises PaloraError, with the reason,
    for a model that depends on its input's values, or that holds a layer whose constructor's arguments cannot be read.
    """
    from palora import __version__

    tracer = fx.Tracer()
    try:
        graph = tracer.trace(model)
    except Exception as error:  # whatever the model's own code raises when it is given proxies
        reason = str(error).split("\n")[0].rstrip(".")
        raise PaloraError(
            f"The forward of {type(model).__name__} cannot be written as plain code ({reason}): take another format, "
            "or write the weights alone with torch.save(palora.merge(model, ray).state_dict(), path)."
        ) from error
    for node in graph.nodes:
        node.type = None
    leaves = _leaves(model, tracer)
    layers = "\n".join(f'            "{name}": {construction(name, module)},' for name, module in leaves.items())
    return TEMPLATE.format(
        title=title,
        version=__version__,
        weights=weights,
        layers=layers,
        tensors=_tensors(model, set(leaves)),
        forward=_forward(graph),
    )


def _leaves(model: nn.Module, tracer: fx.Tracer) -> dict[str, nn.Module]:
    """The layers of torch.nn that the graph calls as they are."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if name and not inside and not isinstance(module, _CONTAINERS) and tracer.is_leaf_module(module, name):
            found[name] = module
    return found


def construction(name: str, module: nn.Module) -> str:
    """ "nn.Conv2d(1, 10, (5, 5))": the call that makes a layer like `module`; PaloraError where it cannot be read off.

    Every parameter of the constructor is an attribute of the layer, as PyTorch's simple layers have it; those at their
    defaults are left out.
    """
    kind = type(module)
    if getattr(nn, kind.__name__, None) is not kind:
        raise PaloraError(f"Layer {name!r} cannot be written as plain code: {kind.__name__} is not one of torch.nn.")
    positional: list[str] = []
    named: list[str] = []
    for parameter in inspect.signature(kind.__init__).parameters.values():
        if parameter.name in ("self", "device", "dtype") or kind is nn.Identity:  # which takes anything, and drops it
            continue
        value = getattr(module, parameter.name, _MISSING)
        value = value is not None if parameter.name == "bias" and not isinstance(value, bool) else value
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or not _literal(value):
            raise PaloraError(
                f"Layer {name!r} cannot be written as plain code: `{parameter.name}` of {kind.__name__} cannot be read."
            )
        if parameter.default is parameter.empty:
            positional.append(repr(value))
        elif not _equal(value, parameter.default):
            named.append(f"{parameter.name}={value!r}")
    return f"nn.{kind.__name__}({', '.join(positional + named)})"


_MISSING = object()
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def _literal(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_literal, value))
    return value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))


def _equal(value: Any, default: Any) -> bool:
    """Convolutions keep 1 as (1, 1)."""
    if isinstance(value, tuple) and not isinstance(default, tuple):
        return all(part == default for part in value)
    return type(value) is type(default) and bool(value == default)


def _tensors(model: nn.Module, leaves: set[str]) -> str:
    """The lines that make parameters and buffers which stand outside of those layers."""
    lines = []
    inside = tuple(f"{name}." for name in leaves)
    kept = set(model.state_dict())
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for path, tensor in tensors.items():
        if path.startswith(inside) or path not in kept:
            continue
        parent, _, name = path.rpartition(".")
        made = f"torch.empty({tuple(tensor.shape)}, dtype={tensor.dtype})"
        where = f"_within(self, {parent.split('.') if parent else []!r})"
        call = f"register_parameter({name!r}, nn.Parameter({made}))"
        lines.append(f"{where}.{call if isinstance(tensor, nn.Parameter) else f'register_buffer({name!r}, {made})'}")
    return "".join(f"\n        {line}" for line in lines)


def _forward(graph: fx.Graph) -> str:
    """The method, indented; what torch.fx writes to free memory early is left out."""
    code = graph.python_code("self")
    text = re.sub(r";  (\w+ = )+None\b", "", code.src)
    for name, value in code.globals.items():
        used = re.search(rf"(?<![\w.\"]){re.escape(name)}\b", text)
        if used and value is not torch and name != "getattr":
            raise PaloraError(f"The forward cannot be written as plain code: it uses {name}, which is not of torch.")
    if any(re.search(rf"\b{name}\b", text) for name in _OURS):
        raise PaloraError("The forward cannot be written as plain code: it calls an operation of palora.")
    lines = [line.rstrip() for line in text.strip().splitlines() if line.strip()]
    return "\n".join(f"    {line}" for line in lines)
