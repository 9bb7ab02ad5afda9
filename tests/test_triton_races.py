"""Races and bounds: the interpreter under watch catches planted faults at their line and lets sound kernels pass.

Under the interpreter conftest.py watches every other test of a Triton kernel too.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

triton: Any = pytest.importorskip("triton", reason="Triton is not installed")
import triton.language as tl  # noqa: E402
import triton_toys as toys  # noqa: E402
from triton.runtime.errors import InterpreterError  # noqa: E402

from palora_kernels.verify.races import Launch, Seen  # noqa: E402

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU kernels are compiled, not interpreted")


@triton.jit
def neighbour(x_ptr, size, block: tl.constexpr):
    """Reads its block of x and writes the next one."""
    at = tl.program_id(0) * block + tl.arange(0, block)
    x = tl.load(x_ptr + at, mask=at < size)
    tl.store(x_ptr + at + block, x + 1, mask=at + block < size)


@triton.jit
def previous(x_ptr, block: tl.constexpr, first: tl.constexpr = 1):
    """Reads its block of x and writes the one before."""
    at = tl.program_id(0) * block + tl.arange(0, block)
    x = tl.load(x_ptr + at)
    tl.store(x_ptr + at - block, x, mask=at >= first * block)


@triton.jit
def collide(x_ptr, y_ptr, block: tl.constexpr):
    at = tl.arange(0, block)
    tl.store(y_ptr + at // 2, tl.load(x_ptr + at))


@triton.jit
def reread(x_ptr, out_ptr, block: tl.constexpr, barrier: tl.constexpr):
    at = tl.arange(0, block)
    tl.store(x_ptr + at, tl.zeros((block,), tl.float32))
    if barrier:
        tl.debug_barrier()
    tl.store(out_ptr + at, tl.load(x_ptr + block - 1 - at))


@triton.jit
def add_atomically(y_ptr, block: tl.constexpr):
    tl.atomic_add(y_ptr + tl.arange(0, block), 1.0)


@triton.jit
def promise(x_ptr, y_ptr, stride, block: tl.constexpr, multiple: tl.constexpr):
    at = tl.arange(0, block)[:, None] * stride + tl.arange(0, block)[None, :]
    at = tl.multiple_of(at, [1, multiple])
    tl.store(y_ptr + at, tl.load(x_ptr + at))


def refuses(message: str) -> Any:
    return pytest.raises(InterpreterError, match=message)


def test_a_false_promise_to_the_compiler_is_caught() -> None:
    """Rows of 20 numbers start at multiples of 4, not of 8."""
    x, y = torch.randn(16, 20), torch.empty(16, 20)
    promise[(1,)](x, y, 20, block=16, multiple=4)
    with refuses("promises multiples of 8, but a run starts at 20"):
        promise[(1,)](x, y, 20, block=16, multiple=8)


def test_disjoint_programs_pass_whatever_the_size() -> None:
    for size in (1, 31, 32, 33, 100):
        x, y = torch.randn(size), torch.full((size,), float("nan"))
        toys.copy[(triton.cdiv(size, 32),)](x, y, size, block=32)
        assert torch.equal(x, y)


def test_a_read_past_the_end_is_caught_at_its_line() -> None:
    line = toys.copy.fn.__code__.co_firstlineno + 3
    with refuses(rf"copy \(triton_toys.py:{line}, program 3\) reads out of bounds: 28 elements, .* end of x_ptr"):
        toys.copy[(4,)](torch.randn(100), torch.empty(128), 128, block=32)


def test_a_write_past_the_end_is_caught() -> None:
    with refuses("writes out of bounds: 28 elements, .* after the end of y_ptr"):
        toys.copy[(4,)](torch.randn(128), torch.empty(100), 128, block=32)


def test_a_view_ends_where_it_ends_and_not_with_its_storage() -> None:
    memory = torch.randn(200)
    with refuses("reads out of bounds"):
        toys.copy[(4,)](memory[:100], torch.empty(128), 128, block=32)
    with refuses("reads out of bounds"):
        toys.copy[(4,)](memory[100:], torch.empty(128), 128, block=32)
    toys.copy[(4,)](memory[72:], torch.empty(128), 128, block=32)


def test_an_empty_tensor_has_no_element() -> None:
    with refuses("reads out of bounds: 32 elements"):
        toys.copy[(1,)](torch.randn(0), torch.empty(32), 32, block=32)


def test_an_address_before_the_start_is_caught() -> None:
    memory = torch.randn(64)
    with refuses("writes out of bounds: 32 elements, one 128 bytes before the start of x_ptr"):
        previous[(1,)](memory[32:], block=32, first=0)


def test_programs_that_write_the_same_element_race() -> None:
    toys.same_place[(1,)](torch.empty(32), block=32)
    with refuses("program 1. writes what another program wrote: 32 elements of y_ptr"):
        toys.same_place[(2,)](torch.empty(32), block=32)


def test_reading_what_an_earlier_program_wrote_is_a_race() -> None:
    neighbour[(1,)](torch.zeros(64), 64, block=32)
    with refuses("program 1. reads what another program wrote: 32 elements of x_ptr"):
        neighbour[(2,)](torch.zeros(96), 96, block=32)


def test_writing_what_an_earlier_program_read_is_a_race() -> None:
    """The same race with the programs in the other order."""
    previous[(1,)](torch.zeros(32), block=32)
    with refuses("program 1. writes what another program reads: 32 elements of x_ptr"):
        previous[(2,)](torch.zeros(64), block=32)


def test_two_values_for_one_address_in_one_store() -> None:
    collide[(1,)](torch.ones(32), torch.empty(16), block=32)  # twice the same value is harmless
    with refuses("writes two values at one address"):
        collide[(1,)](torch.randn(32), torch.empty(16), block=32)


def test_a_program_reads_its_own_writes_only_behind_a_barrier() -> None:
    reread[(1,)](torch.ones(32), torch.empty(32), block=32, barrier=True)
    with refuses("reads what it wrote itself, without a barrier"):
        reread[(1,)](torch.ones(32), torch.empty(32), block=32, barrier=False)


def test_atomics_are_refused() -> None:
    with refuses("add_atomically .* uses an atomic operation"):
        add_atomically[(1,)](torch.zeros(32), block=32)


def test_views_of_different_types_of_one_memory_are_one_memory() -> None:
    memory = torch.zeros(8)
    launch = Launch("k", {"wide": memory, "narrow": memory.view(torch.float16)}, Seen())
    start = memory.data_ptr()
    launch.begin_program()
    launch.store(torch.tensor([start + 6]).numpy(), torch.ones(1, dtype=torch.float16).numpy(), 2)
    launch.begin_program()
    launch.load(torch.tensor([start]).numpy(), 4)
    with pytest.raises(RuntimeError, match="reads what another program wrote: 1 elements of"):
        launch.load(torch.tensor([start + 4]).numpy(), 4)


@pytest.mark.slow
def test_every_kernel_is_free_of_races_and_stays_in_bounds() -> None:
    """All plans at shapes with tails everywhere; every kernel of the package with several programs at a time."""
    import conftest
    import triton_plans

    from palora_kernels.verify import catalog

    for name in triton_plans.CASES:
        for result in triton_plans.run(name, torch.bfloat16, "cpu"):
            assert bool(torch.isfinite(result.float()).all()), name
    kernels = {variant.kernel.fn.__name__ for variant in catalog.all_variants()}
    alone = {name for name in kernels if name not in conftest.WATCHED or conftest.WATCHED[name].programs < 2}
    assert not alone


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ttsem") is None,
    reason="ttsem is not installed: the extra `races`, which needs Python 3.12; before it only "
    "`pip install --no-deps --ignore-requires-python ttsem==0.1.0`",
)
def test_the_compilers_code_is_free_of_races_and_stays_in_bounds() -> None:
    """A second checker, of another author: it executes the compiled kernels, where `watch` interprets their source."""
    tests = Path(__file__).parent
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([*sys.path, str(tests)])
    command = [sys.executable, "-m", "ttsem.sanitize", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider"]
    command += ["-p", "no:xdist", str(tests / "triton_sanitized.py")]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout
    failed = {line.split("::")[1].split(" ")[0] for line in output.splitlines() if line.startswith("FAILED")}
    assert failed == {"test_planted_read_out_of_bounds", "test_planted_race"}, output[-3000:]
    assert "reads 28 element(s) past the end of the tensor passed as `x_ptr`" in output
    assert "both touch element 0 of `y_ptr`" in output
