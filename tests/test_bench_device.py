"""`palora bench --device cuda` without a GPU: all but graphs and events runs here, on the host's clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("typer")

from palora.bench import models, ops, table
from palora.bench.device import bound, clock, coverage, figure, rates, rows, run
from palora.cli import main
from palora.cli.bench import check_kernels, on_device, tuned
from palora.errors import PaloraError
from palora_kernels import implementations, plans
from palora_kernels.triton.launching import configs, tuning
from palora_kernels.triton.launching.configs import TARGETS, Tile
from palora_kernels.triton.linear import plans as linear
from palora_kernels.verify import roofline
from palora_kernels.verify.networks import LAYERS

CPU = torch.device("cpu")
SMALL = Tile(16, 16, 16, 4, 2)


@contextmanager
def small_tiles() -> Iterator[None]:
    with configs.assume(TARGETS["sm_90"], tile=SMALL):
        yield


# ------------------------------------------------------------------------------------------------------- correctness


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, *(pytest.param(d, marks=pytest.mark.slow) for d in (torch.float32, torch.float16))]
)
def test_every_plan_is_covered_and_right(dtype: torch.dtype) -> None:
    calls = coverage.examples(small=True)
    with small_tiles():
        found = list(coverage.findings(CPU, [dtype], ["triton"], calls))
    assert [f for f in found if not f.correct] == []
    for op in plans.ALGORITHMS:
        for algorithm in implementations.algorithms(op, "triton", "cpu"):
            if coverage.has(CPU, dtype, algorithm):
                assert any(f.name.startswith(f"triton.{algorithm} {op} ") for f in found), (op, algorithm)


def test_all_calls_for_a_gpu_are_well_posed() -> None:
    """The full list, on the eager backend: every call is valid, and float64's definition agrees."""
    found = list(coverage.findings(CPU, [torch.float32], ["eager"], coverage.examples()[::5]))
    assert len(found) > 20
    assert [f for f in found if not f.correct] == []


