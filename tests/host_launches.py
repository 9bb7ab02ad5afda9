"""Warm launches against cold ones, compiled for a GPU that does nothing. Not a test itself: `test_triton_host.py` runs
it.

Prints one JSON object: for each call, whether what was launched from memory is what is launched without: the same
compiled kernels with the same integers, and of the tensors' addresses those that were given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

import palora_kernels as pk
from bench.idle_driver import IdleDriver, idle_gpu
from palora_kernels import direct
from palora_kernels.triton.launching import replay

M, n, K, O, T, r = 2, 8, 32, 48, 2, 2


def shifted(tensor: Tensor, numbers: int) -> Tensor:
    """The same values in memory that starts ``numbers`` numbers after an aligned address."""
    memory = tensor.new_empty(tensor.numel() + numbers)
    return memory[numbers:].view(tensor.shape).copy_(tensor)


def calls() -> Iterator[tuple[str, dict[str, Any]]]:
    x, weight, bias = torch.randn(M * n, K), torch.randn(O, K), torch.randn(O)
    A, B, lam = torch.randn(T, O, r), torch.randn(T, r, K), torch.rand(M, T)
    plain = {"x": x, "weight": weight, "bias": bias, "A": A, "B": B, "lam": lam}
    yield "plain", plain
    yield "plain, other tensors", {name: t.clone() for name, t in plain.items()}
    yield "x off 16 bytes", {**plain, "x": shifted(x, 1)}
    yield "x moved by 16 bytes", {**plain, "x": shifted(x, 4)}
    yield "weight off 16 bytes", {**plain, "weight": shifted(weight, 2)}
    yield "no bias", {**plain, "bias": None}
    yield "no weight", {**plain, "weight": None}
    yield "transposed x", {**plain, "x": x.t().contiguous().t()}
    yield "one row a ray", {**plain, "x": x[:M].clone()}
    yield "rows that 16 does not divide", {**plain, "x": x[: M * 5].clone()}
    yield "rank 1", {**plain, "A": A[:, :, :1].clone(), "B": B[:, :1].clone()}
    yield "the same tensor twice", {**plain, "weight": weight[:, :K], "x": weight[: M * n]}
    half = {name: t if name == "lam" else t.bfloat16() for name, t in plain.items()}
    yield "bfloat16", half
    yield "persistent", half
    yield "persistent, other tensors", {name: t.clone() for name, t in half.items()}
    yield "persistent, x off 16 bytes", {**half, "x": shifted(half["x"], 1)}


def launched(gpu: IdleDriver, name: str, case: dict[str, Any]) -> list[Any]:
    gpu.launches.clear()
    with torch.no_grad(), pk.force_plan(linear="persistent") if name.startswith("persistent") else nullcontext():
        pk.linear(**case, backend="triton")
    given = {t.data_ptr(): name for name, t in case.items() if t is not None}
    return [
        (kernel, grid, [given.get(_address(v), "made") if _is_pointer(v) else v for v in values])
        for kernel, grid, values in gpu.launches
    ]


def _is_pointer(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, int) and value > 2**32)


def _address(value: Any) -> int:
    return int(value.data_ptr()) if isinstance(value, Tensor) else int(value)


def main() -> None:
    cases = dict(calls())
    with idle_gpu(noting=True) as gpu:
        cold = {}
        for name, case in cases.items():
            direct.forget()
            replay.forget()
            cold[name] = launched(gpu, name, case)
        for name, case in cases.items():  # what the memory holds may differ from each call in one thing only
            launched(gpu, name, case)
        captured = replay.capture
        replay.capture = None  # type: ignore[assignment]  # nothing is built again
        warm = {name: launched(gpu, name, case) for name, case in cases.items()}
        replay.capture = captured
    kernels = {name: launches[-1][0] for name, launches in cold.items()}
    print(json.dumps({"same": {name: warm[name] == cold[name] for name in cases}, "kernels": kernels}))


if __name__ == "__main__":
    main()
