"""The numbers of a convolution, and which tile serves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from palora_kernels.call import Call
from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.tuning import Tile, tile_key


@dataclass(frozen=True)
class ConvShape:
    """Everything that is an integer. Maps are NHWC, kernels (O, kh, kw, C/groups)."""

    rays: int
    images: int  # of one ray
    shared: bool
    inputs: int  # C
    outputs: int  # O
    in_h: int
    in_w: int
    out_h: int
    out_w: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @staticmethod
    def of(call: Call) -> ConvShape:
        x, conv, (_, _, height, width) = call.x, call.geometry, call.factors.shape
        out_h, out_w = call.output_size
        positions = call.n * max(x.shape[2] * x.shape[3], out_h * out_w)
        if positions >= 2**30:
            raise ValueError(f"One ray should have fewer than 2**30 positions, n*H*W. Found {positions}.")
        return ConvShape(
            rays=call.rays,
            images=call.n,
            shared=call.shared,
            inputs=x.shape[1],
            outputs=call.outputs,
            in_h=x.shape[2],
            in_w=x.shape[3],
            out_h=out_h,
            out_w=out_w,
            kernel=(height, width),
            stride=(conv.stride[0], conv.stride[1]),
            padding=(conv.padding[0], conv.padding[1]),
            dilation=(conv.dilation[0], conv.dilation[1]),
            groups=conv.groups,
        )

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def group_inputs(self) -> int:
        return self.inputs // self.groups

    @property
    def group_outputs(self) -> int:
        return self.outputs // self.groups

    @property
    def positions(self) -> int:
        """Output positions of one image."""
        return self.out_h * self.out_w

    @property
    def rows_out(self) -> int:
        """Output positions of one ray: n*Ho*Wo."""
        return self.images * self.positions


_LARGEST = 128 * 128  # an accumulator that leaves room for addresses and masks in registers
# For products whose operands are gathered element by element: the addresses and masks of a step fill the registers, so
# a step is 16 deep.
_GATHERED = [
    Tile(128, 64, 16, 8, 2),
    Tile(128, 32, 16, 8, 2),
    Tile(64, 64, 16, 4, 2),
    Tile(64, 32, 16, 4, 2),
    Tile(64, 16, 16, 4, 2),
    Tile(32, 32, 16, 4, 2),
    Tile(32, 16, 16, 4, 2),
    Tile(16, 16, 16, 2, 2),
]
_NARROW = Tile(128, 16, 16, 4, 2)  # for products of few outputs
# In float32 without tensor cores two of them spill where ptxas aims at more programs a processor.
_GATHERED_IEEE = [t for t in _GATHERED if (t.rows, t.columns) not in ((64, 64), (64, 16))]


def few(channels: int) -> bool:
    """Whether the kernels run over (tap, channel) pairs, gathered one by one (FLAT), rather than tap by tap in vectors:
    where whole steps of channels would be mostly padding."""
    return channels < 16 or (channels < 32 and channels % 16 != 0)


def _power(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()


def cheapest(
    kernel: str, like: Tensor, rows: int, columns: int, depth: int, tiles: Callable[[str, configs.Target], list[Tile]]
) -> Tile:
    """As `configs.choose`, from a kernel's own list of tiles."""
    kind, target = configs.conv_kind(like.dtype), configs.target_of(like.device)
    name = tile_key(kernel, kind, rows, columns, depth)
    return configs.settle(
        name, like.device, tiles(kind, target), lambda t: configs.cycles(t, kind, rows, columns, depth, target)
    )


def _candidates(kind: str, target: configs.Target) -> list[Tile]:
    return configs.candidates(kind, target, largest=configs.largest(kind, target, _LARGEST))


def product_tiles(kind: str, target: configs.Target, flat: bool, channels: int = 64) -> list[Tile]:
    """What `conv_gemm` may take, and ``bench --tune`` measures; a step is no deeper than the channels it runs over."""
    if flat:
        return _GATHERED_IEEE if kind == "ieee" else [*_GATHERED, _NARROW]
    deepest = max(16, _power(channels))
    spilling = [(128, 64), (32, 32)] if kind == "ieee" else []
    found = [replace(t, depth=min(t.depth, deepest)) for t in _candidates(kind, target)]
    return list(dict.fromkeys(t for t in found if (t.rows, t.columns) not in spilling))


def gradient_tiles(kind: str, target: configs.Target, flat: bool, channels: int = 64) -> list[Tile]:
    """What `conv_kernel_gradient` may take; a tile is no wider than the channels of one tap."""
    if flat:
        return _GATHERED_IEEE if kind == "ieee" else _GATHERED
    widest = max(16, _power(channels))
    found = [
        replace(t, columns=min(t.columns, widest))
        for t in _candidates(kind, target)
        if t.columns <= widest or t.num_warps <= 4  # a narrow tile is not enough work for eight warps
    ]
    return list(dict.fromkeys(t for t in found if t.rows >= 64 or t.columns <= 32))  # the others spill


def product_tile(
    like: Tensor, rows: int, columns: int, channels: int, taps: int, blocks: int, strided: bool = False
) -> tuple[bool, Tile]:
    """(FLAT, tile) of `conv_gemm`: ``blocks`` products of rows x columns that sum over ``taps`` times ``channels``.

    ``strided``: the rows are a residue class, whose places take more registers.
    """
    kind, target, flat = configs.conv_kind(like.dtype), configs.target_of(like.device), few(channels)
    name = "conv_gemm_flat" if flat else "conv_gemm_strided" if strided else "conv_gemm"

    def cost(t: Tile) -> float:
        depth = taps * channels if flat else taps * -(-channels // t.depth) * t.depth
        return configs.cycles(t, kind, -(-rows // t.rows) * t.rows * blocks, columns, depth, target)

    name = tile_key(name, kind, rows * blocks, columns, taps * channels)
    return flat, configs.settle(name, like.device, product_tiles(kind, target, flat, channels), cost)


def gradient_tile(like: Tensor, shape: ConvShape) -> tuple[bool, Tile, int]:
    """(FLAT, tile, splits) of `conv_kernel_gradient`: enough splits of the positions to fill the device, no more."""
    kind, target, flat = configs.conv_kind(like.dtype), configs.target_of(like.device), few(shape.group_inputs)
    rows, length, blocks = shape.group_outputs, shape.rows_out, shape.rays * shape.groups

    def programs(t: Tile) -> int:
        chunks = -(-shape.group_inputs // t.columns)
        columns = -(-shape.taps * shape.group_inputs // t.columns) if flat else shape.taps * chunks
        return -(-rows // t.rows) * columns * blocks

    def splits(t: Tile) -> int:
        wanted = -(-2 * target.processors // programs(t))
        return max(1, min(wanted, length // (8 * t.depth)))

    def cost(t: Tile) -> float:
        parts = splits(t)
        return configs.cycles(t, kind, t.rows * programs(t) * parts, t.columns, -(-length // parts), target)

    name = "conv_kernel_gradient_flat" if flat else "conv_kernel_gradient"
    name = tile_key(name, kind, rows * blocks, shape.taps * shape.group_inputs, length)
    tile = configs.settle(name, like.device, gradient_tiles(kind, target, flat, shape.group_inputs), cost)
    return flat, tile, splits(tile)
