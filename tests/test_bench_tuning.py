"""`palora bench --tune`: what a (made-up) clock prefers is stored, and chosen from then on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("typer")

import palora_kernels as pk
from palora.bench import ops
from palora.bench.device import tune
from palora.bench.plan import plans_of
from palora.cli import main
from palora_kernels import plans
from palora_kernels.triton.launching import configs, tuning
from palora_kernels.triton.launching.launch import Launch, recording
from palora_kernels.triton.launching.tuning import Tile, Tuning

CPU = torch.device("cpu")
SHAPE = (2, 8, 16, 12, 2, 1)


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The interpreter as the device, with a tuning file of its own."""
    path = tmp_path / "tuning" / "device.json"
    monkeypatch.setenv("PALORA_TUNING", str(path))
    monkeypatch.setenv("PALORA_BACKEND", "triton")
    tuning.forget()
    yield path
    tuning.forget()


def launches(run: Callable[[], object]) -> list[Launch]:
    with recording() as found:
        run()
    return found


def clock(cost: Callable[[Launch], float], each: Callable[[str], float] = lambda plan: 0.0) -> tune.Timer:
    """Seconds that are made up from what would be launched; nothing is timed."""

    def of(prepare: Callable[[], Any]) -> float:
        plan = plans._FORCED.get("linear", "")
        return sum(cost(launch) for launch in launches(lambda: prepare()())) + each(plan)

    return of


def tallest(launch: Launch) -> float:
    """A device that likes tall tiles, the contrary of what suits so small a call."""
    return 1000.0 - launch.arguments.get("BM", 0)


def tuned(dtype: torch.dtype, time: tune.Timer) -> tune.Tuned:
    (result,) = tune.tune([("linear", lambda: ops.linear(SHAPE, CPU, dtype))], time)
    return result


def test_what_is_stored_is_chosen(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = ops.linear(SHAPE, CPU, torch.float32)
    monkeypatch.setattr(ops.Problem, "error", lambda self: 0.0)  # values are compared in another test

    def call() -> torch.Tensor:
        return problem.ours(**problem.case)

    plain = plans_of(call)
    other = "split" if plain == "triton.factored" else "factored"
    result = tuned(torch.float32, clock(tallest, lambda plan: 0.0 if plan == other else 1e9))
    assert set(result.found.plans.values()) == {other}
    assert result.gain > 1
    assert result.notes == []
    tuning.write(file, result.found, {"devices": ["made up"]})
    assert plans_of(call) == f"triton.{other}"
    with pk.force_plan(linear="merged"):
        assert plans_of(call) == "triton.merged", "a forced plan comes first"

    def rows_of_tiles() -> set[int]:
        with pk.force_plan(linear="factored"):
            return {launch.arguments["BM"] for launch in launches(call) if "BM" in launch.arguments}

    assert rows_of_tiles() == {128}
    with tuning.trying({}):
        assert rows_of_tiles() == {16}, "what the arithmetic chooses"


def test_measured_choices_are_of_a_dtype_and_a_bucket(file: Path) -> None:
    key = "ieee linear stacked rays2 n8 K16 O16 R2"
    tuning.write(file, Tuning({}, {key: "merged"}), {})

    def ran(n: int, dtype: torch.dtype) -> str:
        problem = ops.linear((2, n, 16, 12, 2, 1), CPU, dtype)
        return plans_of(lambda: problem.ours(**problem.case))

    assert ran(8, torch.float32) == "triton.merged"
    assert ran(5, torch.float32) == "triton.merged"
    assert ran(9, torch.float32) != "triton.merged"
    assert ran(8, torch.bfloat16) != "triton.merged"


def test_a_compiled_call_takes_the_measured_plan(file: Path) -> None:
    tuning.write(file, Tuning({}, {"ieee linear stacked rays2 n8 K16 O16 R2": "merged"}), {})
    problem = ops.linear(SHAPE, CPU, torch.float32)
    seen: list[str] = []

    def look(graph: Any, inputs: Any) -> Any:
        seen.append(graph.code)
        return graph.forward

    torch.compile(problem.ours, fullgraph=True, backend=look)(**problem.case)
    assert "'triton.merged'" in seen[0]


def test_a_tile_that_a_call_may_not_take_is_left(file: Path) -> None:
    """An entry of the same bucket, from calls with less beside the tile."""
    like, shape = torch.empty(0, dtype=torch.bfloat16), (4096, 4096, 4096)
    usual = configs.choose("linear_product", like, shape, largest=64 * 64)
    name = tuning.tile_key("linear_product", "half", 4096, 4096, 4096)
    tuning.write(file, Tuning({name: Tile(128, 256, 64, 8, 3)}, {}), {})
    assert configs.choose("linear_product", like, shape, largest=64 * 64) == usual
    assert configs.choose("linear_product", like, shape) == Tile(128, 256, 64, 8, 3)


def test_candidates_that_cannot_run_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops.Problem, "error", lambda self: 0.0)

    def fragile(launch: Launch) -> float:
        if launch.arguments.get("BM") == 128:
            raise RuntimeError("out of resource: shared memory\nmore")
        return 1.0

    result = tuned(torch.float32, clock(fragile))
    assert any("128x64x16 cannot run (out of resource: shared memory)" in note for note in result.notes)
    products = [tile for name, tile in result.found.tiles.items() if name.startswith("linear_product ")]
    assert products
    assert all(tile.rows < 128 for tile in products)


