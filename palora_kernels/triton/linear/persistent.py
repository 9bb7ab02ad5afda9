# mypy: allow-untyped-defs, allow-incomplete-defs
"""Y = [X | L] [W | Q]^T by programs that stay: each walks over tiles of Y, fed by TMA copies. dX is the same kernel.

    L = [S o Lam | ones | 0], Q = [A | b | 0]      Y  = X W^T + L Q^T        (`linear_extend` writes L and Q)
    U = [U0 o Lam | 0]                             dX = G W + U B

The adapters and the bias are a last step or two of the reduction, read through other descriptors, so that beside the
accumulator nothing takes registers and a tile of 128 x 256 fits; and the loops over tiles and over the reduction are
one (``flatten``), so that the operands of the next tile arrive while this one is written. The sum is rounded once.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.configs import Target, Tile
from palora_kernels.triton.launching.launch import launch
from palora_kernels.triton.launching.tiles import tile_of
from palora_kernels.triton.launching.tuning import tile_key


@triton.jit
def linear_persistent(
    x_ptr,
    w_ptr,
    left_ptr,
    right_ptr,
    y_ptr,
    rows,
    O,
    K,
    C,
    x_row,
    w_row,
    left_row,
    right_row,
    ALONG_K: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PARTS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """x (rows, K), left (rows, C), y (rows, O); w (O, K) and right (O, C) if ALONG_K, else (K, O) and (C, O).

    All rows are contiguous and start at multiples of 16 bytes. PARTS: column blocks in which a tile is written.
    """
    x_tiles = tl.make_tensor_descriptor(x_ptr, [rows, K], [x_row, 1], [BM, BK])
    left_tiles = tl.make_tensor_descriptor(left_ptr, [rows, C], [left_row, 1], [BM, BK])
    y_tiles = tl.make_tensor_descriptor(y_ptr, [rows, O], [O, 1], [BM, BN // PARTS])
    if ALONG_K:
        w_tiles = tl.make_tensor_descriptor(w_ptr, [O, K], [w_row, 1], [BN, BK])
        right_tiles = tl.make_tensor_descriptor(right_ptr, [O, C], [right_row, 1], [BN, BK])
    else:
        w_tiles = tl.make_tensor_descriptor(w_ptr, [K, O], [w_row, 1], [BK, BN])
        right_tiles = tl.make_tensor_descriptor(right_ptr, [C, O], [right_row, 1], [BK, BN])
    row_tiles = tl.cdiv(rows, BM)
    column_tiles = tl.cdiv(O, BN)
    base_steps = tl.cdiv(K, BK)
    steps = base_steps + tl.cdiv(C, BK)
    for tile in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0), flatten=True):
        row_tile, column_tile = tile_of(tile, row_tiles, column_tiles, GROUP)
        p = row_tile * BM
        o = column_tile * BN
        acc = tl.zeros((BM, BN), tl.float32)
        for i in range(steps):
            if i < base_steps:
                from_left = x_tiles
                from_right = w_tiles
                k = i * BK
            else:
                from_left = left_tiles
                from_right = right_tiles
                k = (i - base_steps) * BK
            x = from_left.load([p, k])
            if ALONG_K:
                w = tl.trans(from_right.load([o, k]))
            else:
                w = from_right.load([k, o])
            acc = tl.dot(x, w, acc)
        if PARTS == 2:
            first, second = tl.split(tl.permute(tl.reshape(acc, (BM, 2, BN // 2)), (0, 2, 1)))
            y_tiles.store([p, o], first.to(y_ptr.dtype.element_ty))
            y_tiles.store([p, o + BN // 2], second.to(y_ptr.dtype.element_ty))
        else:
            y_tiles.store([p, o], acc.to(y_ptr.dtype.element_ty))


def describable(*tensors: Tensor) -> bool:
    """Whether TMA copies can read these matrices: 16-bit numbers in contiguous rows that start at multiples of 16
    bytes."""
    return all(
        t.element_size() == 2
        and t.numel() > 0
        and t.stride(1) == 1
        and t.stride(0) >= t.shape[1]
        and t.stride(0) % 8 == 0
        and _address(t) % 16 == 0
        for t in tensors
    )


def _address(tensor: Tensor) -> int:
    return int(tensor.storage_offset()) * 2 if tensor.device.type == "meta" else tensor.data_ptr()


def run(x: Tensor, weight: Tensor, left: Tensor, right: Tensor, *, along_k: bool) -> Tensor:
    """Y (rows, O) for x (rows, K), left (rows, C), weight (O, K), right (O, C); the last two (K, O) and (C, O) unless
    ``along_k``; all `describable`. ``left`` may have more columns than ``right`` serves; they are not read."""
    rows, K = x.shape
    O = weight.shape[0 if along_k else 1]
    y = x.new_empty(rows, O)
    tile = _choose(x, rows, O, K + left.shape[1])
    target = configs.target_of(x.device)
    tiles = triton.cdiv(rows, tile.rows) * triton.cdiv(O, tile.columns)
    launch(
        linear_persistent,
        min(tiles, target.processors * _resident(tile, target)),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        x_ptr=x,
        w_ptr=weight,
        left_ptr=left,
        right_ptr=right,
        y_ptr=y,
        rows=rows,
        O=O,
        K=K,
        C=right.shape[1 if along_k else 0],
        x_row=x.stride(0),
        w_row=weight.stride(0),
        left_row=left.stride(0),
        right_row=right.stride(0),
        ALONG_K=along_k,
        BM=tile.rows,
        BN=tile.columns,
        BK=tile.depth,
        PARTS=_parts(tile),
        GROUP=8,
    )
    return y


# The largest first: of equal estimates the first is taken.
_TILES = (
    Tile(128, 256, 64, 8, 4),
    Tile(128, 256, 64, 8, 3),
    Tile(128, 128, 64, 8, 3),
    Tile(128, 128, 64, 4, 3),
    Tile(64, 128, 64, 4, 4),
)


def _parts(tile: Tile) -> int:
    return 2 if tile.columns >= 128 else 1


def _held(tile: Tile) -> int:
    """Bytes of shared memory: the operands of all stages, a part of the result on its way out, and the barriers."""
    operands = (tile.rows + tile.columns) * tile.depth * tile.num_stages
    return 2 * (operands + tile.rows * tile.columns // _parts(tile)) + 256


def _resident(tile: Tile, target: Target) -> int:
    """Programs that a processor holds: of two, one multiplies while the other writes its tile."""
    return max(1, min(2, target.shared_memory // _held(tile)))


def candidates(target: Target) -> list[Tile]:
    return [tile for tile in _TILES if _held(tile) <= target.shared_memory]


def _choose(x: Tensor, rows: int, O: int, K: int) -> Tile:
    target = configs.target_of(x.device)
    name = tile_key("linear_persistent", "half", rows, O, K)
    return configs.settle(name, x.device, candidates(target), lambda t: configs.cycles(t, "half", rows, O, K, target))
