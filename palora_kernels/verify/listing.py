"""Entries of the catalogue from the plans themselves: what would be launched is recorded, not described twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from palora_kernels.triton.launching import configs, spills
from palora_kernels.triton.launching.configs import TARGETS, Target, Tile
from palora_kernels.triton.launching.launch import Launch, recording
from palora_kernels.verify.catalog import Variant

META = torch.device("meta")
# dtype, tf32, and the name that the two have in a table
_KINDS = (
    (torch.bfloat16, False, "bf16"),
    (torch.float16, False, "fp16"),
    (torch.float32, False, "fp32"),
    (torch.float32, True, "tf32"),
)


def variants_of(
    label: str,
    kernel: Any,
    call: Callable[[torch.dtype], Any],
    tiles: Callable[[str, Target], list[Tile]],
    *,
    all_default: bool = True,
    key: str | None = None,
) -> Iterator[Variant]:
    """One variant for each dtype and each tile that some target may choose, two if it spills for others of them.

    ``call(dtype)`` runs the plan on tensors of the meta device; its first launch of ``kernel`` is the entry. Default
    are all tiles of bfloat16 and of exact float32 that do not spill, or only the largest with ``all_default`` off, and
    the largest of the others. ``key``: the kernel's name in `tuning.tile_key`, where it is not its own.
    """
    key = key or kernel.fn.__name__
    for dtype, tf32, name in _KINDS:
        takers: dict[tuple[Tile, bool], list[str]] = {}
        for target in TARGETS.values():
            with configs.assume(target, tf32=tf32):
                kind = configs.kind(dtype)
                listed = tiles(kind, target)
            clean = [t for t in listed if not spills.spills(key, kind, target.name, t)]
            largest = max((t.rows * t.columns for t in clean), default=0)
            common = all_default and name in ("bf16", "fp32")
            for tile in listed:
                default = tile in clean and (common or tile.rows * tile.columns == largest)
                takers.setdefault((tile, default), []).append(target.name)
        for (tile, default), targets in takers.items():
            with configs.assume(TARGETS[targets[0]], tile=tile, tf32=tf32), recording() as launches:
                call(dtype)
            found = next(entry for entry in launches if entry.kernel is kernel)
            text = f"{label} {name} {spills.label(tile)}"
            text += " if measured" if (tile, True) in takers and not default else ""
            dots = "ieee" if name == "fp32" else "tensor"
            yield variant(found, text, default=default, dots=dots, targets=tuple(targets))


def plain_variants(
    label: str, kernel: Any, call: Callable[[torch.dtype], Any], *, products: bool = False, target: str = "sm_90"
) -> Iterator[Variant]:
    """For kernels of one tile: one variant for each dtype, for all targets; in tf32 too if they have ``products``."""
    for dtype, tf32, name in _KINDS:
        if tf32 and not products:
            continue
        with configs.assume(TARGETS[target], tf32=tf32), recording() as launches:
            call(dtype)
        found = next(entry for entry in launches if entry.kernel is kernel)
        dots = ("ieee" if name == "fp32" else "tensor") if products else "none"
        yield variant(found, f"{label} {name}", default=name in ("bf16", "fp32"), dots=dots, targets=None)


def variant(launch: Launch, name: str, *, default: bool, dots: str, targets: tuple[str, ...] | None) -> Variant:
    return Variant(
        kernel=launch.kernel,
        name=name,
        signature=launch.signature(),
        constants=launch.constants(),
        divisible=launch.divisible(),
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
        default=default,
        dots=dots,
        targets=targets,
    )
