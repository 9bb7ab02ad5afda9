"""The GPUs that kernels are compiled for, as the compiler knows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from palora_kernels.triton.launching import configs


@dataclass(frozen=True)
class Target:
    """``shared``: bytes that one block may use, as configs.py counts on when it chooses a tile."""

    name: str
    backend: str
    arch: int | str
    warp: int

    @property
    def shared(self) -> int:
        return configs.TARGETS[self.name].shared_memory

    def gpu(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget(self.backend, self.arch, self.warp)


TARGETS = {
    target.name: target
    for target in (
        Target("sm_80", "cuda", 80, 32),
        Target("sm_90", "cuda", 90, 32),
        Target("sm_100", "cuda", 100, 32),
        Target("sm_120", "cuda", 120, 32),
        Target("gfx942", "hip", "gfx942", 64),
    )
}
