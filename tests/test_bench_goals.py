"""What `make gpu-check` says of the goals and draws, from the results of an H200 that lie in the repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from palora.bench.device import figure, goals, measured, report
from palora.errors import PaloraError
from palora_kernels.triton.launching import tuning

RESULTS = Path(__file__).parents[1] / "results" / "gpu-check" / "h200.json"


@pytest.fixture
def content() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text())
    return found


def row(name: str, part: str, **graph: float) -> dict[str, Any]:
    """A measured row with nothing in it but times."""
    head = {"name": name, "part": part, "precision": "bfloat16", "plan": "triton.factored"}
    return {**head, "errors": {}, "tolerance": 1.0, "graph": graph, "eager": {}, "peak": {}, "notes": {}, "least": {}}


def of(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"times": {f"linear {i} bfloat16": {"rows": [r]} for i, r in enumerate(rows)}, "values": {}}


def line(content: dict[str, Any], goal: str) -> str:
    (found,) = [text for text in goals.lines(content) if goal in text]
    return found


def test_the_results_of_the_h200(content: dict[str, Any]) -> None:
    both = [r for r in goals.table(content) if r["part"] == "forward + backward"]
    assert len(both) == 14
    (large,) = [r for r in both if r["name"] == "linear (4, 1024, 4096, 4096, 4, 8)"]
    assert large["plan"] == "triton.persistent"
    ratio = large["graph"]["ours"] / large["graph"]["floor"]
    assert ratio == pytest.approx(1.18, abs=0.01)
    said = line(content, "large, forward + backward, over the product")
    assert said.startswith("NOT MET")
    assert "(≤ 1.1): 0 of 3 rows, the worst 1.18, linear (4, 1024, 4096, 4096, 4, 8), forward + backward" in said
    assert line(content, "64 requests over the product").split("worst ")[1].startswith("1.34")
    assert line(content, "each its own λ").startswith("met")
    said = line(content, "convolutions")
    assert "0 of 10 rows, the worst 3.28, conv2d 256→256 3×3 8×16" in said
    assert "0 of 1 rows" in line(content, "share of the bandwidth")
    assert "8 of 12 rows, the worst 2.11" in line(content, "untuned")


def test_the_results_before_are_of_another_table_of_plans() -> None:
    """`ours` was the plan with merged weights for the large layers; convolutions and tuning were not reached."""
    content = json.loads(RESULTS.with_name("h200-before.json").read_text())
    assert "0 of 4 rows, the worst 8.54" in line(content, "large, forward + backward, over the product")
    assert line(content, "64 requests over the product").split("worst ")[1].startswith("1.70")
    for goal in ("convolutions", "untuned"):
        assert line(content, goal).startswith("not measured")


def test_the_table_that_is_shipped_is_what_was_tuned(content: dict[str, Any]) -> None:
    shipped = tuning.read(Path(tuning.__file__).parents[2] / "measured" / "NVIDIA-H200.json")
    assert measured.tuned(content) == shipped


def test_a_goal_is_met_by_all_rows_that_it_is_about() -> None:
    wide, deep = "linear (4, 1024, 4096, 4096, 2, 8)", "linear (4, 1024, 4096, 4096, 4, 16)"
    small = row("linear (5, 256, 256, 256, 2, 1)", "forward", ours=9.0, floor=1.0)
    good = row(wide, "forward", ours=1.05, floor=1.0, eager=1.3)
    found = of(good, row(deep, "forward", ours=1.08, floor=1.0, eager=1.2), small)
    assert line(found, "R ≤ 32").startswith("met")
    assert "1 of 1 rows, the worst 1.05" in line(found, "R ≤ 32")
    assert line(found, "R = 64").startswith("met")
    assert "1 of 2 rows, the worst 1.11" in line(found, "large, forward: plain PyTorch")
    assert line(found, "large, forward: plain PyTorch").startswith("NOT MET")


def test_a_convolution_is_compared_with_the_faster_of_two() -> None:
    name = "conv2d 64→64 3×3 32×32, NHWC"
    small = row("conv2d lenet 10→20 5×5, NHWC", "forward", ours=9.0, floor=1.0)
    found = of(row(name, "forward", ours=1.0, floor=1.0), small)
    found["times"]["plain conv2d 0 bfloat16"] = {"rows": [row(name, "forward", **{"floor, benchmark off": 0.8})]}
    assert "0 of 1 rows, the worst 1.25" in line(found, "convolutions")


def test_tuned_gains_may_be_missed_by_one_in_ten() -> None:
    found: dict[str, Any] = of()
    for index in range(10):
        gain = 1.5 if index == 0 else 1.02
        found["times"][f"tune linear {index} bfloat16"] = {"gain": gain, "name": "x", "plans": {"a": "split"}}
    assert line(found, "untuned").startswith("met")
    found["times"]["tune linear 1 bfloat16"]["gain"] = 1.2
    assert line(found, "untuned").startswith("NOT MET")


def test_failures_come_before_the_goals(content: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert report.show(content) == 1
    text = capsys.readouterr().out
    assert text.index("1 wrong") < text.index("WRONG triton.basis conv2d") < text.index("NOT MET")


def test_the_figure_has_a_row_for_each_op_and_each_step(content: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    step = row("MLP step (SARCOS), 11 rays", "step", ours=2e-3, authors=9e-3, floor=1e-3)
    content["times"]["mlp 11 bfloat16"] = {**step, "peak": {"ours": 2**20, "authors": 2**21, "floor": 2**20}}
    drawn = figure.check_figure(content, tmp_path / "results.svg")
    assert drawn is not None
    ops, steps = drawn.axes
    assert len(ops.get_yticks()) == 14
    labels = [label.get_text() for label in steps.get_yticklabels()]
    assert labels[:3] == ["LeNet step, NHWC, 5 rays", "MLP step (SARCOS), 5 rays", "MLP step (SARCOS), 11 rays"]
    assert len(labels) == 5
    text = (tmp_path / "results.svg").read_text()
    for said in ("NVIDIA H200", "torch 2.11.0", "triton 3.6.0", "4096→4096, 64 rays × 1, T3 r8", "1 / 2 / 1 MiB"):
        assert said in text
    assert figure.check_figure(of(), tmp_path / "none.svg") is None
    with pytest.raises(PaloraError, match="should end in"):
        figure.check_figure(content, tmp_path / "results.gif")
