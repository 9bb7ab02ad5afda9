"""The tile sizes of a launch: one configuration, by arithmetic, or from a tuning file measured on this device.

Nothing is tuned while a model runs: the choice depends on the kernel, the dtype, the shape and the device only, so a
launch can be captured in a CUDA graph and two runs take the same kernels. ``palora bench --tune`` measures the
`candidates` and writes a file (`tuning`) that `settle` prefers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from palora_kernels import versions
from palora_kernels.triton.launching import spills, tuning
from palora_kernels.triton.launching.tuning import Tile


@dataclass(frozen=True)
class Target:
    """What the choice has to know of a device."""

    name: str  # sm_90, gfx942
    processors: int  # streaming multiprocessors, or compute units
    shared_memory: int  # bytes one program may use

    @property
    def is_amd(self) -> bool:
        return self.name.startswith("gfx")


TARGETS = {
    t.name: t
    for t in (
        Target("sm_80", 108, 166_912),
        Target("sm_90", 132, 232_448),
        Target("sm_100", 148, 232_448),
        Target("sm_120", 170, 101_376),
        Target("gfx942", 304, 65_536),
    )
}


def copies_tiles(target: Target) -> bool:
    """Whether the device copies tiles of matrices by itself (TMA), and Triton lets it work ahead: Hopper and Blackwell.

    Not the Blackwell of workstations, sm_120, which has TMA: compiled for it, the loop does not work ahead.
    """
    fast = target.name.startswith("sm_") and 90 <= int(target.name[3:]) < 120
    return fast and versions.triton_release() >= versions.DESCRIPTORS


_ASSUMED = "sm_90"  # for tensors without a device: the interpreter and the meta device


@dataclass(frozen=True)
class _Assumption:
    target: Target
    tile: Tile | None
    tf32: bool


_assumed: _Assumption | None = None


@contextmanager
def assume(target: Target, tile: Tile | None = None, tf32: bool = False) -> Iterator[None]:
    """Inside a with block choose for this target, whatever device the tensors are on; or take this tile always.

    For `launch.recording`: what would be launched elsewhere, or with another configuration.
    """
    global _assumed
    before, _assumed = _assumed, _Assumption(target, tile, tf32)
    try:
        yield
    finally:
        _assumed = before


@functools.cache
def _target_of_index(index: int) -> Target:
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip is not None:
        return Target(properties.gcnArchName.split(":")[0], properties.multi_processor_count, 65_536)
    name = f"sm_{properties.major}{properties.minor}"
    # Missing from PyTorch's own type stub.
    optin: int = getattr(properties, "shared_memory_per_block_optin")  # noqa: B009
    return Target(name, properties.multi_processor_count, optin)


def target_of(device: torch.device) -> Target:
    if _assumed is not None:
        return _assumed.target
    if device.type != "cuda":
        return TARGETS[_ASSUMED]
    return _target_of_index(torch.cuda.current_device() if device.index is None else device.index)


def kind(dtype: torch.dtype) -> str:
    """How products of a dtype run: "half" and "tf32" on tensor cores, "ieee" in full float32.

    tf32 only where torch.backends.cuda.matmul.fp32_precision (or its older form, allow_tf32) asks for it.
    """
    if dtype != torch.float32:
        return "half"
    tf32 = versions.matmul_in_tf32() if _assumed is None else _assumed.tf32
    return "tf32" if tf32 else "ieee"


def is_assumed() -> bool:
    return _assumed is not None


def conv_kind(dtype: torch.dtype) -> str:
    """As `kind`, for the products of a convolution: these follow torch.backends.cudnn.conv.fp32_precision (or its older
    form, cudnn.allow_tf32), as torch.nn.Conv2d does, whichever plan serves the layer."""
    if dtype != torch.float32:
        return "half"
    tf32 = versions.convolutions_in_tf32() if _assumed is None else _assumed.tf32
    return "tf32" if tf32 else "ieee"


def switches(dtype: torch.dtype) -> tuple[str, str] | None:
    """What the process has set that the choices for a dtype depend on."""
    return (kind(dtype), conv_kind(dtype)) if dtype == torch.float32 else None


def precision(dtype: torch.dtype) -> str:
    """The ``input_precision`` of tl.dot; without effect for 16-bit operands."""
    return "tf32" if kind(dtype) == "tf32" else "ieee"


def conv_precision(dtype: torch.dtype) -> str:
    """As `precision`, in a convolution."""
    return "tf32" if conv_kind(dtype) == "tf32" else "ieee"


def exact(target: Target) -> str:
    """The ``input_precision`` of float32 products on matrix units that keep float32's precision: three tf32 products
    on NVIDIA's, whose own float32 product is made of scalar instructions; AMD's take float32 as it is."""
    return "ieee" if target.is_amd else "tf32x3"


_HALF = [
    Tile(128, 256, 64, 8, 3),
    Tile(128, 128, 64, 8, 3),
    Tile(128, 64, 64, 4, 3),
    Tile(64, 128, 64, 8, 3),
    Tile(64, 64, 64, 4, 4),
    Tile(64, 32, 64, 4, 4),
    Tile(32, 64, 64, 4, 3),
    Tile(32, 32, 64, 4, 4),
    Tile(16, 32, 64, 4, 4),
]
_TF32 = [
    Tile(128, 128, 32, 8, 3),
    Tile(128, 64, 32, 4, 3),
    Tile(64, 64, 32, 4, 4),
    Tile(64, 32, 32, 4, 4),
    Tile(32, 64, 32, 4, 4),
    Tile(32, 32, 32, 4, 4),
    Tile(16, 32, 32, 2, 4),
]
_IEEE = [
    Tile(128, 64, 16, 8, 3),
    Tile(64, 64, 16, 4, 2),
    Tile(64, 32, 16, 4, 3),
    Tile(32, 64, 16, 4, 3),
    Tile(32, 32, 16, 4, 3),
    Tile(16, 32, 16, 4, 3),
]
SHALLOW = 16
_WIDE = 128 * 256


def largest(kind: str, target: Target, elsewhere: int) -> int:
    """The accumulator that a kernel may hold whose other registers are few: two warpgroups of Hopper hold 128 x 256 of
    16-bit products, as cuBLAS does; ``elsewhere`` it would spill."""
    return _WIDE if kind == "half" and target.name == "sm_90" else elsewhere


_TILES = {"half": _HALF, "tf32": _TF32, "ieee": _IEEE}
_ITEM = {"half": 2, "tf32": 4, "ieee": 4}


def staged_bytes(tile: Tile, kind: str, side: int) -> int:
    """Shared memory of the operands of all stages; ``side`` more columns are loaded beside those of the tile."""
    return (tile.rows + tile.columns + side) * tile.depth * _ITEM[kind] * tile.num_stages


def _fitted(tile: Tile, kind: str, side: int, target: Target) -> Tile | None:
    """The tile with as many of its stages as the device has room for; None if two do not fit."""
    most = 2 if target.is_amd else tile.num_stages
    for stages in range(most, 1, -1):
        # AMD's compiler keeps one of the stages in registers.
        held = replace(tile, num_stages=stages - 1 if target.is_amd else stages)
        if staged_bytes(held, kind, side) <= target.shared_memory:
            return replace(tile, num_stages=stages)
    return None


def candidates(
    kind: str,
    target: Target,
    side: int = 0,
    largest: int = 128 * 256,
    columns: int | None = None,
    deepest: int | None = None,
    tiles: list[Tile] | None = None,
) -> list[Tile]:
    """All tiles that `choose` and ``bench --tune`` may take, of ``tiles`` or of the usual ones.

    ``largest`` bounds the accumulator, rows*columns; ``columns`` fixes the width where the problem itself is narrow;
    ``deepest`` bounds the depth, for operands that are loaded number by number and need a register for each address.
    """
    tiles = tiles or _TILES[kind]
    if deepest is not None:
        tiles = list(dict.fromkeys(replace(t, depth=min(t.depth, deepest)) for t in tiles))
    if columns is not None:
        widest = {(t.rows, t.depth): replace(t, columns=columns) for t in tiles if t.num_warps <= 4}
        tiles = list(widest.values())
    fitted = (_fitted(t, kind, side, target) for t in tiles if t.rows * t.columns <= largest)
    return [t for t in fitted if t is not None]


# Per processor and cycle, of the order of what the vendors publish for A100 and H100: multiply-adds, and bytes from L2.
_RATE = {"half": 1024, "tf32": 512, "ieee": 64}
_BYTES = 64
_FIXED = 2000  # cycles to start a program and to fill its pipeline


def cycles(tile: Tile, kind: str, rows: int, columns: int, depth: int, target: Target, splits: int = 1) -> float:
    """An estimate that orders the candidates, nothing more. ``splits``: programs that share the reduction of a tile."""
    programs = -(-rows // tile.rows) * -(-columns // tile.columns) * splits
    steps = -(-depth // (tile.depth * splits)) * tile.depth
    rate = _RATE[kind] if tile.rows >= 64 or kind == "ieee" else _RATE[kind] / 2
    compute = tile.rows * tile.columns * steps / rate
    traffic = (tile.rows + tile.columns) * steps * _ITEM[kind] / _BYTES
    result = tile.rows * tile.columns * _ITEM[kind] / _BYTES
    total = -(-programs // target.processors) * (max(compute, traffic) + result + _FIXED)
    if splits > 1:  # float32 partial sums are written, read and added by one more launch
        total += _FIXED + 8 * splits * rows * columns / (_BYTES / 4 * target.processors)
    return total


def choose(
    kernel: str,
    like: Tensor,
    shape: tuple[int, int, int],
    *,
    side: int = 0,
    largest: int = 128 * 256,
    narrow: int | None = None,
    deepest: int | None = None,
    scattered: bool = False,
) -> Tile:
    """The configuration of a launch: the tuning file's for this kernel, kind and bucket of shapes, else the cheapest.

    like: a tensor of the launch, for its dtype and device. shape: rows and columns of the result, and the reduction's
    length. The arguments after it are those of `candidates`; ``narrow`` is its ``columns``. ``scattered``: an operand
    has no aligned runs, so the tile is shallow.
    """
    (rows, columns, depth), device = shape, like.device
    how, target = kind(like.dtype), target_of(device)
    tiles = candidates(how, target, side, largest, narrow, SHALLOW if scattered else deepest)
    name = tuning.tile_key(kernel, how, rows, columns, depth)
    return settle(name, device, tiles, lambda t: cycles(t, how, rows, columns, depth, target))


def settle(name: str, device: torch.device, tiles: list[Tile], cost: Callable[[Tile], float]) -> Tile:
    """The tile of the launch called ``name``: the one assumed; else the one measured, if it is one of ``tiles``; else
    the cheapest of them that is not known to spill.

    A measured tile may not be one of them: other calls of the same bucket have fewer columns beside the tile.
    """
    kernel, how, _ = name.split(" ")
    target = target_of(device).name
    unasked = [t for t in tiles if not spills.spills(kernel, how, target, t)]
    if _assumed is not None:
        return _assumed.tile or min(unasked, key=cost)
    trial = tuning.trial()
    if trial is not None:
        trial.asked[name] = tiles
        trial.costs[name] = {tile: cost(tile) for tile in tiles}
    measured = tuning.of(device).tiles.get(name) if trial is None else trial.tiles.get(name)
    return measured if measured in tiles else min(unasked, key=cost)


SPLITS = (1, 2, 4, 8, 16)


def choose_splits(tile: Tile, dtype: torch.dtype, device: torch.device, rows: int, columns: int, depth: int) -> int:
    """How many programs share the reduction of one tile; their partial sums are added in a fixed order."""
    how, target = kind(dtype), target_of(device)
    allowed = [s for s in SPLITS if s == 1 or s * 2 * tile.depth <= depth]
    return min(allowed, key=lambda s: cycles(tile, how, rows, columns, depth, target, s))
