"""Tiles that a compiler spilled, by kernel, kind of product and target: `configs.settle` takes them only if measured.

Whether a tile's registers suffice is up to ptxas, and it changes its mind for a handful of them from one target to the
next and from one release of Triton to another, so they are listed by release as they were found. A release whose gate
did not run over all kernels and targets, newer or older, is taken to spill whatever any of them spilled. `python -m
palora_kernels.triton.aot` finds them: its gate fails for a tile that is chosen unasked and spills.
"""

from __future__ import annotations

import functools
import re
from dataclasses import replace

from palora_kernels import versions
from palora_kernels.triton.tuning import Tile

# By release of Triton. A line: kernel, kind, targets: rows x columns x depth, warps, stages.
_SEEN = {
    (3, 4): """
linear_basis_weights ieee sm_90: 128x64x16 w8 s3
linear_splitk ieee sm_90: 64x64x16 w8 s2
linear_splitk tf32 sm_80: 64x128x32 w8 s4
""",
    (3, 6): """
conv_gemm ieee sm_80: 64x64x16 w4 s2
conv_gemm_flat ieee sm_80 sm_90: 128x64x16 w8 s2
conv_gemm_flat ieee sm_80: 64x32x16 w4 s2
add_adapters ieee sm_80: 16x32x32 w2 s1
adapter_gradients half sm_80: 16x16x64 w2 s3
adapter_gradients ieee sm_90: 32x16x16 w4 s3, 32x32x16 w4 s3
linear_combine ieee sm_80: 32x128x16 w4 s3
linear_project ieee sm_80: 64x64x16 w4 s3
linear_splitk half sm_80: 64x64x128 w4 s4, 32x128x128 w4 s4, 16x128x128 w4 s4, 16x64x128 w4 s4
linear_splitk ieee sm_80: 64x64x16 w8 s2, 64x32x16 w4 s3
linear_splitk_sum half sm_80: 16x128x32 w8 s1, 16x32x32 w4 s1
""",
    (3, 8): """
conv_gemm ieee sm_100: 64x32x16 w4 s3
conv_gemm_strided half sm_120: 128x64x64 w4 s3
conv_kernel_gradient half sm_100: 64x64x64 w4 s4
conv_kernel_gradient tf32 sm_100: 128x32x32 w4 s3
conv_kernel_gradient_flat ieee sm_80: 128x32x16 w8 s2
conv_kernel_gradient_flat ieee sm_100 sm_120: 128x64x16 w8 s2
conv_kernel_gradient_flat half sm_120: 64x32x16 w4 s2
conv_kernel_gradient_flat ieee sm_120: 64x32x16 w4 s2
conv_kernel_gradient_flat tf32 sm_120: 64x32x16 w4 s2, 64x64x16 w4 s2, 128x64x16 w8 s2
add_adapters ieee sm_100: 32x64x32 w4 s1
adapter_gradients ieee sm_100: 32x16x16 w4 s3
linear_basis ieee sm_120: 64x64x16 w4 s2
linear_basis_lam ieee sm_120: 64x32x16 w4 s3, 32x64x16 w4 s3
linear_basis_weights half sm_100: 64x64x64 w4 s4
linear_basis_weights tf32 sm_120: 128x128x32 w8 s3
linear_product ieee sm_100 sm_120: 32x32x16 w4 s3
linear_product tf32 sm_120: 128x64x32 w4 s3, 64x64x32 w4 s4
linear_product half sm_120: 64x64x64 w4 s4
linear_project half sm_100 sm_120: 64x64x64 w4 s4
linear_weights ieee sm_100: 64x32x16 w4 s3, 32x32x16 w4 s3
""",
}
_WHOLE = ((3, 6), (3, 8))


def label(tile: Tile) -> str:
    text = f"{tile.rows}x{tile.columns}x{tile.depth} w{tile.num_warps} s{tile.num_stages}"
    return f"{text} k{tile.splits}" if tile.splits else text


@functools.cache
def _seen(release: tuple[int, int]) -> frozenset[tuple[str, str, str, Tile]]:
    found: set[tuple[str, str, str, Tile]] = set()
    lines = _SEEN[release] if release in _WHOLE else "".join(_SEEN.values())
    for line in filter(None, lines.splitlines()):
        head, tiles = line.split(": ")
        kernel, kind, *targets = head.split()
        for text in tiles.split(", "):
            tile = Tile(*(int(number) for number in re.findall(r"\d+", text)))
            found.update((kernel, kind, target, tile) for target in targets)
    return frozenset(found)


def spills(kernel: str, kind: str, target: str, tile: Tile) -> bool:
    """``kernel`` and ``kind`` as in `tuning.tile_key`, ``target`` as in `configs.TARGETS`."""
    return (kernel, kind, target, replace(tile, splits=0)) in _seen(versions.triton_release())