def test_what_is_hardly_going_to_win_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles far from the arithmetic's best, plans far behind with the arithmetic's tiles, and all after the end."""
    monkeypatch.setattr(ops.Problem, "error", lambda self: 0.0)
    seen: dict[str, set[int]] = {}

    def see(launch: Launch) -> float:
        seen.setdefault(plans._FORCED["linear"], set()).update({launch.arguments["BM"]} & {16, 32, 64, 128})
        return 1.0

    def with_limits(**limits: float) -> tune.Tuned:
        seen.clear()
        time = clock(lambda launch: see(launch) if "BM" in launch.arguments else 1.0, lambda p: 1e3 * (p == "split"))
        jobs = [("linear", lambda: ops.linear(SHAPE, CPU, torch.float32))]
        (result,) = tune.tune(jobs, time, tune.Limits(**limits))
        return result

    with_limits()
    assert seen["factored"] == seen["split"] == {16, 32, 64, 128}
    result = with_limits(near=2.0)
    assert 16 in seen["factored"]
    assert 128 not in seen["factored"]
    assert len(seen["split"]) == 1, "with the arithmetic's tiles only"
    assert set(result.found.plans.values()) <= {"factored", "library", "merged"}
    result = with_limits(seconds=-1.0)
    assert all(len(rows) == 1 for rows in seen.values())
    assert "not all was tried in -1 s" in result.notes


def test_plans_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops.Problem, "error", lambda self: 0.0)
    jobs = [("linear", lambda: ops.linear(SHAPE, CPU, torch.float32))]
    time = clock(lambda launch: 1.0, lambda plan: 0.0 if plan == "split" else 10.0)
    (free,) = tune.tune(jobs, time)
    (bound,) = tune.tune(jobs, time, without=["split"])
    assert set(free.found.plans.values()) == {"split"}
    assert "split" not in bound.found.plans.values()


def test_a_wrong_gradient_in_16_bits_is_not_near_enough() -> None:
    """A compiler's fault once gave a relative error of 1.3, which a tolerance that grows with K would have passed."""
    assert ops.linear((2, 8, 4096, 12, 2, 1), CPU, torch.bfloat16).tolerance < 0.1


def test_what_is_wrong_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops.Problem, "error", lambda self: 1.0)
    result = tuned(torch.float32, clock(tallest))
    assert result.found == Tuning()
    assert len(result.notes) == len(plans.ALGORITHMS["linear"]) - 1  # `persistent` is not offered to float32
    assert all("not stored" in note for note in result.notes)


def test_files_are_merged_and_say_where_they_are_from(file: Path) -> None:
    tile = Tile(16, 32, 64, 2, 4)
    key = tuning.tile_key("linear_product", "half", 1280, 256, 468)
    assert key == tuning.tile_key("linear_product", "half", 2048, 256, 512)
    assert key != tuning.tile_key("linear_product", "half", 2049, 256, 512)
    tuning.write(file, Tuning({key: tile}, {}), {"devices": ["one"]})
    tuning.write(file, Tuning({}, {"half linear shared rays1": "split"}), {"devices": ["two"]})
    assert tuning.read(file) == Tuning({key: tile}, {"half linear shared rays1": "split"})
    assert json.loads(file.read_text())["about"] == {"devices": ["two"]}


@pytest.mark.parametrize(
    "text, reason",
    [
        ("{", "Expecting property name"),
        ("[]", "should be names and values"),
        ('{"tiles": {}}', "`plans` is missing"),
        ('{"tiles": {"a": {"rows": 3}}, "plans": {}}', "missing"),
        (
            '{"tiles": {"a": {"rows": 17, "columns": 16, "depth": 16, "num_warps": 4, "num_stages": 2}}, "plans": {}}',
            "17",
        ),
        ('{"tiles": {}, "plans": {"half linear x": "fast"}}', "'fast'"),
    ],
)
def test_a_damaged_file_is_one_clear_error(
    file: Path, text: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(ValueError) as caught:
        pk.linear(
            torch.zeros(2, 3), torch.zeros(4, 3), None, torch.zeros(1, 4, 1), torch.zeros(1, 1, 3), torch.ones(1, 1)
        )
    assert str(file) in str(caught.value)
    assert reason in str(caught.value)
    assert "Delete it or measure again" in str(caught.value)
    assert main(["doctor"]) == 0
    assert f"damaged: {file}" in capsys.readouterr().out


def test_doctor_says_whether_a_tuning_file_is_in_use(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["doctor"]) == 0
    assert f"none in {file}: palora bench --tune" in capsys.readouterr().out
    tuning.write(file, Tuning({}, {"half linear shared rays1": "split"}), {})
    assert main(["doctor"]) == 0
    assert f"{file}: 0 tiles, 1 plans" in capsys.readouterr().out
    monkeypatch.delenv("PALORA_TUNING")
    if not torch.cuda.is_available():
        assert main(["doctor"]) == 0
        assert "none: there is no GPU" in capsys.readouterr().out
