"""What `make gpu-check` times, without a GPU: its items, how they are prepared and measured, and the whole command."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import palora
from palora.bench import models, ops
from palora.bench.device import check, clock, goals, items, measured, prepare, report, timing, tune, workers
from palora.bench.device.workers import Lost
from palora.bench.plan import plans_of
from palora.errors import PaloraError
from palora_kernels import implementations, plans, versions
from palora_kernels.triton.launching import configs, launch, shipped, tuning
from palora_kernels.triton.launching.tuning import Tile

CPU = torch.device("cpu")
TILES = [Tile(16, 16, 16, 4, 2), Tile(32, 16, 16, 4, 2)]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small shapes and few tiles, in the interpreter."""
    conv = ops.ConvShape("3→4 3×3", 2, 3, 4, 3, 5, 5, M=2)
    monkeypatch.setattr(items, "LINEAR", [(2, 8, 16, 12, 2, 1), (12, 1, 16, 12, 2, 1)])
    monkeypatch.setattr(ops, "CONV", [conv])
    monkeypatch.setattr(ops, "DELTA", (2, 4, 6, 5, 2))
    monkeypatch.setattr(configs, "_IEEE", TILES)
    monkeypatch.setitem(configs._TILES, "ieee", TILES)
    monkeypatch.setattr(tune, "SHORT", tune.Limits())  # a host's clock would leave out now this, now that
    for module in (prepare, timing):
        monkeypatch.setattr(module, "compiled", lambda function: function)
    monkeypatch.setenv("PALORA_BACKEND", "triton")


def item(what: str, subject: str, index: int = 0, precision: str = "float32") -> items.Item:
    return items.Item(what, subject, index, precision, 0.0)


def ready(of: items.Item) -> timing.Job:
    return timing.Job(of, {column.column: prepare.prepare(column, CPU) for column in prepare.columns(of, "cpu")})


def result_of(job: timing.Job) -> dict[str, Any]:
    """As the file of results has it."""
    found: dict[str, Any] = json.loads(json.dumps(timing.measure(job, CPU, clock.HostClock(1))))
    assert found["took"] >= 0
    return found


@pytest.mark.usefixtures("tiny")
def test_rows_hold_every_plan_and_what_it_is_compared_with() -> None:
    result = result_of(ready(item("row", "linear")))
    forward, both = result["rows"]
    assert [row["part"] for row in (forward, both)] == ["forward", "forward + backward"]
    offered = {f"triton.{name}" for name in implementations.algorithms("linear", "triton", "cpu")}
    offered.remove("triton.persistent")  # of 16-bit numbers
    assert set(both["graph"]) == {"ours", "eager", "authors", "floor", *offered}
    assert set(both["eager"]) == {"ours", "eager", "authors", "floor"}
    assert all(0 <= error < 1e-4 for error in both["errors"].values())
    assert min(timing.shares(both, 1e9, 1e9)) > 0
    line = report.lines_of("x", result, {"bandwidth": 1e9, "products": 1e9})[0]
    assert line.startswith("linear (2, 8, 16, 12, 2, 1), forward, float32 [triton.")
    assert "% of the bandwidth" in line
    both["errors"]["triton.split"] = 1.0
    assert any("WRONG" in line and "triton.split 1.0e+00" in line for line in report.lines_of("x", {"rows": [both]}))


@pytest.mark.usefixtures("tiny")
def test_a_plan_that_joins_the_table_is_a_column_without_a_word_here(monkeypatch: pytest.MonkeyPatch) -> None:
    from palora_kernels.triton.linear import plans as linear

    monkeypatch.setitem(linear.PLANS, "new", linear.PLANS["factored"])
    monkeypatch.setitem(plans.ALGORITHMS, "linear", (*plans.ALGORITHMS["linear"], "new"))
    _, both = result_of(ready(item("row", "linear")))["rows"]
    assert "triton.new" in both["graph"]
    assert "new" in measured_plans(ready(item("tune", "linear")), monkeypatch)


