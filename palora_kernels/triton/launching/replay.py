"""What a plan does on the device, written down once and done again: the host's side of a warm call.

A plan chooses tiles, allocates, and starts kernels with some forty arguments each. All of it follows from the layouts
of its tensors and from its other arguments, never from values, so a second call with an equal `key` has the same steps:
`capture` writes them down in the first call, and every later one runs that `Program`: it allocates, starts compiled
kernels and calls those operations of PyTorch that the plan called. Nothing is chosen and no argument is built again.

A key holds what the steps depend on: of each tensor its absence, dtype, device, shape, strides and the alignment of its
address, which Triton compiles for; and what the process has set: how float32 products run, and what was tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from palora_kernels.triton.launching import configs, launch, tuning
from palora_kernels.triton.launching.capture import capture
from palora_kernels.triton.launching.program import Program, Tensors

Key = tuple[Hashable, ...]

_ON_AMD = torch.version.hip is not None
_LARGEST_BUFFER = 2**31 - 1  # bytes of a storage into which AMD's compiler takes 32-bit offsets


def layout(tensor: Tensor | None) -> Hashable:
    """All that a plan may know of a tensor. Of the address Triton's own cache knows as much: whether 16 divides it."""
    if tensor is None:
        return None
    address = tensor.data_ptr() & 15
    if _ON_AMD and tensor.untyped_storage().nbytes() > _LARGEST_BUFFER:
        address += 16
    return tensor.dtype, tensor.get_device(), tensor.shape, tensor.stride(), address


def key(tensors: Tensors) -> Key | None:
    """What a plan's steps depend on beside its arguments that are not tensors; ``tensors`` begin with x or its like.

    None where nothing may be taken from memory: while launches are recorded, a target or tile is assumed, or tiles are
    on trial.
    """
    if launch.is_recording() or configs.is_assumed() or tuning.trial() is not None:
        return None
    first = tensors[0]
    assert first is not None
    kind = first.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    switches = configs.switches(first.dtype), autocast, torch.are_deterministic_algorithms_enabled(), *_of_cudnn()
    return (*map(layout, tensors), kind, switches, tuning.generation())


def _of_cudnn() -> tuple[bool, bool, bool]:
    """What torch.backends.cudnn says, without its properties, which take ten times as long."""
    return torch._C._get_cudnn_enabled(), torch._C._get_cudnn_benchmark(), torch._C._get_cudnn_deterministic()


_MOST = 4096  # programs remembered; a process with more than this starts over
_programs: dict[Key, Program] = {}


def forget() -> None:
    """Capture everything anew: for tests that change what a plan depends on behind its back."""
    _programs.clear()


def perform(plan: Callable[..., Any], tensors: Tensors, arguments: tuple[Any, ...]) -> Any:
    """``plan(*tensors, *arguments)``, from memory where it was called before."""
    layouts = key(tensors)
    if layouts is None:
        return plan(*tensors, *arguments)
    where = (plan, frozen(arguments), layouts)
    program = _programs.get(where)
    if program is not None:
        return program(tensors)
    if len(_programs) >= _MOST:
        _programs.clear()
    _programs[where], result = capture(plan, tensors, arguments)
    return result


def frozen(arguments: Sequence[Any]) -> tuple[Any, ...]:
    """Arguments that are not tensors, as a key can hold them."""
    return tuple([tuple(a) if isinstance(a, list) else a for a in arguments])
