"""Every compilation that the Triton kernels can ask for, listed by the files of `palora_kernels.verify.variants`.

They are found by looking, so a new one is in the catalogue without a line here.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One compilation: a kernel, the types of its arguments and the values of its constants.

    signature   argument → Triton type: "*bf16", "i32", "i64", "fp32", and "constexpr" for the constants
    constants   argument → value, one for each "constexpr" of the signature
    divisible   arguments that the launch specialises as divisible by 16: aligned pointers, and sizes that are
    default     configs.py can choose this configuration without a tuning file
    dots        "tensor": must use tensor cores on every target; "ieee": float32 products, FMA on NVIDIA; "none"
    targets     names of ``palora_kernels.verify.aot.TARGETS``; None for all
    """

    kernel: Any  # triton.runtime.JITFunction; an InterpretedFunction under TRITON_INTERPRET=1
    name: str
    signature: dict[str, str]
    constants: dict[str, Any]
    divisible: tuple[str, ...]
    num_warps: int
    num_stages: int
    default: bool
    dots: str
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.dots not in ("tensor", "ieee", "none"):
            raise ValueError(f"`dots` of {self.name} should be tensor, ieee or none. Found {self.dots!r}.")
        constexpr = {name for name, kind in self.signature.items() if kind == "constexpr"}
        if constexpr != set(self.constants):
            raise ValueError(f"Constants of {self.name}: {sorted(self.constants)}, signature: {sorted(constexpr)}.")
        if unknown := set(self.divisible) - set(self.signature):
            raise ValueError(f"`divisible` of {self.name} names no argument: {sorted(unknown)}.")


def variant_files() -> Iterator[ModuleType]:
    """The modules that list variants, in the order of their names."""
    folder = "palora_kernels.verify.variants"
    for info in sorted(pkgutil.iter_modules(importlib.import_module(folder).__path__), key=lambda info: info.name):
        yield importlib.import_module(f"{folder}.{info.name}")


def all_variants() -> Iterator[Variant]:
    """Every variant of every file. Two with the same name are an error: a table could not tell them apart."""
    seen: set[str] = set()
    for module in variant_files():
        for variant in module.variants():
            if variant.name in seen:
                raise ValueError(f"{module.__name__} lists the variant {variant.name!r} a second time.")
            seen.add(variant.name)
            yield variant
