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
from palora.cli import doctor, main
from palora_kernels import plans
from palora_kernels.triton import configs, shipped, tuning
from palora_kernels.triton.launch import Launch, recording
from palora_kernels.triton.shipped import Gpu
from palora_kernels.triton.tuning import Tile, Tuning

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
    like = {"dtype": torch.bfloat16, "device": CPU, "rows": 4096, "columns": 4096, "depth": 4096}
    usual = configs.choose("linear_product", **like, largest=64 * 64)  # type: ignore[arg-type]
    name = tuning.tile_key("linear_product", "half", 4096, 4096, 4096)
    tuning.write(file, Tuning({name: Tile(128, 256, 64, 8, 3)}, {}), {})
    assert configs.choose("linear_product", **like, largest=64 * 64) == usual  # type: ignore[arg-type]
    assert configs.choose("linear_product", **like) == Tile(128, 256, 64, 8, 3)  # type: ignore[arg-type]


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
    assert len(result.notes) == len(plans.ALGORITHMS["linear"])
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
        ("[]", "list indices"),
        ('{"tiles": {}}', "no entry 'plans'"),
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


# ----------------------------------------------------------------------------------------------------------- shipped

H100, H200 = Gpu("NVIDIA H100 80GB HBM3", "sm_9", 132), Gpu("NVIDIA H200", "sm_9", 132)
A100 = Gpu("NVIDIA A100-SXM4-80GB", "sm_8", 108)


@pytest.mark.parametrize(
    "gpu, known, expected",
    [
        (H200, [A100, H100, H200], H200),
        (Gpu("NVIDIA H100 PCIe", "sm_9", 114), [A100, H200, H100], H100),  # as near, first by name
        (Gpu("NVIDIA H100 PCIe", "sm_9", 114), [H200, Gpu("NVIDIA X", "sm_9", 100)], Gpu("NVIDIA X", "sm_9", 100)),
        (Gpu("NVIDIA A10", "sm_8", 72), [A100, H100], A100),
        (Gpu("NVIDIA B200", "sm_10", 148), [A100, H100, H200], None),
        (Gpu("AMD Instinct MI300X", "gfx942", 304), [H100], None),
        (H100, [], None),
    ],
)
def test_the_nearest_table(gpu: Gpu, known: list[Gpu], expected: Gpu | None) -> None:
    assert shipped.nearest(gpu, known) == shipped.nearest(gpu, known[::-1]) == expected


@pytest.fixture
def a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The device cuda:0 is an H200, and the folder of tables is empty."""
    folder = tmp_path / "measured"
    monkeypatch.setattr(shipped, "FOLDER", folder)
    monkeypatch.setattr(shipped, "gpu_of", lambda device: H200)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    tuning.forget()
    yield folder
    tuning.forget()


CUDA = torch.device("cuda", 0)
TILE, OTHER = Tile(16, 32, 64, 2, 4), Tile(64, 64, 64, 4, 3)


def test_the_users_own_entries_come_before_those_that_were_shipped(
    a_gpu: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tuning.of(CUDA) == Tuning()
    tuning.write(a_gpu / "one.json", Tuning({"a": TILE, "b": TILE}, {"half linear x": "split"}), shipped.about(H100))
    assert tuning.of(CUDA) == Tuning({"a": TILE, "b": TILE}, {"half linear x": "split"})
    assert tuning.of(CPU) == Tuning()
    tuning.write(file, Tuning({"b": OTHER}, {}), {})
    assert tuning.of(CUDA) == Tuning({"a": TILE, "b": OTHER}, {"half linear x": "split"})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: H200.name)
    text = " ".join(" ".join(row) for row in doctor.tuning())
    assert f"{file}: 1 tiles, 0 plans" in text
    assert "of NVIDIA H100 80GB HBM3, the nearest, shipped: 2 tiles, 1 plans" in text
    tuning.write(a_gpu / "two.json", Tuning({"a": OTHER}, {}), shipped.about(H200))
    assert tuning.of(CUDA) == Tuning({"a": OTHER, "b": OTHER}, {})
    assert "its own, shipped: 1 tiles" in " ".join(" ".join(row) for row in doctor.tuning())
    monkeypatch.setenv("PALORA_TUNING", "off")
    tuning.forget()
    assert tuning.of(CUDA) == Tuning()
    assert tuning.file_of(CUDA) is None
    assert doctor.tuning() == [("tuning", "off (PALORA_TUNING): arithmetic chooses")]


def test_a_table_that_does_not_say_its_device_is_one_clear_error(a_gpu: Path) -> None:
    tuning.write(a_gpu / "one.json", Tuning({"a": TILE}, {}), {"devices": ["one"]})
    with pytest.raises(ValueError, match="one.json should say on which device it was measured"):
        tuning.of(CUDA)
    ((_, mine), (_, text)) = doctor.tuning()
    assert "none in" in mine
    assert text.startswith("damaged: ")


def test_every_table_that_is_shipped_can_be_read() -> None:
    for path in shipped.tables().values():
        assert tuning.read(path)
