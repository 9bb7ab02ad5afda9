"""The plan of a call on a GPU, by arithmetic: traffic, products and launches.

A launch takes as long as the larger of its traffic, in bytes, and its products, in flops over the ridge: the flops per
byte at which the two cost the same. These are numbers of the vendors for an H100 and bfloat16 (an H200 measured 283);
an A100 has about half the ridge, which moves the borders but not by much.
"""

from __future__ import annotations

from palora_kernels.sizes import Sizes

_RIDGE = 295
_LAUNCH = 6_000_000  # bytes that could be moved while one more kernel starts
_ITEM = 2
_FUSED_COLUMNS = 64  # of S beside a tile, the most that triton.linear_product takes
_TILE = 128
# Of cuBLAS's speed, what the products of our kernels reach: 0.68 to 0.79 forward, 4096 x 4096, bfloat16.
_POINTERS = 0.7
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


def linear(s: Sizes, exact: bool, persistent: bool = False) -> str:
    """One launch with S recomputed for every column of tiles; S in a launch of its own; cuBLAS after both of the
    adapters' products; the adapters as columns of one product; or merged weights. ``exact``: in float32 without tf32.
    ``persistent``: that plan is offered.

    The constants and the first three rules are from results/gpu-check (H100 and H200), those of `splitk` and of
    `persistent` in bfloat16 on the H200 alone.
    """
    rays, K, O, R = s.rays, s.K, s.O, s.R
    if s.shared:
        return "factored" if R <= _FUSED_COLUMNS else "split"
    rows = rays * s.n
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


def linear_delta(s: Sizes) -> str:
    """The products with all elements, for a shared input once; or merged weights."""
    rays, K, O, elements = s.rays, s.K, s.O, s.elements
    if s.shared:
        return "basis" if elements < rays else "merged"
    rows = rays * s.n
    traffic, products = rows * (K + O) + elements * K * O, rows * K * O
    basis = _cost(traffic, products * elements)
    merged = _cost(traffic + 2 * rays * K * O, products + rays * elements * K * O, launches=2)
    return "basis" if basis <= merged else "merged"


def convolution(s: Sizes) -> str:
    """M kernels, convolved in one launch or by the library in M; or the library's convolution with more channels, and a
    pass over its maps.

    ``traffic`` leaves out what all plans read, the images and W.
    """
    K, O, R, E = s.K, s.O, s.R, s.elements
    ray_rows = s.n * s.positions
    rows = s.rays * ray_rows
    seen = ray_rows if s.shared else rows  # the rows of a convolution that serves all rays
    tiled = s.rays * -(-ray_rows // 16) * 16  # a tile holds rows of one ray, 16 at least
    weights = s.rays * K * O
    gathered = _GATHER * rows * K if s.channels < 16 else 0
    costs = {
        "merged": _cost(weights, weights * (R or E)) + _cost(weights + gathered + rows * O, tiled * K * O / _POINTERS),
        "library": _cost(weights, weights * (R or E))
        + _cost(weights + rows * O, rows * K * O, launches=_CALL * s.rays),
        "factored": _cost(seen * (O + R), seen * K * (O + R)) + _cost(seen * (O + R) + rows * O, rows * R * O),
        "basis": _cost(seen * E * O, seen * K * E * O) + _cost(seen * E * O + rows * O, 0) + _cost(E * K * O, 0),
    }
    if not s.matricised or s.groups > 1 or R == 0:
        del costs["factored"]
    if gathered:  # cuDNN pads few channels in every call: a step of ResNet-18 took 2 ms longer
        del costs["library"]
    return min(costs, key=lambda plan: costs[plan])
