"""Instructions that a warp issues for one output tile, against the least that any code could.

Counted is a tile whose reduction is DEPTH long. The main loop is the loop of the machine code that does the most
multiply-accumulates (an outer loop that adds none around it does not count as larger). With

    B   instructions of its body, from the target of the backward jump to the jump, both sides of branches inside
    W   multiply-accumulates of its body by one warp: Σ over its FFMA, HMMA, HGMMA or v_mfma of what each does
    L   multiply-accumulates of the products inside the kernel's loop per unit of reduction depth (tt.dot: m · n)
    P   everything outside the body, once

    per tile = P + B · DEPTH · L / (warps · W)

so that an unrolled body counts as what it is. tcgen05's instruction does not name its shape: there the body is taken
as one turn of the kernel's loop. The floor has the products, and the 16-byte loads that bring each of their operands
from global memory once:

    floor = DEPTH · L / (warps · macs of one instruction) + DEPTH · bytes per unit of depth / (16 · warp · warps)

Neither number knows latencies: it compares code with code, and is no prediction of time.
"""

from __future__ import annotations

import math

from palora_kernels.verify.aot.code import Code
from palora_kernels.verify.aot.ir import Dot, dots

DEPTH = 1024
_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "f64": 8}


def cost(code: Code, ttir: str, warps: int, warp: int) -> tuple[int, int] | None:
    """(per tile, floor), both instructions of one warp; None where no loop of the code multiplies matrices."""
    inside = _main_loop(dots(ttir))
    found = _body(code)
    if not inside or found is None:
        return None
    first, last = found
    body = code.instructions[first : last + 1]
    products = [op for op in body if op in code.macs]
    k = max(dot.k for dot in inside)
    per_depth = sum(dot.macs for dot in inside) / k
    known = [code.macs[op] for op in products]
    if any(macs is None for macs in known):
        turns, one = DEPTH / k, math.inf  # tcgen05: a single thread issues, warps do not
    else:
        done = sum(macs for macs in known if macs is not None)
        turns = DEPTH * per_depth / (warps * done)
        one = max(macs for macs in known if macs is not None)
    outside = len(code.instructions) - len(body)
    loads = DEPTH / k * _operand_bytes(inside) / (16 * warp * warps)
    floor = (DEPTH * per_depth / (warps * one) if math.isfinite(one) else turns * len(products)) + loads
    return round(outside + turns * len(body)), round(floor)


def _main_loop(found: list[Dot]) -> list[Dot]:
    """The products of the kernel's loop that has the most work."""
    by_loop: dict[int, list[Dot]] = {}
    for dot in found:
        if dot.loop >= 0:
            by_loop.setdefault(dot.loop, []).append(dot)
    return max(by_loop.values(), key=lambda dots: sum(dot.macs for dot in dots), default=[])


def _body(code: Code) -> tuple[int, int] | None:
    def work(loop: tuple[int, int]) -> tuple[int, int]:
        body = code.instructions[loop[0] : loop[1] + 1]
        macs = sum((code.macs[op] or 1) for op in body if op in code.macs)
        return macs, -len(body)  # of equal work the innermost

    candidates = [loop for loop in code.loops() if work(loop)[0] > 0]
    return max(candidates, key=work, default=None)


def _operand_bytes(inside: list[Dot]) -> int:
    sizes: dict[str, int] = {}
    for dot in inside:
        sizes[dot.operands[0]] = dot.m * dot.k * _BYTES[dot.dtype]
        sizes[dot.operands[1]] = dot.k * dot.n * _BYTES[dot.dtype]
    return sum(sizes.values())