def measured_plans(job: timing.Job, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The plans that a tuned item's clock saw."""
    seen: set[str] = set()

    def see(prepare: Any) -> float:
        seen.add(plans._FORCED["linear"])
        prepare()()
        return 1.0

    monkeypatch.setattr(tune, "timer", lambda *_: see)
    result_of(job)
    return seen


@pytest.mark.usefixtures("tiny")
def test_what_was_wrong_or_lost_in_preparing_is_not_timed() -> None:
    good = ready(item("row", "linear"))
    prepared = {**good.prepared, "triton.split": {"error": 1.0}, "triton.library": {}}
    del prepared["triton.merged"]
    job = timing.Job(good.item, prepared, {"triton.merged": "its process ended with status 7"})
    result = result_of(job)
    for row in result["rows"]:
        assert {"ours", "triton.factored"} <= set(row["graph"])
        assert not {"triton.split", "triton.library", "triton.merged"} & set(row["graph"])
    lines = report.lines_of("x", result)
    assert sum(line.startswith("WRONG") for line in lines) == 2
    assert sum(line.startswith("LOST") and "triton.merged" in line for line in lines) == 2
    assert report.show({"values": {}, "times": {"x": result}}) == 4


@pytest.mark.usefixtures("tiny")
def test_a_long_loop_is_not_compiled_and_says_so() -> None:
    (row, _) = result_of(ready(item("row", "linear", 1)))["rows"]
    assert row["notes"]["compiled"] == "a loop of 12 rays takes torch.compile minutes: left out"


@pytest.mark.usefixtures("tiny")
def test_columns_of_other_items_join_the_row_of_their_op() -> None:
    content: dict[str, Any] = {"values": {}, "times": {}}
    for what in ("row", "compiled", "plain"):
        of = item(what, "conv2d")
        content["times"][of.name] = result_of(ready(of))
    assert list(content["times"]) == ["conv2d 0 float32", "compiled conv2d 0 float32", "plain conv2d 0 float32"]
    forward, both = goals.table(content)
    assert {"ours", "eager", "authors", "compiled", "floor", "floor, benchmark off"} < set(both["graph"])
    assert forward["graph"]["floor"] == content["times"]["conv2d 0 float32"]["rows"][0]["graph"]["floor"]


@pytest.mark.parametrize("what, on", [("row", True), ("plain", False), ("tune", True)])
@pytest.mark.usefixtures("tiny")
def test_cudnn_tries_its_algorithms_or_not(what: str, on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[bool] = set()
    cudnn: Any = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.allow_tf32, versions.convolutions_in_tf32()
    inner = timing._measured
    monkeypatch.setattr(
        timing, "_measured", lambda *a: (seen.add(torch.backends.cudnn.benchmark), inner(*a))[1]
    )  # fmt: skip
    result_of(ready(item(what, "conv2d")))
    assert seen == {on}
    assert (cudnn.benchmark, cudnn.allow_tf32, versions.convolutions_in_tf32()) == before
    assert not item("step", "segnet", 5).benchmark


@pytest.mark.usefixtures("tiny")
def test_tuning_leaves_tiles_and_plans_as_a_file_takes_them(tmp_path: Path) -> None:
    of = item("tune", "linear_delta")
    result = result_of(ready(of))
    assert result["tiles"]
    assert set(result["plans"].values()) <= set(plans.ALGORITHMS["linear_delta"])
    gpu = shipped.Gpu("Some GPU 80GB", "sm_9", 132)
    header = {"gpu": asdict(gpu), "torch": "2", "triton": "3", "cuda": "13", "code": "a"}
    content = {"header": header, "values": {}, "times": {of.name: result}}
    path = measured.write(content, tmp_path)
    assert path.name == "Some-GPU-80GB.json"
    assert shipped.tables(tmp_path) == {gpu: path}
    assert {name: asdict(tile) for name, tile in tuning.read(path).tiles.items()} == result["tiles"]
    with pytest.raises(PaloraError, match="should hold tuned tiles"):
        measured.write({"header": header, "times": {}}, tmp_path)


def test_a_training_step_and_rates() -> None:
    result = result_of(ready(item("step", "mlp", 2)))
    assert set(result["graph"]) == set(result["eager"]) == set(result["peak"]) == {"ours", "authors", "floor"}
    assert result["errors"]["ours"] <= result["tolerance"]
    assert "peak MiB ours" in report.lines_of("x", result)[0]
    reached = {"bandwidth": 3e12, "products": 8e14}
    assert report.lines_of("rates 0 bfloat16", reached) == ["rates 0 bfloat16: copy 3000 GB/s, matmul 800.0 TFLOP/s"]
    lost = timing.Job(item("step", "mlp", 2), {}, {"step": "no answer in 150 s"})
    result = result_of(lost)
    assert set(result["graph"]) == {"floor"}
    assert report.lines_of("x", result)[0].startswith("WRONG")


def test_the_layers_of_a_network_are_compiled_in_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every adapted layer is Triton's in one share, and what the user asked for is as it was."""
    plain = palora.models.MLP(3, (4,), (1, 1))
    adapted = models.randomised(palora.adapt(copy.deepcopy(plain), 2, 1))
    x, targets = torch.randn(4, 3), [torch.randn(4, 1) for _ in range(2)]
    found = models.Steps(plain, adapted, x, targets, models.squared_errors, torch.eye(2), optimise=False)
    for named in (None, "reference"):
        monkeypatch.delenv("PALORA_BACKEND", raising=False)
        if named:
            monkeypatch.setenv("PALORA_BACKEND", named)
        seen = []
        for share in range(3):
            with launch.recording() as launches:
                ran = plans_of(lambda share=share: prepare._layers(found, share, 3))  # type: ignore[misc]
            assert launches
            seen.append(ran)
        assert all("triton." in ran and "eager." in ran for ran in seen)
        assert os.environ.get("PALORA_BACKEND") == named
    columns = [column.column for column in prepare.columns(item("step", "segnet", 5))]
    assert columns == ["layers 0", "layers 1", "layers 2", "layers 3", "step"]


def test_items_come_in_the_order_of_their_worth() -> None:
    first, second, *rest = items.phases(["bfloat16", "float32", "tf32"], 0.1)
    every = [item for phase in (first, second, *rest) for item in phase]
    assert len({item.name for item in every}) == len(every)
    assert {item.kind for item in every} == set(items.KINDS)
    assert list(dict.fromkeys(item.kind for item in first)) == ["rates", "linear", "conv2d", "plain", "steps"]
    assert {item.kind for item in second} == {"tune", "compiled"}
    assert {item.precision for phase in (first, second) for item in phase} == {"bfloat16"}
    assert sum(item.kind == "linear" for item in first) <= 6
    assert {item.index for item in every if item.subject == "lenet" and item.what == "step"} == {1, 5, 11}
    assert all(not item.benchmark for item in first if item.kind in ("plain", "steps"))
    assert all(items.LINEAR[index][0] <= items.MOST_COMPILED for index in items.COMPILED["linear"])


# ------------------------------------------------------------------------------------------------------------ the whole


@pytest.fixture
def here(tiny: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command without a GPU: jobs run in this process, one by one, on the CPU. The names of those that ran."""
    ran: list[str] = []
    about = {"devices": ["a GPU"], "torch": "2", "triton": "3", "code": "a", "cuda": "13"}
    about |= {"gpu": asdict(shipped.Gpu("a GPU", "sm_9", 132))}

    def run(task: Any, jobs: list[Any], processes: int, limit: float, until: float) -> Any:
        for job in jobs:
            ran.append(getattr(job, "name", "header"))
            if task is check.header:
                yield job, about
            elif task is timing.measure:
                yield job, timing.measure(job, CPU, clock.HostClock(1))
            else:
                assert task is prepare.prepare
                yield job, Lost("no") if job.name == "linear 0 float32: triton.split" else prepare.prepare(job, CPU)

    def phases(precisions: list[str], seconds: float) -> Any:
        yield [item("row", "linear", 0, p) for p in precisions] + [item("plain", "conv2d", 0, precisions[0])]
        yield [item("tune", "linear_delta", 0, precisions[0])]

    original = prepare.columns
    monkeypatch.setattr(prepare, "columns", lambda of: original(of, "cpu"))
    monkeypatch.setattr(workers, "run", run)
    monkeypatch.setattr(items, "phases", phases)
    return ran


def test_the_whole_command_goes_on_where_it_was_stopped(
    here: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "results.json"
    arguments = ["--out", str(out), "--precision", "float32", "--stages", "times"]
    assert check.main([*arguments, "--kinds", "linear", "plain"]) == 1, "a plan was lost"
    assert here.index("linear 0 float32: triton.merged") < here.index("linear 0 float32")
    assert not any("tune" in name for name in here)
    text = capsys.readouterr().out
    assert text.index("\n2 wrong") < text.index("not measured")
    assert (tmp_path / "results.png").is_file()
    here.clear()
    assert check.main(arguments) == 1
    ran = [name for name in here if ":" not in name]
    assert ran == ["header", "linear 0 float32", "tune linear_delta 0 float32"], "what was lost is tried again"
    content = json.loads(out.read_text())
    assert set(content["times"]) == {"linear 0 float32", "plain conv2d 0 float32", "tune linear_delta 0 float32"}
    here.clear()
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "measured")
    assert check.main(["--out", str(out), "--write-measured"]) == 0
    assert check.main(["--out", str(out), "--show"]) == 2
    assert here == []
    assert tuning.read(tmp_path / "measured" / "a-GPU.json").tiles
    assert check.main(["--out", str(tmp_path / "none.json"), "--show"]) == 1
    assert "name one that make gpu-check wrote" in capsys.readouterr().err
