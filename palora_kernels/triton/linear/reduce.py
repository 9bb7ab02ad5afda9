# mypy: allow-untyped-defs, allow-incomplete-defs
"""Sums of partial results in a fixed order: what float atomics would do in a different order every time.

A kernel whose reduction is shared by several programs writes one float32 copy of its outputs a split into a workspace;
`add_splits` adds the copies, split 0 first, and rounds once to the dtype of the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from palora_kernels.triton.launching.launch import launch
from palora_kernels.triton.launching.tiles import step

_BLOCK = 1024
_MOST = 4  # outputs of one launch


@triton.jit
def _add(workspace_ptr, out_ptr, block, size, splits, split_stride, BLOCK: tl.constexpr):
    index = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(splits):
        total += tl.load(workspace_ptr + step(i, split_stride) + index, mask=index < size, other=0.0)
    tl.store(out_ptr + index, total.to(out_ptr.dtype.element_ty), mask=index < size)


@triton.jit
def add_splits(
    workspace_ptr,
    a_ptr,
    b_ptr,
    c_ptr,
    d_ptr,
    a_size,
    b_size,
    c_size,
    d_size,
    a_start,
    b_start,
    c_start,
    d_start,
    splits,
    split_stride,
    BLOCK: tl.constexpr,
):
    """Output q, q_size values or None: the sum over splits i of workspace[i*split_stride + q_start + ...]."""
    block = tl.program_id(0)
    if a_ptr is not None:
        if block >= 0 and block < tl.cdiv(a_size, BLOCK):
            _add(workspace_ptr + a_start, a_ptr, block, a_size, splits, split_stride, BLOCK)
        block -= tl.cdiv(a_size, BLOCK)
    if b_ptr is not None:
        if block >= 0 and block < tl.cdiv(b_size, BLOCK):
            _add(workspace_ptr + b_start, b_ptr, block, b_size, splits, split_stride, BLOCK)
        block -= tl.cdiv(b_size, BLOCK)
    if c_ptr is not None:
        if block >= 0 and block < tl.cdiv(c_size, BLOCK):
            _add(workspace_ptr + c_start, c_ptr, block, c_size, splits, split_stride, BLOCK)
        block -= tl.cdiv(c_size, BLOCK)
    if d_ptr is not None:
        if block >= 0 and block < tl.cdiv(d_size, BLOCK):
            _add(workspace_ptr + d_start, d_ptr, block, d_size, splits, split_stride, BLOCK)


@dataclass(frozen=True)
class Partial:
    """Where a kernel writes: the outputs themselves with one split, else their places in a float32 workspace."""

    outputs: tuple[Tensor | None, ...]
    targets: tuple[Tensor | None, ...]
    starts: tuple[int, ...]
    workspace: Tensor | None
    splits: int
    stride: int  # float32 values from one split to the next

    @staticmethod
    def of(outputs: Sequence[Tensor | None], splits: int) -> Partial:
        """At most four contiguous outputs, None where one is not wanted."""
        if len(outputs) > _MOST:
            raise ValueError(f"`outputs` should be at most {_MOST}. Found {len(outputs)}.")
        present = [t for t in outputs if t is not None]
        if splits == 1 or not present:
            return Partial(tuple(outputs), tuple(outputs), (0,) * len(outputs), None, 1, 0)
        starts, end = [], 0
        for t in outputs:
            starts.append(end)
            end += 0 if t is None else -(-t.numel() // 16) * 16  # every output starts aligned
        workspace = torch.empty(splits * end, dtype=torch.float32, device=present[0].device)
        targets = [None if t is None else workspace[s:] for t, s in zip(outputs, starts, strict=True)]
        return Partial(tuple(outputs), tuple(targets), tuple(starts), workspace, splits, end)

    def finish(self) -> None:
        """Add the splits up, where there are several."""
        if self.workspace is None:
            return
        outputs = [*self.outputs, *[None] * (_MOST - len(self.outputs))]
        starts = [*self.starts, *[0] * (_MOST - len(self.starts))]
        sizes = [0 if t is None else t.numel() for t in outputs]
        launch(
            add_splits,
            sum(triton.cdiv(size, _BLOCK) for size in sizes),
            num_warps=4,
            num_stages=2,
            workspace_ptr=self.workspace,
            **{f"{q}_ptr": t for q, t in zip("abcd", outputs, strict=True)},
            **{f"{q}_size": size for q, size in zip("abcd", sizes, strict=True)},
            **{f"{q}_start": start for q, start in zip("abcd", starts, strict=True)},
            splits=self.splits,
            split_stride=self.stride,
            BLOCK=_BLOCK,
        )
