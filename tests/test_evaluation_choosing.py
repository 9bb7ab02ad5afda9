"""Choosing a preference: answers are those of a search over every ray, written anew here."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import palora
from palora.errors import PaloraError
from palora.evaluation import Front, UnreachableError, epsilon, knee, nearest, select
from palora.evaluation.naming import on_simplex, ray_words, read_ray
from palora.evaluation.selection import position
from palora.rays import simplex_grid


@st.composite
def fronts(draw: st.DrawFn) -> Front:
    """Two to four tasks, values on a coarse grid so that there are ties; accuracies, errors, or losses alone."""
    tasks = draw(st.integers(2, 4))
    rays = simplex_grid(tasks, draw(st.integers(1, 4)))
    value = st.integers(0, 8).map(lambda k: k / 8)
    row = st.lists(value, min_size=tasks, max_size=tasks)
    losses = torch.tensor(draw(st.lists(row, min_size=len(rays), max_size=len(rays))))
    names = tuple("abcd"[:tasks])
    kind = draw(st.sampled_from(["accuracy", "mse", ""]))
    columns = draw(st.lists(st.lists(value, min_size=len(rays), max_size=len(rays)), min_size=tasks))
    metrics = {f"{kind}/{name}": torch.tensor(columns[t]) for t, name in enumerate(names)} if kind else {}
    return Front(rays, losses, metrics, names)


def goodness(front: Front, task: int) -> list[float]:
    """Larger is better: the metric of a task, its loss where there is none."""
    if not front.metrics:
        return [-value for value in front.losses[:, task].tolist()]
    name = next(name for name in front.metrics if name.endswith(front.tasks[task]))
    sign = 1 if name.startswith("accuracy") else -1
    return [sign * value for value in front.metrics[name].tolist()]


def same(front: Front, ray: Tensor, expected: list[int]) -> None:
    """`ray` is the one of `expected` with the smallest sum of losses, the first of several."""
    sums = front.losses.sum(1).tolist()
    assert torch.equal(ray, front.rays[min(expected, key=lambda m: (sums[m], m))])


@given(fronts(), st.data())
def test_select_and_epsilon_are_brute_force(front: Front, data: st.DataObject) -> None:
    tasks, rays = len(front.tasks), range(len(front))
    best = data.draw(st.integers(0, tasks - 1))
    others = [t for t in range(tasks) if t != best]
    good = {t: goodness(front, t) for t in range(tasks)}
    bounds = {t: data.draw(st.integers(-8, 8)) / 8 for t in data.draw(st.sets(st.sampled_from(others), min_size=1))}
    larger = bool(front.metrics) and next(iter(front.metrics)).startswith("accuracy")
    shown: dict[Any, float] = {front.tasks[t]: bound if larger else -bound for t, bound in bounds.items()}
    arguments: dict[str, Any] = {"at_least" if larger else "at_most": shown}
    feasible = [m for m in rays if all(good[t][m] >= bound for t, bound in bounds.items())]
    if feasible:
        top = max(good[best][m] for m in feasible)
        ray = select(front, best=front.tasks[best], **arguments)
        same(front, ray, [m for m in feasible if good[best][m] == top])
        assert torch.equal(epsilon(front, shown, front.tasks[best]), ray)
        if len(bounds) == tasks - 1:
            assert torch.equal(epsilon(front, shown), ray), "the task without a bound is the one to optimise"
        return
    with pytest.raises(UnreachableError) as caught:
        select(front, best=best, **arguments)

    def missed(m: int) -> float:
        spread = {t: max(good[t]) - min(good[t]) or 1.0 for t in bounds}
        return sum(max(0.0, bound - good[t][m]) / spread[t] for t, bound in bounds.items())

    least = min(map(missed, rays))
    chosen = position(front, caught.value.nearest)
    assert missed(chosen) == pytest.approx(least)
    assert f"the nearest is ({ray_words(front.rays[chosen]).replace(',', ', ')})" in str(caught.value)


@given(fronts(), st.data())
def test_nearest_is_brute_force(front: Front, data: st.DataObject) -> None:
    wished = data.draw(st.sets(st.integers(0, len(front.tasks) - 1), min_size=1))
    wish: dict[Any, float] = {t: data.draw(st.integers(-4, 12)) / 8 for t in sorted(wished)}
    columns = {t: [abs(v) for v in goodness(front, t)] for t in wish}

    def distance(m: int) -> float:
        spread = {t: max(columns[t]) - min(columns[t]) or 1.0 for t in wish}
        return math.sqrt(sum(((columns[t][m] - value) / spread[t]) ** 2 for t, value in wish.items()))

    chosen = position(front, nearest(front, wish))
    assert distance(chosen) == pytest.approx(min(distance(m) for m in range(len(front))))


@given(fronts())
def test_knee_is_brute_force(front: Front) -> None:
    losses = front.losses.tolist()

    def dominated(m: int) -> bool:
        return any(all(a <= b for a, b in zip(x, losses[m], strict=True)) and x != losses[m] for x in losses)

    left = [m for m in range(len(front)) if not dominated(m)]
    low = [min(losses[m][t] for m in left) for t in range(len(front.tasks))]
    high = [max(losses[m][t] for m in left) for t in range(len(front.tasks))]

    def total(m: int) -> float:
        return sum((v - a) / ((b - a) or 1) for v, a, b in zip(losses[m], low, high, strict=True))

    assert torch.equal(knee(front), front.rays[min(left, key=total)])


def test_a_preference_off_the_grid_names_the_nearest() -> None:
    front = Front(simplex_grid(2, 10), torch.rand(11, 2))
    assert position(front, (0.3, 0.7)) == 7
    with pytest.raises(PaloraError, match=r"\(0.33, 0.67\) is not on the grid .* nearest .* is \(0.3, 0.7\)\.$"):
        position(front, (0.33, 0.67))
    with pytest.raises(PaloraError, match=r"should have 2 weights, one a task. Found \(1, 0, 0\)"):
        position(front, (1.0, 0.0, 0.0))


def test_what_was_asked_for_has_no_value() -> None:
    front = Front(simplex_grid(2, 1), torch.rand(2, 2), {"accuracy/task 1": torch.tensor([math.nan, math.nan])})
    with pytest.raises(PaloraError, match="no ray with a value"):
        select(front, best="accuracy/task 1")
    some = Front(front.rays, front.losses, {"accuracy/task 1": torch.tensor([math.nan, 0.5])})
    assert torch.equal(select(some, {"accuracy/task 1": 0.1}, "accuracy/task 1"), some.rays[1])
    with pytest.raises(ValueError, match=r"value for 'task 1' should be a finite number. Found nan"):
        nearest(some, {"task 1": math.nan})
    with pytest.raises(ValueError, match="should name at least one"):
        nearest(some, {})


def test_epsilon_asks_what_to_optimise() -> None:
    front = Front(simplex_grid(3, 2), torch.rand(6, 3))
    with pytest.raises(PaloraError, match="without are task 2, task 3"):
        epsilon(front, {"task 1": 1.0})


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=6))
def test_the_nearest_point_of_the_simplex(weights: list[float]) -> None:
    point = on_simplex(torch.tensor(weights)).double()
    assert (point >= 0).all()
    assert point.sum().item() == pytest.approx(1, abs=1e-6)
    distance = (point - torch.tensor(weights, dtype=torch.float64)).norm()
    for other in simplex_grid(len(weights), 6).double():
        assert distance <= (other - torch.tensor(weights, dtype=torch.float64)).norm() + 1e-3


@given(st.lists(st.integers(0, 50), min_size=2, max_size=5).filter(any))
def test_a_preference_survives_the_command_line(counts: list[int]) -> None:
    ray = (torch.tensor(counts, dtype=torch.float64) / sum(counts)).float()
    assert torch.equal(read_ray(ray_words(ray), [f"t{i}" for i in counts]), ray)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.3", r"should be 2 weights, for left, right, as in 0.5,0.5. Found '0.3'"),
        ("a,b", r"should be 2 weights, for left, right, as in 0.5,0.5. Found 'a,b'"),
        ("nan,1", r"should be 2 weights"),
        ("0.3,0.8", r"sum to 1. Found '0.3,0.8'; the nearest is 0.25,0.75\."),
        ("-1,2", r"weights >= 0 that sum to 1. Found '-1,2'; the nearest is 0,1\."),
    ],
)
def test_what_is_no_preference(text: str, expected: str) -> None:
    with pytest.raises(PaloraError, match=expected):
        read_ray(text, ("left", "right"))


def test_names_are_public() -> None:
    assert palora.nearest is nearest
    assert callable(palora.refine)
