"""Which algorithm serves which shape: the one table of this package.

A plan is named "<backend>.<algorithm>". The rules below compare what the algorithms cost; the constants were measured
on two CPU cores in float32. On a GPU the same arithmetic favours ``factored`` even more: a merged weight is traffic;
what ``palora bench --tune`` measured on a device takes the place of the arithmetic there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from palora_kernels.triton import configs, tuning

_FORCED: dict[str, str] = {}

ALGORITHMS = {
    "linear": ("factored", "split", "splitk", "library", "persistent", "merged"),
    "linear_delta": ("merged", "basis"),
    "conv2d": ("merged", "library", "basis", "factored", "direct", "tiled"),
    "conv2d_delta": ("merged", "library", "basis", "direct", "tiled"),
}


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


def linear(
    rays: int,
    n: int,
    K: int,
    O: int,
    R: int,
    shared: bool,
    backend: str = "eager",
    like: Tensor | None = None,
    common: bool = True,
) -> str:
    """Factored by default. Merging pays where a ray has many rows and the adapters are a good part of the product.

    ``common``: there is a weight that all rays share.
    """
    persistent = backend == "triton" and like is not None and offers_persistent(K, O, shared, common, like)
    forced = _FORCED.get("linear")
    if forced == "persistent" and not persistent:
        forced = None if backend == "triton" else "factored"
    if forced is not None:
        # Elsewhere nothing is fused, and the base products are the library's already.
        return "factored" if forced in ("split", "splitk", "library") and backend != "triton" else forced
    if backend == "triton":
        measured = _measured(like, "linear", shared, rays=rays, n=n, K=K, O=O, R=R)
        if measured is not None and (measured != "persistent" or persistent):
            return measured
        exact = like is not None and _in_full_float32(like.dtype)
        return _linear_on_gpu(rays, n, K, O, R, shared, exact, persistent)
    if shared:
        return "factored"  # one base product and one S for all rays: nothing to gain from M weights
    if backend == "native" and R < 48:
        return "factored"  # in passes that cost next to nothing beside the product
    if n * (K + O) > 2 * K * O and R * (K + O) > 0.15 * K * O:
        return "merged"
    return "factored"


def linear_delta(
    rays: int,
    n: int,
    elements: int,
    shared: bool,
    K: int = 0,
    O: int = 0,
    backend: str = "eager",
    like: Tensor | None = None,
) -> str:
    """``elements``: T+1, or T without a common part; the basis plan costs that many products of the rows it sees."""
    if "linear_delta" in _FORCED:
        return _FORCED["linear_delta"]
    if backend == "triton":
        measured = _measured(like, "linear_delta", shared, rays=rays, n=n, K=K, O=O, elements=elements)
        return measured or _linear_delta_on_gpu(rays, n, elements, K, O, shared)
    if shared:
        return "basis" if elements < rays else "merged"
    # Merging reads every delta once per ray, about what 16 rows of the extra products cost.
    return "basis" if n <= 16 and rays > 1 else "merged"


# On a GPU a launch takes as long as the larger of its traffic, in bytes, and its products, in flops over the ridge: the
# flops per byte at which the two cost the same. These are numbers of the vendors for an H100 and bfloat16 (an H200
# measured 283); an A100 has about half the ridge, which moves the borders but not by much.
_RIDGE = 295
_LAUNCH = 6_000_000  # bytes that could be moved while one more kernel starts
_ITEM = 2
_FUSED_COLUMNS = 64  # of S beside a tile, the most that triton.linear_product takes
_TILE = 128
_POINTERS = (
    0.7  # of cuBLAS's speed, what the products of our kernels reach: 0.68 to 0.79 forward, 4096 x 4096, bfloat16
)
# The same of a kernel that TMA feeds. Measured on an H200, 4096 x 4096 with 4096 rows: 208 to 211 us for all of the
# plan, 179 to 181 for the plain product; less S and the extension, by arithmetic, 0.92 to 0.93.
_DESCRIPTORS = 0.93
_STEP = 64  # the depth of its tiles
_MERGING = 85  # a multiply-add of the merge kernel, in float32 on scalar units, over one of the tensor cores
_FEW = 256  # rows of a product whose time is the reading of W
_CALL = 4  # launches that one more call of cuDNN is worth: 7 to 9 us beside its product
_GATHER = 9  # numbers that could be moved while our convolution fetches one of few channels by itself: LeNet's layers
_EXACT = 2**27  # multiply-adds of a float32 product from which cuBLAS wins: forward 6 to 7 times as fast as ours


def _cost(traffic: float, multiply_adds: float, launches: int = 1) -> float:
    return max(_ITEM * traffic, 2 * multiply_adds / _RIDGE) + launches * _LAUNCH


@torch.compiler.assume_constant_result
def _in_full_float32(dtype: torch.dtype) -> bool:
    return configs.kind(dtype) == "ieee"


def offers_persistent(K: int, O: int, shared: bool, common: bool, like: Tensor) -> bool:
    """Whether that plan serves a call: stacked rows, 16-bit numbers, whole 16 bytes a row, a GPU that copies tiles."""
    return common and not shared and K % 8 == 0 and O % 8 == 0 and _copies_tiles(like.device, like.dtype)


@torch.compiler.assume_constant_result
def _copies_tiles(device: torch.device, dtype: torch.dtype) -> bool:
    return dtype.itemsize == 2 and configs.copies_tiles(configs.target_of(device))


def _linear_on_gpu(
    rays: int, n: int, K: int, O: int, R: int, shared: bool, exact: bool, persistent: bool = False
) -> str:
    """One launch with S recomputed for every column of tiles; S in a launch of its own; cuBLAS after both of the
    adapters' products; the adapters as columns of one product; or merged weights. ``exact``: in float32 without tf32.
    ``persistent``: that plan is offered.

    The constants and the first three rules are from results/gpu-check (H100 and H200), those of `splitk` and of
    `persistent` in bfloat16 on the H200 alone.
    """
    if shared:
        return "factored" if R <= _FUSED_COLUMNS else "split"
    rows = rays * n
    if exact and rows * K * O >= _EXACT:
        return "library"
    if rows <= _FEW and K * O >= 2**20:  # W is all the traffic: programs enough to read it
        return "splitk"
    if rows <= 1024 and K * O >= 2**22:  # level forward, and cuBLAS reads it faster backward
        return "library"
    traffic, products = rows * (K + O) + K * O, rows * K * O
    costs = {
        "factored": _cost(traffic, (products + rows * R * (K * -(-O // _TILE) + O)) / _POINTERS),
        "split": _cost(traffic + rows * K, (products + rows * R * (K + O)) / _POINTERS, launches=2),
        # X is read for S, and Y written once more and read once more.
        "library": _cost(rows * K, rows * K * R) + _cost(rows * O, rows * R * O) + _cost(traffic + rows * O, products),
        # M weights are written and read, and R multiply-adds make each of their values.
        "merged": _cost(traffic + 2 * rays * K * O, products + rays * K * O * R * _MERGING, launches=2),
    }
    if R > _FUSED_COLUMNS:
        del costs["factored"]
    if persistent:  # X is read for S; S o Lam beside A, and S, are little; whole steps of the reduction
        steps = -(-(R + 1) // _STEP) * _STEP
        costs["persistent"] = _cost(rows * K, rows * K * R) + _cost(3 * rows * R, 0)
        costs["persistent"] += _cost(traffic + rows * R, (products + rows * steps * O) / _DESCRIPTORS)
        # Measured, `library` takes 1.26 to 1.34 of the plain product where the sum above says 1.18: as if nothing hid
        # that Y is read.
        costs["library"] += _ITEM * rows * O
    return min(costs, key=lambda plan: costs[plan])


def _linear_delta_on_gpu(rays: int, n: int, elements: int, K: int, O: int, shared: bool) -> str:
    """The products with all elements, for a shared input once; or merged weights."""
    if shared:
        return "basis" if elements < rays else "merged"
    rows = rays * n
    traffic, products = rows * (K + O) + elements * K * O, rows * K * O
    basis = _cost(traffic, products * elements)
    merged = _cost(traffic + 2 * rays * K * O, products + rays * elements * K * O, launches=2)
    return "basis" if basis <= merged else "merged"


@dataclass(frozen=True)
class Conv:
    """What the plan of a convolution depends on."""

    backend: str
    rays: int
    n: int  # rows of one ray
    positions: int  # Ho*Wo
    K: int  # C/groups*kh*kw, the products behind one output value
    O: int
    R: int  # columns of all factors together; 0 for dense deltas
    elements: int  # T+1, or T without a common part
    groups: int
    shared: bool
    matricised: bool = False  # the deltas are low-rank as O x K matrices
    channels_last: bool = False  # the layout of the result
    item: int = 4  # bytes of a number
    device: str = "cpu"
    channels: int = 64  # of a group

    @property
    def in_cpp(self) -> bool:
        """Whether the kernels of csrc/cpu serve the call; those for CUDA have fewer plans."""
        return self.backend == "native" and self.device == "cpu"

    def offers(self, algorithm: str) -> bool:
        if algorithm == "factored":
            return self.matricised and self.groups == 1
        if algorithm == "library":
            return self.backend == "triton"  # the merged plan of the others is the library's
        if algorithm == "direct":
            return self.in_cpp and self.shared and self.groups == 1
        if algorithm == "tiled":
            return self.in_cpp and not self.shared and self.channels_last and self.item >= 4
        return True


def conv2d(call: Conv, op: str = "conv2d", like: Tensor | None = None) -> str:
    if op in _FORCED:
        return _FORCED[op] if call.offers(_FORCED[op]) else "merged"
    if call.backend == "triton":
        sizes = {"rays": call.rays, "n": call.n, "positions": call.positions, "K": call.K, "O": call.O, "R": call.R}
        measured = _measured(like, op, call.shared, **sizes, elements=call.elements, groups=call.groups)
        return measured if measured is not None and call.offers(measured) else _conv2d_on_gpu(call)
    # More products than merging has pay where calls are the work, or where outputs fill the vectors.
    few = call.n * call.positions < 16384 or 2 * call.elements <= 3 * call.rays or call.O >= 32
    if call.offers("direct") and call.K <= 32 and call.rays > 1 and call.channels_last and few:
        return "direct"
    if not call.shared:
        # A ray's weight is merged, reordered and pulled back for n*positions rows: too much where those are few.
        rows = call.n * call.positions
        little = rows * call.K * call.O < 4_000_000  # so little work a ray that calls are most of it
        few = rows <= call.K or (little and rows <= 1024)
        narrow = 4 * call.R <= call.O or (4 * rows <= 2 * call.K and call.R <= 2 * call.O)
        if call.offers("factored") and call.rays > 1 and few and narrow:
            return "factored"
        if little and call.rays > 4 * call.elements:
            return "basis"
        return "tiled" if call.offers("tiled") else "merged"
    if call.in_cpp and call.channels_last:
        if call.offers("factored") and call.K > 32:  # below that its passes over the map are the work
            return "factored"
        # `direct` keeps a row of every element in cache and pays for lanes that its few outputs leave empty.
        if call.offers("direct") and call.elements <= call.rays and call.n * call.positions * call.O < 100_000:
            return "direct"
        return "basis" if call.elements <= call.rays else "merged"
    # Combining E maps into M costs a pass over M+E maps, about 40 multiply-adds a value.
    gain = (call.rays - call.elements) * call.K
    return "basis" if gain > 40 * (call.rays + call.elements) else "merged"


def _conv2d_on_gpu(call: Conv) -> str:
    """M kernels, convolved in one launch or by the library in M; or the library's convolution with more channels, and a
    pass over its maps.

    ``traffic`` leaves out what all plans read, the images and W.
    """
    K, O, R, E = call.K, call.O, call.R, call.elements
    ray_rows = call.n * call.positions
    rows = call.rays * ray_rows
    seen = ray_rows if call.shared else rows  # the rows of a convolution that serves all rays
    tiled = call.rays * -(-ray_rows // 16) * 16  # a tile holds rows of one ray, 16 at least
    weights = call.rays * K * O
    gathered = _GATHER * rows * K if call.channels < 16 else 0
    costs = {
        "merged": _cost(weights, weights * (R or E)) + _cost(weights + gathered + rows * O, tiled * K * O / _POINTERS),
        "library": _cost(weights, weights * (R or E))
        + _cost(weights + rows * O, rows * K * O, launches=_CALL * call.rays),
        "factored": _cost(seen * (O + R), seen * K * (O + R)) + _cost(seen * (O + R) + rows * O, rows * R * O),
        "basis": _cost(seen * E * O, seen * K * E * O) + _cost(seen * E * O + rows * O, 0) + _cost(E * K * O, 0),
    }
    if not call.offers("factored") or R == 0:
        del costs["factored"]
    if gathered:  # cuDNN pads few channels in every call: a step of ResNet-18 took 2 ms longer
        del costs["library"]
    return min(costs, key=lambda plan: costs[plan])
