"""`make gpu-check` without a GPU: its processes, its jobs, what it says of a wrong kernel, and how it goes on."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from palora.bench.device import check, coverage, items, report, values, workers
from palora.bench.device.workers import Lost
from palora_kernels import implementations, plans
from palora_kernels.triton.launching import configs, tuning
from palora_kernels.triton.launching.tuning import Tile
from palora_kernels.triton.linear import plans as linear
from palora_kernels.triton.linear import product as linear_product

CPU = torch.device("cpu")
TILES = [Tile(16, 16, 16, 4, 2), Tile(32, 16, 16, 4, 2)]


# ----------------------------------------------------------------------------------------------------------- processes


def task(job: int) -> int:
    if job == 2:
        raise ValueError("bad\nand more")
    if job == 3:
        os._exit(7)
    if job == 4:
        time.sleep(60)
    return job * job


def test_jobs_that_raise_die_or_hang_cost_only_themselves() -> None:
    found = dict(workers.run(task, list(range(7)), 2, 3.0, time.monotonic() + 500))
    assert {job: value for job, value in found.items() if not isinstance(value, Lost)} == {0: 0, 1: 1, 5: 25, 6: 36}
    assert found[2] == Lost("ValueError: bad")
    assert found[3] == Lost("its process ended with status 7")
    assert found[4] == Lost("no answer in 3 s")


def test_nothing_begins_after_the_end() -> None:
    assert list(workers.run(task, [0, 1], 1, 5.0, time.monotonic() - 1)) == []


# ---------------------------------------------------------------------------------------------------------------- jobs


def test_every_plan_of_every_table_has_a_job_with_all_tiles() -> None:
    jobs = values.jobs(["bfloat16"], ["triton"], "cpu")
    assert len({job.name for job in jobs}) == len(jobs)
    for op in plans.ALGORITHMS:
        for algorithm in implementations.algorithms(op, "triton", "cpu"):
            assert any(j.tiles and j.algorithm == algorithm and j.label.startswith(f"{op} ") for j in jobs)
    assert {algorithm for names in plans.ALGORITHMS.values() for algorithm in names} >= {j.algorithm for j in jobs}


def test_a_guarded_tensor_lies_between_nan_and_keeps_its_strides() -> None:
    for tensor in (torch.randn(3, 5), torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)):
        copy = values.guarded(tensor, CPU)
        assert torch.equal(copy, tensor)
        assert copy.stride() == tensor.stride()
        whole = torch.empty(0).set_(copy.untyped_storage())
        assert int(whole.isnan().sum()) == whole.numel() - tensor.numel() == 2 * values.GUARD
    assert values.guarded(torch.empty(0, 3), CPU).numel() == 0


# -------------------------------------------------------------------------------------------------------------- values


@pytest.fixture
def one_call(monkeypatch: pytest.MonkeyPatch) -> values.Job:
    """A small call that every tile of a short list can take, in Triton's interpreter."""
    calls = (coverage.examples(small=True)[0],)
    monkeypatch.setattr(coverage, "calls", lambda: calls)
    monkeypatch.setattr(configs, "_IEEE", TILES)
    monkeypatch.setitem(configs._TILES, "ieee", TILES)
    return next(j for j in values.jobs(["float32"], ["triton"], "cpu") if j.algorithm == "factored")


def with_tiles(job: values.Job) -> values.Job:
    return values.Job(job.call, job.label, job.backend, job.algorithm, job.precision, True)


def test_a_plan_that_is_right_with_every_tile(one_call: values.Job) -> None:
    report = values.examine(with_tiles(one_call), CPU)
    assert report.wrong == []
    assert report.rounds == 1 + len(TILES)
    assert 0 < report.error < values.TOLERANCE["float32"]


def test_a_tile_that_is_wrong_is_named(one_call: values.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    run = linear_product.run

    def spoilt(x: Any, *args: Any, **kwargs: Any) -> None:
        run(x, *args, **kwargs)
        trial = tuning.trial()
        if trial is not None and any(n.startswith("linear_product") and t == TILES[1] for n, t in trial.tiles.items()):
            args[-1][-1] += 1  # y

    monkeypatch.setattr(linear_product, "run", spoilt)
    found = values.examine(with_tiles(one_call), CPU)
    assert found.wrong
    for wrong in found.wrong:
        assert list(wrong.tiles.values()) == ["32x16x16 w4 s2"]
        assert all(name.startswith("linear_product ") for name in wrong.tiles)
    line = report.complaints(one_call.name, json.loads(json.dumps(found.to_dict())))[0]
    assert line.startswith(f"WRONG {one_call.name}: ")
    assert "[linear_product 32x16x16 w4 s2]" in line


@pytest.mark.parametrize("fault", ["unwritten", "race", "refused"])
def test_a_plan_that_is_wrong_says_how(one_call: values.Job, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    table = linear.PLANS
    forward, backward = table["factored"]
    calls = iter(range(100))

    def spoilt(*args: Any) -> Any:
        if fault == "refused":
            raise RuntimeError("out of resource: shared memory")
        y, S = forward(*args)
        y[0, 0] = float("nan") if fault == "unwritten" else y[0, 0] + 1e-6 * next(calls)
        return y, S

    monkeypatch.setitem(table, "factored", (spoilt, backward))
    if fault == "refused":
        with pytest.raises(RuntimeError, match="out of resource"):
            values.examine(one_call, CPU)
        return
    with tuning.trying({}):  # a warm call would not ask the plan again
        (wrong,) = values.examine(one_call, CPU).wrong
    assert wrong.error == float("inf")
    assert wrong.worst == ("output" if fault == "unwritten" else "output, which differs from call to call,")


# ------------------------------------------------------------------------------------------------------------- results


def test_a_second_run_goes_on_and_other_code_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "results.json"
    header = {"code": "a", "devices": ["a GPU"], "torch": "2", "triton": "3"}
    first = check.Results(path, header)
    names = [items.Item("rates", "", 0, p, 0.1) for p in ("bfloat16", "float32", "tf32")]
    first.add("times", names[0].name, {"bandwidth": 1.0, "products": 1.0})
    first.add("times", names[1].name, {"lost": "no answer"})
    first.save()
    again = check.Results(path, header)
    assert again.left("times", names) == names[1:]
    assert check.Results(path, {**header, "code": "b"}).left("times", names) == names


def test_failures_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    right: dict[str, Any] = {"rounds": 3, "worst": "output", "error": 1e-6, "wrong": []}
    wrong = {**right, "wrong": [{"worst": "dB", "error": 2.0, "tiles": {}, "note": ""}]}
    content = {"values": {"one": right, "two": wrong}, "times": {"three": {"lost": "no answer in 120 s"}}}
    assert report.show(content) == 2
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[:3] == ["2 wrong", "WRONG two: dB, error 2.0e+00 [chosen tiles]", "LOST three: no answer in 120 s"]
    assert lines[3] == "1 of 2 jobs right, 3 sets of tiles; 1 timed"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert check.main(["--out", str(tmp_path / "results.json")]) == 1
    assert "cannot run here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
