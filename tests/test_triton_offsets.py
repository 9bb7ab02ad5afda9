"""Offsets of 64 bits: small tensors whose rows lie 2^30 numbers apart. Nothing is allocated: the launches of a plan are
recorded on the meta device, every program runs with its memory switched off, and each address that it asks for has to
be that of an element of the tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from palora_kernels.call import Call, Needs
from palora_kernels.factors import Dense, LowRank
from palora_kernels.triton.launching import configs, launch
from palora_kernels.triton.linear import plans as linear
from palora_kernels.triton.merge import merge
from palora_kernels.verify import counting

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU kernels are compiled, not interpreted")

FAR = 2**30 + 16
APART = 1 << 44  # bytes from one tensor to the next: farther than any of them reaches
ALL = Needs(x=True, weight=True, bias=True, factors=True, lam=True)
SMALL = configs.Tile(16, 16, 16, 4, 2, splits=2)


def far(*shape: int, axis: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Contiguous but for one axis, along which numbers lie ``FAR`` apart."""
    strides = list(torch.empty(shape, device="meta").stride())
    strides[axis] = FAR
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")


def elements(tensor: Tensor) -> np.ndarray:
    """Of every element the bytes from the first."""
    at = np.zeros((), np.int64)
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        at = at[..., None] + np.arange(size, dtype=np.int64) * stride
    return at.ravel() * tensor.element_size()


def outside(entry: launch.Launch, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tensors of a launch that are accessed where they have no element, or in none."""
    from triton.runtime import interpreter

    tensors = [(name, value) for name, value in entry.arguments.items() if isinstance(value, Tensor)]
    touched: list[np.ndarray] = []

    def noted(method: Any) -> Any:
        def access(self: Any, pointers: Any, *rest: Any) -> Any:
            mask = rest[0] if method.__name__ == "load" else rest[1]
            touched.append(pointers.data[np.broadcast_to(mask.data, pointers.data.shape).astype(bool)].ravel())
            return method(self, pointers, *rest)

        return access

    with counting._without_memory(counting.Cost()), counting._arguments(entry) as (run, values):
        for i, (name, _) in enumerate(tensors):
            values[name].handle.data = np.array([(i + 1) * APART], dtype=np.uint64)
        with monkeypatch.context() as patch, np.errstate(over="ignore"):
            for name in ("create_masked_load", "create_masked_store"):
                builder = interpreter.InterpreterBuilder
                patch.setattr(builder, name, noted(getattr(builder, name)))
            interpreter.interpreter_builder.set_grid_dim(entry.programs, 1, 1)
            for program in range(entry.programs):
                interpreter.interpreter_builder.set_grid_idx(program, 0, 0)
                run(**values)
    # Half of the distance before a tensor is its own too: a wrapped offset is negative.
    places = np.concatenate(touched).astype(np.int64) + APART // 2
    found = []
    for i, (name, tensor) in enumerate(tensors):
        mine = places[places // APART == i + 1] - (i + 1) * APART - APART // 2
        if not np.isin(mine, elements(tensor)).all():
            found.append(f"{entry.name}: {name}")
    return found + [f"{entry.name}: nowhere"] * bool((places // APART > len(tensors)).any())


def check(launches: list[launch.Launch], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    assert [where for entry in launches for where in outside(entry, monkeypatch)] == []
    return {entry.name for entry in launches}


M, n, K, O, T, r = 3, 5, 20, 18, 4, 3


def operands(axis: int) -> dict[str, Tensor]:
    """``axis`` -2: rows are far from each other; -1: the numbers of a row are; 0: what is first, tasks and rays."""
    return {
        "x": far(M * n, K, axis=axis),
        "weight": far(O, K, axis=axis),
        "bias": far(M, O, axis=axis),
        "A": far(T, O, r, axis=axis),
        "B": far(T, r, K, axis=axis),
        "D": far(T, O, K, axis=axis),
        "lam": far(M, T, axis=axis, dtype=torch.float32),
        "grad": far(M * n, O, axis=axis),
    }


@pytest.mark.parametrize("axis", [0, -1, -2])
@pytest.mark.parametrize("shared", [False, True])
def test_linear(axis: int, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    t = operands(axis)
    x = t["x"][:n] if shared else t["x"]
    seen: set[str] = set()
    monkeypatch.setattr(configs, "choose_splits", lambda *_: 2)
    with configs.assume(configs.TARGETS["sm_90"], tile=SMALL):
        for plan in ("factored", "split", "splitk", "basis"):
            factors = Dense(t["D"]) if plan == "basis" else LowRank(t["A"], t["B"], (O, K))
            call = Call(x, t["weight"], t["bias"], factors, t["lam"], shared, 2)
            forward, backward = linear.PLANS[plan]
            with launch.recording() as launches:
                _, S = forward(call)
                backward(call, t["grad"], S, ALL)
            seen |= check(launches, monkeypatch)
    assert seen >= {"linear_product", "linear_project", "linear_weights", "linear_bias", "linear_lam", "linear_splitk"}


@pytest.mark.parametrize("axis", [0, -1, -2])
def test_merging(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    t = operands(axis)
    with configs.assume(configs.TARGETS["sm_90"]), launch.recording() as launches:
        merge.kernels_of_rays(None, LowRank(t["A"], t["B"], (O, K, 1, 1)), t["lam"])
    assert check(launches, monkeypatch) == {"merge_low_rank"}


def test_a_wrapped_offset_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the others rely on."""
    from palora_kernels.triton.launching.operands import in_side
    from palora_kernels.triton.linear import project as linear_project

    t = operands(-2)
    with configs.assume(configs.TARGETS["sm_90"], tile=SMALL), launch.recording() as launches:
        linear_project.run(t["x"], in_side(t["B"]))
    entry = launches[0]
    near = {**entry.arguments, "x_ptr": t["x"][:2]}  # as if the third row were not an element
    assert outside(launch.Launch(entry.kernel, entry.programs, near, 4, 2), monkeypatch) == ["linear_project: x_ptr"]