def _spoilt(backward: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(*args: Any) -> Any:
        found = backward(*args)
        return found._replace(lam=found.lam * 1.01)

    return wrong


def test_a_wrong_gradient_refuses_all_times(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward, backward = linear.PLANS["factored"]
    monkeypatch.setitem(linear.PLANS, "factored", (forward, _spoilt(backward)))
    monkeypatch.setattr(run, "backends", lambda device: (["triton"], {"native": "no toolkit"}))
    with small_tiles(), pytest.raises(PaloraError, match="1 of 5 calls differ"):
        check_kernels(CPU, [torch.float32], coverage.examples(small=True)[:1])
    out = capsys.readouterr().out
    assert "WRONG: triton.factored linear" in out
    assert "lam, error" in out
    assert "not checked: native, no toolkit" in out


# -------------------------------------------------------------------------------------------------------------- times


def test_rows_of_an_op_on_the_hosts_clock(tmp_path: Path) -> None:
    """Three parts, four columns, shares of measured rates, a file and a picture."""
    host = clock.HostClock(least=2)
    reached = rates.measured(CPU, [torch.float32], host, 0.01, copied=2**20, side=64)
    assert reached.bandwidth > 0
    makers = [
        ("linear", lambda: rows.of_problem("linear", ops.linear((2, 8, 16, 12, 2, 1), CPU, torch.float32), identity))
    ]
    found = list(run.rows(makers, host, reached, torch.float32, 0.01))
    assert [row.group for row in found] == [f"linear, {part}, float32" for part in rows.PARTS]
    for row in found:
        assert row.correct
        assert list(row.times) == ["ours", "authors", "compiled", "floor"]
        assert set(row.peak_bytes) == set(row.times)
        seconds = row.times["ours"].minimum
        assert row.shares["bandwidth"] > 0
        assert len(run.cells(row)) == len(run.HEADINGS)
        assert f"{seconds * 1e6:.1f}" in run.cells(row)[2]
    table.save(tmp_path / "rows.json", {"devices": ["a GPU"]}, found)
    header, again = table.load(tmp_path / "rows.json")
    assert again == found
    assert header == {"devices": ["a GPU"]}
    assert len(table.compare(tmp_path / "rows.json", tmp_path / "rows.json")) == 3
    drawn = figure.ratio_figure(found, tmp_path / "rows.svg", "a GPU")
    bars = drawn.axes[0].patches
    assert [1 + bar.get_width() for bar in bars[:3]] == pytest.approx([row.ratio("authors") for row in found])
    assert "torch.compile" in (tmp_path / "rows.svg").read_text()
    with pytest.raises(PaloraError, match=r"\.pdf, \.png, \.svg"):
        figure.check_path(Path("rows.gif"))


def identity(function: Any) -> Any:
    return function


def test_a_wrong_row_has_no_times_and_a_failed_compiler_no_column() -> None:
    def broken(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no compiler\nat all")

        return call

    entries = rows.of_problem("linear", ops.linear((2, 3, 4, 5, 2, 1), CPU, torch.float32), broken)
    reached = rates.Rates(1e9, {"float32": 1e9})
    row = run.measured(entries[0], clock.HostClock(1), reached, torch.float32, 0.0)
    assert row.notes == {"compiled": "torch.compile failed: no compiler"}
    assert "compiled" not in row.times
    entries[0].check = lambda: (1.0, 1e-5)
    row = run.measured(entries[0], clock.HostClock(1), reached, torch.float32, 0.0)
    assert row.times == {}
    assert "WRONG" in run.cells(row)[2]


@pytest.mark.parametrize("precision", [None, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_a_training_step(precision: torch.dtype | None) -> None:
    """Ours, the loop and the loop behind a compiler take steps; the bound counts every adapted layer."""
    named = models.mlp_steps(CPU, precision=precision)
    (entry,) = rows.of_steps(named, identity)
    error, tolerance = entry.check()
    assert error <= tolerance
    for prepare in entry.columns.values():
        prepare()()
    steps = named[1]
    rays, n, sizes = 5, 512, [(21, 256), (256, 256), (256, 256), *[(256, 1)] * 7]
    least = sum(4.0 * n * rays * K * O for K, O in sizes[1:]) + 2.0 * n * rays * sizes[0][0] * sizes[0][1] / rays
    assert least < entry.least.flops
    assert steps.rays.shape == (rays, 7)


# -------------------------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    "layer", [*LAYERS[:9], LAYERS[10], LAYERS[12]], ids=lambda layer: f"{layer.network} {layer.name}"
)
def test_bounds_are_those_of_the_roofline(layer: roofline.Layer) -> None:
    """Two implementations of one count: from layers there, from tensors here."""
    meta, M, T, r, O = torch.device("meta"), 5, layer.tasks, layer.rank, layer.outputs
    build = roofline._linear if layer.kind == "linear" else roofline._conv
    stages = build(layer, M, meta, "merged" if layer.kind == "conv" else "factored").stages

    def make(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=meta)

    rows_in = layer.n if layer.shared else M * layer.n
    lam = make(M, T, dtype=torch.float32)
    if layer.kind == "linear":
        x, y, weight = make(rows_in, layer.inputs), make(M * layer.n, O), make(O, layer.inputs)
        factors = [make(T, O, r), make(T, r, layer.inputs)]
    else:
        (kh, kw), (H, W) = layer.kernel, layer.side
        out = [(s + 2 * layer.padding - k) // layer.stride + 1 for s, k in zip((H, W), (kh, kw), strict=True)]
        x, y = make(rows_in, layer.inputs, H, W), make(M * layer.n, O, *out)
        weight = make(O, layer.inputs, kh, kw)
        factors = [make(T, kh * O, r * kh), make(T, r * kh, kh * layer.inputs)]
    found = bound.stages(x, y, weight, make(O), factors, lam, layer.shared, input_gradient=not layer.shared)
    assert (found["forward"].bytes, found["forward"].flops) == stages[0]
    backward = tuple(sum(stage[i] for stage in stages[1:]) for i in (0, 1))
    assert (found["backward"].bytes, found["backward"].flops) == backward


# ------------------------------------------------------------------------------------------------------ CUDA graphs


class Synchronising(TorchDispatchMode):
    """Fails on what waits for the device, which a capture forbids."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "equal", "masked_select", "is_nonzero"), name
        return func(*args, **(kwargs or {}))


def test_nothing_that_is_captured_waits_for_the_device() -> None:
    problems = [ops.linear((2, 8, 16, 12, 2, 1), CPU, torch.float32), ops.delta((2, 4, 6, 5, 2), CPU, torch.float32)]
    problems.append(ops.conv(ops.ConvShape("tiny", 2, 3, 4, 3, 5, 5, shared=True), CPU, torch.float32, True))
    entries = [entry for problem in problems for entry in rows.of_problem("op", problem, identity)]
    entries += rows.of_steps(models.lenet_steps(CPU, True, heads_only=True), identity)
    for entry in entries:
        for name in ("ours", "authors", "floor"):
            timed = entry.columns[name]()
            timed()
            if "step" in entry.group:
                continue  # Adam on the CPU reads its step count; on CUDA it is capturable
            with Synchronising():
                timed()
    steps = models.lenet_steps(CPU, True)[1]
    with Synchronising():
        steps.ours_backward()
        steps.authors_backward()
        steps.plain_backward()


def test_the_order_of_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Preparing and warming up on the side stream, a capture on the same one, then replays between events."""
    log: list[str] = []

    class Stream:
        def wait_stream(self, other: Any) -> None:
            log.append("wait")

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            log.append("record")

        def synchronize(self) -> None:
            log.append("synchronize")

        def elapsed_time(self, end: Any) -> float:
            return 2.0

    class Graph:
        def replay(self) -> None:
            log.append("replay")

    side = Stream()

    @contextmanager
    def stream(which: Any) -> Iterator[None]:
        assert which is side
        log.append("on side")
        yield
        log.append("off side")

    @contextmanager
    def graph(which: Graph, stream: Any) -> Iterator[None]:
        assert stream is side
        log.append("capture")
        yield
        log.append("captured")

    for name, value in {
        "Stream": lambda device: side,
        "Event": Event,
        "CUDAGraph": Graph,
        "stream": stream,
        "graph": graph,
        "current_stream": lambda device: Stream(),
        "synchronize": lambda device: log.append("sync"),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(clock, "_FLUSH", 16)

    def prepare() -> Callable[[], object]:
        log.append("prepare")
        return lambda: log.append("run")

    timer = clock.CudaClock(CPU, least=1)
    times, notes = timer.measure({"ours": prepare}, 0.0)
    assert notes == {}
    assert times["ours"].minimum == pytest.approx(2e-3)
    warm = ["wait", "on side", "prepare", *["run"] * clock.WARM_UP, "off side", "wait", "sync"]
    once = ["on side", "record", "replay", "record", "off side", "synchronize"]
    assert log == [*warm, "capture", "run", "captured", "replay", "sync", *once]

    def stubborn() -> Callable[[], object]:
        def timed() -> None:
            if log[-1] == "capture":
                raise RuntimeError("operation not permitted when stream is capturing\nmore")

        return timed

    times, notes = timer.measure({"ours": stubborn}, 0.0)
    assert notes == {"ours": "not captured in a CUDA graph: operation not permitted when stream is capturing"}
    assert "ours" in times


# --------------------------------------------------------------------------------------------------------- command line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("words", [["--device", "cuda"], ["--tune"], ["--device", "cuda:1", "--dtype", "float16"]])
def test_without_a_gpu_one_error_says_what_is_missing(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "cannot run here: " in captured.err
    assert "CPUs only" in captured.err or "no device" in captured.err
    assert captured.out == ""


def test_options_that_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--device", "cpu", "--dtype", "bfloat16"]) == 1
    assert "are for GPUs" in capsys.readouterr().err
    assert main(["bench", "--figure", "rows.gif"]) == 1
    assert ".svg" in capsys.readouterr().err


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shapes of the tables, small enough for Triton's interpreter."""
    monkeypatch.setattr(ops, "LINEAR", [(2, 8, 16, 12, 2, 1)])
    monkeypatch.setattr(ops, "CONV", [])
    monkeypatch.setattr(ops, "DELTA", (2, 4, 6, 5, 2))
    monkeypatch.setattr(rows, "compiled", identity)
    monkeypatch.setattr(run, "backends", lambda device: (["triton"], {}))
    calls = coverage.examples(small=True)[:1]
    monkeypatch.setattr(coverage, "examples", lambda small=False: calls)


@pytest.mark.usefixtures("tiny")
def test_the_whole_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Checked, rates, rows: all that `--device cuda` prints, in this order."""
    with small_tiles():
        header, found = on_device(CPU, [torch.float32], clock.HostClock(1), "delta", 0.0, small=True)
    out = capsys.readouterr().out
    places = [out.index(text) for text in ("torch", "tuning: none", "checked: 5 calls of triton", "measured: copy")]
    assert places == sorted(places)
    assert out.index("delta, forward, float32") < out.index("delta, backward, float32")
    assert len(found) == 3
    assert header["measured"]["flops_per_second"]["float32"] > 0
    table.save(tmp_path / "rows.json", header, found)
    assert table.load(tmp_path / "rows.json") == (header, found)


@pytest.mark.usefixtures("tiny")
def test_tuning_from_the_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured, be it by a host's clock, is in the file that the next call reads."""
    path = tmp_path / "tuning.json"
    monkeypatch.setenv("PALORA_TUNING", str(path))
    monkeypatch.setenv("PALORA_BACKEND", "triton")
    monkeypatch.setattr(configs, "_IEEE", [SMALL])
    monkeypatch.setitem(configs._TILES, "ieee", [SMALL])
    tuned(CPU, [torch.float32], clock.HostClock(1), "linear_delta", 0.0)
    entries = tuning.of(CPU)
    assert f"{path}: {len(entries.tiles)} tiles and 1 plans" in capsys.readouterr().out
    assert entries.tiles
    tuning.forget()
