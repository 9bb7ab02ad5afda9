"""What a CUDA graph cannot repeat: operations that need the host, seen while a step runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class Watch(TorchDispatchMode):
    """``with Watch() as seen:`` collects in `seen.found` what a graph would freeze or refuse, by name.

    That are results the host has to know (a value, or a size that follows from values), copies between devices, and
    operations that mix tensors of the host and of a device. Everything runs as it would without.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        tensors = [*_tensors((args, kwargs)), *_tensors(out)]
        if _needs_values(func, args):
            self._note(func, "gives the host a value")
        elif len({tensor.device.type for tensor in tensors}) > 1:
            self._note(func, "takes tensors of the host and of the device")
        return out

    def _note(self, func: Any, what: str) -> None:
        text = f"{func.name().removeprefix('aten::')} {what}"
        if text not in self.found:
            self.found.append(text)


def _needs_values(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether the host waits for the device: for a number, or to know how large the result is."""
    packet = func.overloadpacket
    if packet in (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_):
        return any(mask.dtype in (torch.bool, torch.uint8) for mask in _tensors(args[1]))
    return torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags


def _tensors(values: Any) -> Iterator[Tensor]:
    return (value for value in pytree.tree_leaves(values) if isinstance(value, Tensor))
