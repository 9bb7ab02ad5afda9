"""A GPU that does nothing: Triton compiles for it as for an H100, and a launch returns at once.

With it everything that the CPU does for a call can be run and timed on a machine without a GPU: tensors are on the CPU
and stand for those of the device. What is replaced, and all that is replaced:

- Triton's driver, by `IdleDriver`: loading a binary and the launch itself do nothing; the compiler is the real one;
- `availability.status` and `availability.obstacle`, which would refuse a machine without a GPU.

Nothing is computed: the results are whatever the memory held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver

from palora_kernels.triton.launching import availability

TARGET = GPUTarget("cuda", 90, 32)
SHARED_MEMORY = 232_448  # bytes a program may use on an H100


class _Utils:
    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        """(module, function, registers, spills, most threads of a program)."""
        return 1, 1, 0, 0, 1024

    def unload_module(self, module: int) -> None:
        pass

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": SHARED_MEMORY, "multiprocessor_count": 132, "warpSize": 32}


class IdleDriver(DriverBase):  # type: ignore[misc]
    """``noting``: every launch is noted in ``launches``, for tests: (compiled kernel, grid, arguments in order)."""

    def __init__(self, noting: bool = False) -> None:
        self.utils = _Utils()
        self.launches: list[tuple[str, tuple[int, int, int], list[Any]]] = []
        self.noting = noting

    def launcher_cls(self, src: Any, metadata: Any) -> Callable[..., None]:
        """What Triton calls to start a compiled kernel: (grid of three, stream, function, two of metadata, two hooks,
        the kernel's arguments)."""

        def note(*given: Any) -> None:
            self.launches.append((metadata.hash, given[:3], list(given[9:])))

        return note if self.noting else _nothing

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return TARGET

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def set_current_device(self, device: int) -> None:
        pass

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_capability(self, device: int = 0) -> tuple[int, int]:
        return 9, 0

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_benchmarker(self) -> Any:
        raise NotImplementedError


def _nothing(*given: Any) -> None:
    pass


@contextmanager
def idle_gpu(noting: bool = False) -> Iterator[IdleDriver]:
    """Inside, ``backend="triton"`` takes CPU tensors all the way to a launch that does nothing."""
    before = availability.status, availability.obstacle
    gpu = IdleDriver(noting)
    driver.set_active(gpu)
    availability.status = lambda: availability.AVAILABLE
    availability.obstacle = lambda device, dtype: None
    try:
        yield gpu
    finally:
        availability.status, availability.obstacle = before
        driver._active = None  # Triton offers no way back to having none; reset_active would look for a GPU
