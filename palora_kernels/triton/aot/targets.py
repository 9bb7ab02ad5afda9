"""The GPUs that kernels are compiled for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Target:
    """shared: bytes that one block may use (CUDA C++ Programming Guide, technical specifications; CDNA 3 ISA, LDS)."""

    name: str
    backend: str
    arch: int | str
    warp: int
    shared: int

    def gpu(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget(self.backend, self.arch, self.warp)


TARGETS = {
    target.name: target
    for target in (
        Target("sm_80", "cuda", 80, 32, 163 * 1024),
        Target("sm_90", "cuda", 90, 32, 227 * 1024),
        Target("sm_100", "cuda", 100, 32, 227 * 1024),
        Target("sm_120", "cuda", 120, 32, 99 * 1024),
        Target("gfx942", "hip", "gfx942", 64, 64 * 1024),
    )
}
