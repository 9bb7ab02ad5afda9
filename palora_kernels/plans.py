"""Which algorithm serves a call, by its shape: backends time their own plans, so each has its own rules.

All plans of an op give the same numbers, to rounding. On a CPU the rules were measured; on a GPU they are arithmetic
(`gpu_plans`), and what ``palora bench --tune`` measured on a device takes its place there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from palora_kernels import gpu_plans
from palora_kernels.call import Call
from palora_kernels.factors import LowRank
from palora_kernels.sizes import Sizes
from palora_kernels.triton.launching import configs, tuning

_FORCED: dict[str, str] = {}

ALGORITHMS = {
    "linear": ("factored", "split", "splitk", "library", "persistent", "merged"),
    "linear_delta": ("merged", "basis"),
    "conv2d": ("merged", "library", "basis", "factored", "direct", "tiled"),
    "conv2d_delta": ("merged", "library", "basis", "direct", "tiled"),
}
# Those of linear layers whose forward keeps S = X B^T for the backward.
KEEP_S = ("factored", "split", "splitk", "library", "persistent")


@contextmanager
def force(**algorithms: str) -> Iterator[None]:
    """Override the table inside a with block, for tests and measurements: ``force(linear="merged")``.

    Raises ValueError for an op or algorithm that does not exist. Process-wide; not meant for serving.
    """
    for op, algorithm in algorithms.items():
        if algorithm not in ALGORITHMS.get(op, ()):
            known = "; ".join(f"{name}: {', '.join(plans)}" for name, plans in ALGORITHMS.items())
            raise ValueError(f"No algorithm {algorithm!r} for op {op!r}. Known are {known}.")
    before = dict(_FORCED)
    _FORCED.update(algorithms)
    try:
        yield
    finally:
        _FORCED.clear()
        _FORCED.update(before)


def forced(op: str) -> str | None:
    return _FORCED.get(op)


def op_of(call: Call) -> str:
    """The public op that a call belongs to, as `ALGORITHMS` names it."""
    layer = "linear" if call.conv is None else "conv2d"
    return layer if isinstance(call.factors, LowRank) else f"{layer}_delta"


def choose(call: Call, backend: str) -> str:
    """The algorithm of a call on one of the backends eager, native and triton."""
    op, sizes = op_of(call), Sizes.of(call, backend)
    if call.conv is not None:
        return convolution(sizes, op, call.x)
    if op == "linear_delta":
        return linear_delta(sizes, call.x)
    return linear(sizes, call.x, common=call.weight is not None)


@torch.compiler.assume_constant_result
def _any_measured(device: torch.device) -> bool:
    return tuning.trial() is not None or len(tuning.of(device).plans) > 0


@torch.compiler.assume_constant_result
def _entry(device: torch.device, dtype: torch.dtype, key: str) -> str | None:
    kind = configs.conv_kind(dtype) if key.startswith("conv") else configs.kind(dtype)
    name = f"{kind} {key}"
    trial = tuning.trial()
    if trial is not None:
        trial.plans.append(name)
        return None
    return tuning.of(device).plans.get(name)


def _measured(like: Tensor | None, op: str, shared: bool, **sizes: int) -> str | None:
    """The plan measured on the tensor's device for its dtype; shapes that round up to the same powers of two share it.

    ``like`` None: nothing was measured.
    """
    if like is None or not _any_measured(like.device):
        return None
    rounded = " ".join([f"{name}{tuning.bucket(size)}" for name, size in sizes.items()])
    return _entry(like.device, like.dtype, f"{op} {'shared' if shared else 'stacked'} {rounded}")


def linear(s: Sizes, like: Tensor | None = None, common: bool = True) -> str:
    """Factored by default. Merging pays where a ray has many rows and the adapters are a good part of the product.

    like: x, or None for one in bfloat16 on no device. common: there is a weight that all rays share.
    """
    persistent = s.backend == "triton" and like is not None and offers_persistent(s, common, like)
    forced = _FORCED.get("linear")
    if forced == "persistent" and not persistent:
        forced = None if s.backend == "triton" else "factored"
    if forced is not None:
        # Elsewhere nothing is fused, and the base products are the library's already.
        return "factored" if forced in ("split", "splitk", "library") and s.backend != "triton" else forced
    if s.backend == "triton":
        measured = _measured(like, "linear", s.shared, rays=s.rays, n=s.n, K=s.K, O=s.O, R=s.R)
        if measured is not None and (measured != "persistent" or persistent):
            return measured
        exact = like is not None and _in_full_float32(like.dtype)
        return gpu_plans.linear(s, exact, persistent)
    if s.shared:
        return "factored"  # one base product and one S for all rays: nothing to gain from M weights
    if s.backend == "native" and s.R < 48:
        return "factored"  # in passes that cost next to nothing beside the product
    if s.n * (s.K + s.O) > 2 * s.K * s.O and s.R * (s.K + s.O) > 0.15 * s.K * s.O:
        return "merged"
    return "factored"


@torch.compiler.assume_constant_result
def _in_full_float32(dtype: torch.dtype) -> bool:
    return configs.kind(dtype) == "ieee"


def offers_persistent(s: Sizes, common: bool, like: Tensor) -> bool:
    """Whether that plan serves a call: stacked rows, 16-bit numbers, whole 16 bytes a row, a GPU that copies tiles."""
    return common and not s.shared and s.K % 8 == 0 and s.O % 8 == 0 and copies_tiles(like.device, like.dtype)


@torch.compiler.assume_constant_result
def copies_tiles(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether tensors of this kind can be read by the device's own copies of tiles."""
    return dtype.itemsize == 2 and configs.copies_tiles(configs.target_of(device))


