"""Small kernels with a planted fault each, and sound ones: what the checks of the Triton kernels must tell apart.

Not a test itself. ``variants`` is a catalogue as `python -m palora_kernels.verify.aot --catalog triton_toys` takes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import triton
import triton.language as tl

from palora_kernels.verify.catalog import Variant


@triton.jit
def matmul(
    a_ptr,
    b_ptr,
    c_ptr,
    columns,
    inner,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    precision: tl.constexpr,
):
    tiles_n = columns // block_n
    i = (tl.program_id(0) // tiles_n) * block_m + tl.arange(0, block_m)
    j = (tl.program_id(0) % tiles_n) * block_n + tl.arange(0, block_n)
    total = tl.zeros((block_m, block_n), tl.float32)
    for start in range(0, inner, block_k):
        k = start + tl.arange(0, block_k)
        a = tl.load(a_ptr + i[:, None].to(tl.int64) * inner + k[None, :])
        b = tl.load(b_ptr + k[:, None].to(tl.int64) * columns + j[None, :])
        total = tl.dot(a, b, total, input_precision=precision)
    tl.store(c_ptr + i[:, None].to(tl.int64) * columns + j[None, :], total)


@triton.jit
def matmul_by_hand(
    a_ptr,
    b_ptr,
    c_ptr,
    columns,
    inner,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    precision: tl.constexpr,
):
    """A product without ``tl.dot``: no compiler will find the tensor cores."""
    i = tl.program_id(0) * block_m + tl.arange(0, block_m)
    j = tl.arange(0, block_n)
    total = tl.zeros((block_m, block_n), tl.float32)
    for k in range(0, inner, block_k):
        a = tl.load(a_ptr + i * inner + k).to(tl.float32)
        b = tl.load(b_ptr + k * columns + j).to(tl.float32)
        total += a[:, None] * b[None, :]
    tl.store(c_ptr + i[:, None] * columns + j[None, :], total)


@triton.jit
def copy(x_ptr, y_ptr, size, block: tl.constexpr):
    at = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < size), mask=at < size)


@triton.jit
def same_place(y_ptr, block: tl.constexpr):
    """Every program writes the same elements: a race of all with all."""
    tl.store(y_ptr + tl.arange(0, block), tl.zeros((block,), tl.float32) + tl.program_id(0))


def variants() -> Iterator[Variant]:
    nvidia, both = ("sm_80", "sm_90"), ("sm_80", "gfx942")
    yield _matmul("sound bf16", "bf16", (64, 64, 64))
    yield _matmul("sound fp16", "fp16", (64, 64, 64), targets=both)
    yield _matmul("sound tf32", "fp32", (64, 64, 32), precision="tf32", targets=both)
    yield _matmul("sound ieee", "fp32", (32, 32, 16), dots="ieee", targets=both)
    spills = _matmul("spills", "fp32", (128, 128, 16), dots="ieee", num_warps=2, targets=("sm_80",))
    yield spills
    yield replace(spills, name="spills, untuned", default=False)
    yield _matmul("spills on AMD", "bf16", (256, 256, 16), num_warps=2, targets=("gfx942",))
    yield _matmul("too much shared memory", "bf16", (64, 64, 256), num_stages=4, targets=both)
    yield _matmul("no tensor cores", "bf16", (32, 32, 1), kernel=matmul_by_hand, targets=nvidia)
    yield _matmul("tile too narrow", "bf16", (4, 64, 16), targets=both)
    yield _matmul("said to be ieee", "fp32", (64, 64, 32), precision="tf32", dots="ieee", targets=("sm_90",))
    yield _matmul("does not compile", "bf16", (48, 64, 64), targets=("sm_80",))
    yield Variant(
        kernel=copy,
        name="sound copy",
        signature={"x_ptr": "*fp32", "y_ptr": "*fp32", "size": "i32", "block": "constexpr"},
        constants={"block": 1024},
        divisible=("x_ptr", "y_ptr", "size"),
        num_warps=4,
        num_stages=1,
        default=True,
        dots="none",
    )


def _matmul(
    name: str,
    dtype: str,
    blocks: tuple[int, int, int],
    *,
    precision: str = "ieee",
    dots: str = "tensor",
    num_warps: int = 4,
    num_stages: int = 2,
    kernel: Any = matmul,
    targets: tuple[str, ...] | None = None,
) -> Variant:
    pointers = {"a_ptr": f"*{dtype}", "b_ptr": f"*{dtype}", "c_ptr": "*fp32"}
    constants = {**dict(zip(("block_m", "block_n", "block_k"), blocks, strict=True)), "precision": precision}
    return Variant(
        kernel=kernel,
        name=name,
        signature={**pointers, "columns": "i32", "inner": "i32", **dict.fromkeys(constants, "constexpr")},
        constants=constants,
        divisible=(*pointers, "columns", "inner"),
        num_warps=num_warps,
        num_stages=num_stages,
        default=True,
        dots=dots,
        targets=targets,
    )
