"""The one place that starts kernels: the same path on a device and in the interpreter.

`recording` writes launches down instead of performing them. What the catalogue compiles and what the roofline counts
are such records of the plans themselves, on tensors of the meta device, so neither can disagree with what runs.
"""

from __future__ import annotations

import contextvars
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from palora_kernels.triton.launching.availability import interpreted

_POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}

# Whether a compiler may contract a·b + c to one rounding. Asked for by name: the default differs between releases of
# Triton. Compilation ahead of time asks for the same.
FP_FUSION = True

_records: list[Launch] | None = None
_local = threading.local()  # .watcher: who is told of this thread's launches


@dataclass(frozen=True)
class Launch:
    """One kernel launch: ``arguments`` holds tensors, integers, None and the values of the constants, by name."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]
    num_warps: int
    num_stages: int

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__)

    def constants(self) -> dict[str, Any]:
        """Values that the compilation fixes: tl.constexpr parameters, None, and integers equal to 1, as at a launch."""
        fixed = _constexpr_names(self.kernel)
        return {
            name: value
            for name, value in self.arguments.items()
            if name in fixed or value is None or (isinstance(value, int) and value == 1)
        }

    def signature(self) -> dict[str, str]:
        """Types as triton.compiler.ASTSource takes them, in the order of the kernel's parameters."""
        constants = self.constants()
        order = inspect.signature(self.kernel.fn).parameters
        return {n: "constexpr" if n in constants else _type(self.arguments[n]) for n in order}

    def divisible(self) -> tuple[str, ...]:
        """The arguments that a launch specialises as divisible by 16."""
        constants = self.constants()
        return tuple(n for n, v in self.arguments.items() if n not in constants and _divisible(v))


def _constexpr_names(kernel: Any) -> set[str]:
    return {n for n, p in inspect.signature(kernel.fn).parameters.items() if "constexpr" in str(p.annotation)}


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return _POINTERS[value.dtype]
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _divisible(value: Any) -> bool:
    if isinstance(value, Tensor):
        # The allocators of PyTorch align every storage; a view may start anywhere in it.
        return value.storage_offset() * value.element_size() % 16 == 0
    return isinstance(value, int) and value % 16 == 0


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Inside, launches are appended to the list instead of performed; outputs stay as they were allocated."""
    global _records
    before, _records = _records, []
    try:
        yield _records
    finally:
        _records = before


def is_recording() -> bool:
    return _records is not None


class Watcher(Protocol):
    """Who is told of launches."""

    launching: bool  # set while one is performed

    def launched(self, start: Callable[..., object], values: list[Any]) -> None:
        """``values`` are the arguments in the order of the kernel's parameters, and ``start(*values)`` launches again,
        on the current device and stream, without looking anything up.

        It is good for other values of the same specialisation only: equal integers and constants, and pointers of the
        same type whose addresses are equal modulo 16.
        """


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Inside, on this thread, the watcher is told of each launch that was performed."""
    before = getattr(_local, "watcher", None)
    _local.watcher = watcher
    try:
        yield
    finally:
        _local.watcher = before


def elsewhere(device: int) -> bool:
    """Whether the device of this index, as of ``Tensor.get_device()``, is not the current one; -1 is a CPU's."""
    return device >= 0 and device != torch.cuda.current_device()


def launch(kernel: Any, programs: int, *, num_warps: int, num_stages: int, **arguments: Any) -> None:
    """Start ``programs`` programs of a kernel on the device of its tensors; none if there are none to start."""
    if programs == 0:
        return
    if _records is not None:
        _records.append(Launch(kernel, programs, arguments, num_warps, num_stages))
        return
    watcher: Watcher | None = getattr(_local, "watcher", None)
    if watcher is None:
        _perform(kernel, programs, num_warps, num_stages, arguments)
        return
    watcher.launching = True
    try:
        start = _perform(kernel, programs, num_warps, num_stages, arguments)
    finally:
        watcher.launching = False
    watcher.launched(start, [arguments[name] for name in kernel.arg_names])


def _perform(
    kernel: Any, programs: int, num_warps: int, num_stages: int, arguments: dict[str, Any]
) -> Callable[..., object]:
    """Launch, and return what launches again; see `Watcher`."""
    if interpreted():
        kernel[(programs,)](**arguments)
        return partial(_interpret, kernel, programs)
    options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": FP_FUSION}
    device = next(v for v in arguments.values() if isinstance(v, Tensor)).get_device()
    lend: Any = _lending if "make_tensor_descriptor" in inspect.getsource(kernel.fn) else lambda start: start
    with torch.cuda.device(device) if elsewhere(device) else nullcontext():
        compiled = lend(kernel[(programs,)])(**arguments, **options)
    # A launch returns the compiled kernel, which is launched the same way: so in Triton 3.4, 3.6 and 3.8.
    return cast("Callable[..., object]", lend(compiled[(programs, 1, 1)]))


def _lending(start: Callable[..., Any]) -> Callable[..., Any]:
    """The same launch, for a kernel that makes tensor descriptors: it needs memory for them, from PyTorch.

    It runs in a context of its own, so what the caller has set by `triton.set_allocator` stays.
    """
    import triton

    def lent(*values: Any, **named: Any) -> Any:
        triton.set_allocator(_memory)
        return start(*values, **named)

    return lambda *values, **named: contextvars.copy_context().run(lent, *values, **named)


def _memory(size: int, alignment: int, stream: int | None) -> Tensor:
    """PyTorch aligns to 512 bytes, and what gets this memory next on the stream follows the launch."""
    return torch.empty(size, dtype=torch.int8, device="cuda")


def _interpret(kernel: Any, programs: int, *values: Any) -> None:
    kernel[(programs,)](*values)
