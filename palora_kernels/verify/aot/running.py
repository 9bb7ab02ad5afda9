"""Many compilations in parallel processes."""

from __future__ import annotations

import importlib
import math
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from palora_kernels.verify import catalog
from palora_kernels.verify.aot.building import Finding, examine
from palora_kernels.verify.aot.targets import TARGETS
from palora_kernels.verify.catalog import Variant

_variants: dict[str, Variant] = {}


def variants(module: str | None) -> dict[str, Variant]:
    """By name: the whole catalogue, or what ``variants()`` of one module lists."""
    listed = catalog.all_variants() if module is None else importlib.import_module(module).variants()
    return {variant.name: variant for variant in listed}


def largest(listed: dict[str, Variant]) -> dict[str, Variant]:
    """Of every kernel and dtype the default with the largest tile: where registers and shared memory run out first.

    A tile is measured by the product of its sizes, the constants that begin with B.
    """
    found: dict[tuple[str, ...], Variant] = {}
    for variant in listed.values():
        if not variant.default:
            continue
        pointers = sorted({kind for kind in variant.signature.values() if kind.startswith("*")})
        key = (variant.kernel.fn.__name__, *pointers, str(variant.constants.get("PRECISION")))
        if key not in found or _size(variant) > _size(found[key]):
            found[key] = variant
    return {variant.name: variant for variant in found.values()}


def _size(variant: Variant) -> int:
    return math.prod(v for k, v in variant.constants.items() if k.startswith("B") and type(v) is int)


def run(work: list[tuple[str, str]], module: str | None, jobs: int) -> Iterator[Finding]:
    """Examine (variant, target) pairs in their order. A kernel cannot be sent to a process: each lists its own."""
    jobs = max(1, min(jobs, len(work)))
    if jobs == 1:
        _start(module)
        yield from map(_one, work)
        return
    # Threads of PyTorch do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start, (module,)) as pool:
        yield from pool.map(_one, work)


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(module: str | None) -> None:
    _variants.update(variants(module))


def _one(pair: tuple[str, str]) -> Finding:
    variant, target = pair
    return examine(_variants[variant], TARGETS[target])
