"""A dispatch mode for trial passes: nothing is random, and rows that were chosen by values are known as such."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from palora.layers.ray_layer import RayLayer

# These write rows into a tensor of their own first argument's shape.
_WRITES = ("index_put", "index_copy", "index_add", "index_fill", "scatter", "masked_scatter", "masked_fill", "copy_")
_HALF = ("rand", "uniform", "normal", "randn", "rand_like", "randn_like", "exponential", "log_normal", "cauchy")


# These make another view of a tensor, or take only its shape.
_VIEWS = ("detach", "alias", "t", "transpose", "permute", "view", "unsqueeze", "squeeze", "expand", "slice", "select")
_SHAPES = ("_like", "new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided")


class ParameterWritten(Exception):
    """A model that writes its Parameters as it runs: a trial of it takes copies."""


class Watch(TorchDispatchMode):
    """Random draws give constants, the same for every row; `chosen` tells rows whose number depends on values.

    Attributes:
        read: adapted layers whose weight was computed with outside of them, with the operation.
        decided: truth values that the model asked for of what adapted layers had computed.
        random: whether something was random all the same.
        batch: tensors of the batch, by their memory; batch_written: whether one was changed in place.

    Args:
        model: what runs.
        shared: whether its Parameters are those of another model; `ParameterWritten` is raised before one is written.
    """

    def __init__(self, model: nn.Module | None = None, shared: bool = False) -> None:
        super().__init__()
        found = () if model is None or not shared else model.parameters()
        self.parameters = {_place(parameter) for parameter in found if parameter.numel()}
        self.read: dict[str, str] = {}
        self.decided: list[bool] = []
        self.inside = 0
        self.weights: dict[int, str] = {}
        self.follows: Any = WeakIdKeyDictionary()  # tensors that adapted layers have had a part in
        for layer in () if model is None else model.modules():
            if isinstance(layer, RayLayer):
                layer.register_forward_pre_hook(self._enters)
                layer.register_forward_hook(self._leaves, always_call=True)
                self.weights[_place(layer.base_weight())] = layer.rays_name
        for module in () if model is None else model.modules():
            if not isinstance(module, RayLayer):  # a weight that others have too is theirs to read
                for parameter in module._parameters.values():
                    if parameter is not None:
                        self.weights.pop(_place(parameter), None)
        self.dynamic: Any = WeakIdKeyDictionary()  # tensor -> the dimensions whose size depends on values
        self.random = False
        self.batch: dict[int, Tensor] = {}
        self.batch_written = False

    def takes(self, tensor: Tensor) -> Tensor:
        self.batch[_place(tensor)] = tensor
        return tensor

    def _enters(self, module: nn.Module, args: Any) -> None:
        self.inside += 1

    def _leaves(self, module: nn.Module, args: Any, output: Any) -> None:
        self.inside -= 1
        if isinstance(output, Tensor):
            self.follows[output] = True

    def chosen(self, x: Tensor) -> bool:
        return 0 in self.dynamic.get(x, ())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._overloadpacket.__name__ if hasattr(func, "_overloadpacket") else str(func)
        if torch.Tag.nondeterministic_seeded in func.tags:
            settled = _settled(name, func, args, kwargs)
            if settled is None:
                self.random = True
                return func(*args, **kwargs)
            return settled
        if func._schema.is_mutable and (self.parameters or self.batch):
            self._look_at_writes(func, args, kwargs)
        result = func(*args, **kwargs)
        self._follow(name, func, args, kwargs, result)
        if self.weights and not self.inside:
            self._behind(name, args, kwargs, result)
        return result

    def _look_at_writes(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse to write a Parameter that the model shares with others; note that the batch is."""
        for i, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for value in _flat((args[i] if i < len(args) else kwargs.get(argument.name),)):
                    place = _place(value) if isinstance(value, Tensor) and value.numel() else None
                    if place in self.parameters:
                        raise ParameterWritten
                    self.batch_written = self.batch_written or place in self.batch

    def _behind(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Weights that are read outside their layers, and decisions that rest on what layers computed."""
        given = [t for t in _flat((args, kwargs)) if isinstance(t, Tensor)]
        if any(t in self.follows for t in given):
            if name == "_local_scalar_dense" and given[0].dtype == torch.bool:
                self.decided.append(bool(result))
            for output in _flat((result,)):
                if isinstance(output, Tensor) and not _asks_for_nan(name, args):
                    self.follows[output] = True
        if name not in _VIEWS and not name.endswith(_SHAPES):
            for tensor in given:
                layer = self.weights.get(_place(tensor))
                if layer is not None:
                    self.read.setdefault(layer, name)

    def _follow(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        starts = torch.Tag.dynamic_output_shape in func.tags
        sizes = set()
        sources = args[:1] if name.startswith(_WRITES) else _flat((args, kwargs))
        for tensor in sources:
            for d in self.dynamic.get(tensor, ()) if isinstance(tensor, Tensor) else ():
                if d < tensor.dim():
                    sizes.add((d, tensor.shape[d]))
        if name == "index":
            self._indexed(args, result, sizes)
            return
        if name == "index_select" and args[2] in self.dynamic:
            self.dynamic[result] = {args[1] % max(result.dim(), 1)}
            return
        if starts and not (name == "repeat_interleave" and _uniform(args)):
            for output in _flat((result,)):
                if isinstance(output, Tensor) and output.dim() > 0:
                    self.dynamic[output] = {0}
            return
        if sizes:
            self._inherit(result, sizes)

    def _indexed(self, args: tuple[Any, ...], result: Tensor, sizes: set[tuple[int, int]]) -> None:
        x, indices = args[0], args[1]
        own = [i for i in indices if i is not None]
        if any(i.dtype in (torch.bool, torch.uint8) or i in self.dynamic for i in own):
            first = next(d for d, i in enumerate(indices) if i is not None)
            places = [d for d, i in enumerate(indices) if i is not None]
            apart = places != list(range(places[0], places[-1] + 1))
            self.dynamic[result] = {0 if apart else min(first, result.dim() - 1)}
        elif x in self.dynamic:
            self._inherit(result, sizes)

    def _inherit(self, result: Any, sizes: set[tuple[int, int]]) -> None:
        for output in _flat((result,)):
            if not isinstance(output, Tensor):
                continue
            found = set()
            for d, size in sizes:
                if d < output.dim() and output.shape[d] == size:
                    found.add(d)
                else:
                    found.update([e for e in range(output.dim()) if output.shape[e] == size][:1])
            if found:
                self.dynamic[output] = found


def _asks_for_nan(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a number is one, or finite: no decision about the batch."""
    if name in ("isnan", "isinf", "isfinite"):
        return True
    return name in ("eq", "ne") and (args[0] is args[1] or (isinstance(args[1], float) and abs(args[1]) == math.inf))


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else id(tensor)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in _flat(item)]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _flat(item)]
    return [value]