def linear_delta(s: Sizes, like: Tensor | None = None) -> str:
    """The basis plan costs as many products as there are elements, of the rows it sees."""
    if "linear_delta" in _FORCED:
        return _FORCED["linear_delta"]
    if s.backend == "triton":
        sizes = {"rays": s.rays, "n": s.n, "K": s.K, "O": s.O, "elements": s.elements}
        return _measured(like, "linear_delta", s.shared, **sizes) or gpu_plans.linear_delta(s)
    if s.shared:
        return "basis" if s.elements < s.rays else "merged"
    # Merging reads every delta once per ray, about what 16 rows of the extra products cost.
    return "basis" if s.n <= 16 and s.rays > 1 else "merged"


def offers(s: Sizes, algorithm: str) -> bool:
    """Whether a backend has an algorithm of `ALGORITHMS` for a convolution."""
    if algorithm == "factored":
        return s.matricised and s.groups == 1
    if algorithm == "library":
        return s.backend == "triton"  # the merged plan of the others is the library's
    if algorithm == "direct":
        return s.in_cpp and s.shared and s.groups == 1
    if algorithm == "tiled":
        return s.in_cpp and not s.shared and s.channels_last and s.item >= 4
    return True


def convolution(s: Sizes, op: str = "conv2d", like: Tensor | None = None) -> str:
    if op in _FORCED:
        return _FORCED[op] if offers(s, _FORCED[op]) else "merged"
    if s.backend == "triton":
        sizes = {"rays": s.rays, "n": s.n, "positions": s.positions, "K": s.K, "O": s.O, "R": s.R}
        measured = _measured(like, op, s.shared, **sizes, elements=s.elements, groups=s.groups)
        return measured if measured is not None and offers(s, measured) else gpu_plans.convolution(s)
    return _convolution_of_shared(s) if s.shared else _convolution_of_stacked(s)


def _direct(s: Sizes) -> bool:
    # More products than merging has pay where calls are the work, or where outputs fill the vectors.
    few = s.n * s.positions < 16384 or 2 * s.elements <= 3 * s.rays or s.O >= 32
    return offers(s, "direct") and s.K <= 32 and s.rays > 1 and s.channels_last and few


def _convolution_of_stacked(s: Sizes) -> str:
    # A ray's weight is merged, reordered and pulled back for n*positions rows: too much where those are few.
    rows = s.n * s.positions
    little = rows * s.K * s.O < 4_000_000  # so little work a ray that calls are most of it
    few = rows <= s.K or (little and rows <= 1024)
    narrow = 4 * s.R <= s.O or (4 * rows <= 2 * s.K and s.R <= 2 * s.O)
    if offers(s, "factored") and s.rays > 1 and few and narrow:
        return "factored"
    if little and s.rays > 4 * s.elements:
        return "basis"
    return "tiled" if offers(s, "tiled") else "merged"


def _convolution_of_shared(s: Sizes) -> str:
    if _direct(s):
        return "direct"
    if s.in_cpp and s.channels_last:
        if offers(s, "factored") and s.K > 32:  # below that its passes over the map are the work
            return "factored"
        # `direct` keeps a row of every element in cache and pays for lanes that its few outputs leave empty.
        if offers(s, "direct") and s.elements <= s.rays and s.n * s.positions * s.O < 100_000:
            return "direct"
        return "basis" if s.elements <= s.rays else "merged"
    # Combining E maps into M costs a pass over M+E maps, about 40 multiply-adds a value.
    gain = (s.rays - s.elements) * s.K
    return "basis" if gain > 40 * (s.rays + s.elements) else "merged"
