"""The front: validation, exact JSON, safe files, summary, choice of a ray."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch

from palora.errors import PaloraError
from palora.evaluation import Front, knee, select, summary
from palora.rays import fixed_rays, simplex_grid


def convex_front(**extra: object) -> Front:
    """11 rays of a quadratic problem: every ray is Pareto optimal and losses fall with their weights."""
    rays = simplex_grid(2, 10)
    losses = (1 - rays) ** 2 * torch.tensor([0.5, 1.0]) + 0.1
    metrics = {"accuracy/left": 1 - losses[:, 0], "accuracy/right": 1 - losses[:, 1]}
    return Front(rays, losses, **{"metrics": metrics, "tasks": ("left", "right"), **extra})  # type: ignore[arg-type]


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        rays = torch.rand(200, 3, generator=generator)
        losses = torch.rand(200, 3, generator=generator, dtype=dtype) * 10.0 ** torch.arange(-30, 30, 20)
        losses[0] = torch.tensor([math.nan, math.inf, -math.inf])
        front = Front(rays, losses, {"accuracy/b": losses[:, 1] ** 0.5}, ("a", "b", "ç"), 'a "note"\n')
        front.save(tmp_path / "new" / "front.json")
        for again in (Front.from_json(front.to_json()), Front.load(tmp_path / "new" / "front.json")):
            assert again.rays.dtype == torch.float32
            assert again.losses.dtype == again.metrics["accuracy/b"].dtype == dtype
            assert torch.equal(again.rays, front.rays)
            torch.testing.assert_close(again.losses, front.losses, rtol=0, atol=0, equal_nan=True)
            assert (again.tasks, again.note) == (front.tasks, front.note)
            assert again == front


def test_json_is_standard_and_readable() -> None:
    text = convex_front().to_json()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert content["rays"][1] == [0.9, 0.1]
    assert content["tasks"] == ["left", "right"]


def test_fronts_compare_by_value() -> None:
    assert convex_front() == convex_front()
    assert convex_front() != convex_front(note="other")
    assert convex_front() != 3


def test_a_front_is_a_snapshot() -> None:
    losses = torch.rand(2, 2)
    front = Front(torch.eye(2), losses)
    before = front.losses.clone()
    losses.zero_()
    assert torch.equal(front.losses, before)
    assert front.tasks == ("task 1", "task 2")
    with pytest.raises(AttributeError):
        front.losses = losses  # type: ignore[misc]


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="same shape"):
        Front(torch.eye(2), torch.rand(3, 2))
    with pytest.raises(ValueError, match=r"metrics\['a'\]"):
        Front(torch.eye(2), torch.rand(2, 2), {"a": torch.rand(3)})
    with pytest.raises(ValueError, match="2 different names"):
        Front(torch.eye(2), torch.rand(2, 2), tasks=("a", "a"))


@pytest.mark.parametrize("damage", ["", "{", "[]", "3", "{}", '{"format": "other"}', "half", "shape", "text"])
def test_damaged_files_say_so(tmp_path: Path, damage: str) -> None:
    content = convex_front().to_json()
    if damage == "half":
        content = content[: len(content) // 2]
    elif damage == "shape":
        content = json.dumps({**json.loads(content), "losses": [[1.0, 2.0], [3.0]]})
    elif damage == "text":
        content = json.dumps({**json.loads(content), "losses": [["a", "b"]]})
    else:
        content = damage
    path = tmp_path / "front.json"
    path.write_text(content)
    with pytest.raises(PaloraError, match=r"front.json is damaged \(.*\): evaluate again\."):
        Front.load(path)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(PaloraError, match=r"cannot be read \(No such file"):
        Front.load(tmp_path / "front.json")
    (tmp_path / "front.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PaloraError, match="is damaged"):
        Front.load(tmp_path / "front.json")


def test_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "front.json"
    convex_front().save(path)

    def crash(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(PaloraError, match=r"front\.json cannot be written: disk full"):
        convex_front(note="new").save(path)
    monkeypatch.undo()
    assert Front.load(path).note == ""
    assert os.listdir(tmp_path) == ["front.json"]


def test_saved_files_are_readable_by_others(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        convex_front().save(tmp_path / "front.json")
    finally:
        os.umask(old)
    assert (tmp_path / "front.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.needs("moocore")
def test_indicators_of_a_front() -> None:
    front = convex_front()
    assert front.nondominated().all()
    assert front.monotonicity().tolist() == [-1, -1]
    x, y = front.losses.double().T
    order = x.argsort()
    edges = torch.cat([torch.ones(1, dtype=torch.float64), y[order][:-1].clamp(max=1)])
    expected = ((1 - x[order]) * (edges - y[order]).clamp(min=0)).sum().item()  # strips
    assert front.hypervolume() == pytest.approx(expected)
    assert front.hypervolume([2.0, 2.0]) > front.hypervolume()


@pytest.mark.needs("moocore")
def test_summary() -> None:
    front = convex_front()
    content = summary(front)
    assert json.loads(json.dumps(content)) == content
    assert content["hypervolume"]["losses"] == pytest.approx(front.hypervolume())
    assert content["hypervolume"]["losses_reference"] == [1, 1]
    # Accuracies are 1 − losses here, so their hypervolume above 0 is that of the losses below 1.
    assert content["hypervolume"]["accuracies"] == pytest.approx(front.hypervolume(), abs=1e-6)
    assert content["nondominated"] == {"count": 11, "of": 11}
    assert content["spearman"] == {"left": -1, "right": -1}
    assert content["best_of_grid"]["accuracy/left"] == {"value": pytest.approx(0.9), "ray": [1, 0]}
    assert content["best_of_grid"]["loss/right"] == {"value": pytest.approx(0.1), "ray": [0, 1]}
    assert list(content["fixed_rays"]) == ["left", "right", "centre"]
    assert content["fixed_rays"]["left"]["accuracy/right"] == pytest.approx(-0.1)
    assert content["fixed_rays"]["centre"]["loss/left"] == pytest.approx(0.225)


@pytest.mark.needs("moocore")
def test_summary_without_accuracies_or_centre() -> None:
    rays = simplex_grid(3, 10)
    losses = 2 - rays
    front = Front(rays, losses, {"mse/a": losses[:, 0]}, ("a", "b", "c"))
    content = summary(front, loss_reference=[3, 2, 2])
    assert content["hypervolume"]["accuracies"] is None
    assert content["hypervolume"]["losses"] == pytest.approx(front.hypervolume([3.0, 2.0, 2.0]))
    assert content["best_of_grid"]["mse/a"]["value"] == 1  # an error: the smallest is best
    assert content["fixed_rays"]["centre"] is None
    some = Front(rays, losses, {"pixel accuracy/a": 2 - losses[:, 0], "accuracy/b": 2 - losses[:, 1]}, front.tasks)
    assert summary(some)["hypervolume"]["accuracies"] is None, "c has none: they would be a part of the objectives"
    vertices = Front(fixed_rays(3), 2 - fixed_rays(3), {"mse/a": torch.zeros(4)}, front.tasks)
    assert summary(front, fixed=vertices)["fixed_rays"]["centre"]["loss/b"] == pytest.approx(5 / 3)
    constant = Front(rays, torch.ones(66, 3))
    assert summary(constant)["spearman"] == {"task 1": None, "task 2": None, "task 3": None}


def test_select_keeps_the_bounds_and_takes_the_best() -> None:
    front = convex_front()
    left, right = front.metrics["accuracy/left"], front.metrics["accuracy/right"]
    for bound in (0.5, 0.6, 0.75, 0.9 - 1e-6):
        ray = select(front, at_least={"left": bound}, best="right")
        index = int((front.rays == ray).all(1).nonzero())
        assert left[index] >= bound
        assert right[index] == right[left >= bound].max()
    by_index = select(front, at_least={0: 0.6}, best=1)
    assert torch.equal(by_index, select(front, at_least={"accuracy/left": 0.6}, best="accuracy/right"))
    assert select(front, best="left").tolist() == [1, 0]


def test_select_on_losses() -> None:
    front = convex_front(metrics={})
    ray = select(front, at_most={"left": 0.25}, best="right")
    torch.testing.assert_close(ray, torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="better the smaller it is: bound it by `at_most`"):
        select(front, at_least={"left": 0.25}, best="right")


def test_select_reads_metrics_in_task_order_where_names_do_not_tell() -> None:
    front = convex_front(metrics={"acc1": torch.linspace(1, 0, 11), "acc2": torch.linspace(0, 1, 11)})
    torch.testing.assert_close(select(front, at_least={"left": 0.65}, best="right"), torch.tensor([0.7, 0.3]))


def test_select_that_cannot_be_met() -> None:
    with pytest.raises(PaloraError, match=r"No ray .* accuracy/left at least 0.99 \(the best ray has 0.9\)"):
        select(convex_front(), at_least={"left": 0.99}, best="right")
    with pytest.raises(PaloraError, match=r"There is no task or metric 'lefft'. Did you mean left"):
        select(convex_front(), best="lefft")
    with pytest.raises(PaloraError, match=r"index from 0 to 1\. Found 2"):
        select(convex_front(), best=2)
    with pytest.raises(ValueError, match="`best` should name"):
        select(convex_front(), at_least={"left": 0.5})


def test_knee_is_farthest_from_the_line_between_the_ends() -> None:
    front = convex_front()
    scaled = (front.losses - 0.1) / torch.tensor([0.5, 1.0])
    distance = (1 - scaled.sum(1)) / 2**0.5
    assert torch.equal(knee(front), front.rays[distance.argmax()])
    torch.testing.assert_close(knee(front), torch.tensor([0.5, 0.5]))


def test_knee_ignores_dominated_rays_and_scale() -> None:
    rays = simplex_grid(2, 4)
    losses = torch.tensor([[0.0, 100.0], [0.1, 10.0], [0.05, 500.0], [0.5, 5.0], [1.0, 0.0]])
    assert torch.equal(knee(Front(rays, losses)), rays[1])
    assert torch.equal(knee(Front(rays[:1], losses[:1])), rays[0])
    assert torch.equal(knee(Front(rays, torch.ones(5, 2))), rays[0])