def _uniform(args: tuple[Any, ...]) -> bool:
    """repeat_interleave with one number of repeats for all."""
    repeats = args[0]
    return repeats.numel() == 0 or bool((repeats == repeats.flatten()[0]).all())


def _settled(name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a random operation returns in a trial: dropout keeps everything, draws are constants, samples the likeliest.

    Of a random permutation the reverse: rows that are exchanged between samples must not look untouched. None: it is
    not known how to settle this one.
    """
    if name in ("native_dropout", "dropout"):
        x = args[0].clone()
        return (x, torch.ones_like(x, dtype=torch.bool)) if name == "native_dropout" else x
    if name == "multinomial":
        return args[0].topk(args[1], dim=-1).indices
    if "scaled_dot_product" in name or name in ("_efficient_attention_forward", "_flash_attention_forward"):
        without = {"dropout_p": 0.0} if "dropout_p" in kwargs else {}
        return func(*_without_dropout(func, args), **{**kwargs, **without})
    base = name.rstrip("_")
    if base not in ("randperm", "bernoulli", "geometric", *_HALF) and not base.startswith(("randint", "random")):
        return None
    result = func(*args, **kwargs)
    if base == "randperm":
        return result.copy_(torch.arange(result.shape[0] - 1, -1, -1, device=result.device))
    if base in ("bernoulli", "geometric"):
        return result.fill_(1)
    if base in _HALF:
        return result.fill_(0.5)
    low = args[0] if len(args) > 2 and isinstance(args[1], int) and base == "randint" else 0
    return result.fill_(low if isinstance(low, int) else 0)


def _without_dropout(func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    names = [a.name for a in func._schema.arguments]
    place = names.index("dropout_p") if "dropout_p" in names else len(args)
    return tuple(0.0 if i == place else a for i, a in enumerate(args))
