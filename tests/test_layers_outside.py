"""A trial leaves nothing in the globals, classes and closures that a model's code reaches."""

from __future__ import annotations

import random
from collections import Counter, deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import outside_state
import torch
from row_cases import RAYS, randn
from torch import Tensor, nn

import palora

CALLS = 0
SEEN: list[Any] = []
CACHE: dict[str, Any] = {"inner": {"rows": 0}, "kept": [1, 2]}
SHAPES: set[Any] = set()
LAST: deque[Any] = deque(maxlen=3)
COUNTS: Counter[str] = Counter()
MEAN = torch.zeros(3, dtype=torch.float64)
NUMBERS = np.zeros(3)
OWN = torch.Generator().manual_seed(3)
DICE, ROLLS, OLD = random.Random(3), np.random.default_rng(3), np.random.RandomState(3)
SETTINGS = SimpleNamespace(steps=0, inner=SimpleNamespace(names=["a"]))


class Tracker:
    total = 0

    def __init__(self) -> None:
        self.rows: list[int] = []

    def add(self, rows: int) -> None:
        self.rows.append(rows)
        Tracker.total += 1


TRACKER = Tracker()


def helper(x: Tensor) -> None:
    global CALLS
    CALLS += 1
    SEEN.append(x.shape)
    outside_state.count(x)
    outside_state.TOTAL += 1


class Traces(nn.Module):
    calls = 0
    rows: list[int] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(5, 8), nn.Linear(8, 3)

    def note(self, x: Tensor) -> None:
        global MADE
        MADE = len(x)
        Traces.calls += 1
        type(self).rows.append(len(x))
        CACHE["inner"]["rows"] += len(x)
        CACHE["last"] = x
        CACHE["kept"].append(3)
        SHAPES.add(tuple(x.shape))
        LAST.append(len(x))
        COUNTS["calls"] += 1
        SETTINGS.steps += 1
        SETTINGS.inner.names.append("b")

    def forward(self, x: Tensor) -> Tensor:
        helper(x)
        self.note(x)
        TRACKER.add(len(x))
        MEAN.add_(1)
        NUMBERS[:] += 1
        torch.rand(2, generator=OWN)
        DICE.random(), ROLLS.random(), OLD.rand()
        return self.out(torch.tanh(self.fc(x)))


def test_nothing_is_left_outside() -> None:
    model = palora.adapt(Traces().double(), 2, 2)
    x = randn(4, 5)
    kept = CACHE["inner"], SEEN, Traces.rows, SETTINGS.inner
    with palora.at(model, RAYS):
        model(x)
    assert len(model.fc.rays_state.findings.by_structure) == 1  # it was tried out
    assert CALLS == 1 == Traces.calls
    assert MADE == 12
    assert [tuple(shape) for shape in SEEN] == [(12, 5)]
    assert CACHE["inner"]["rows"] == 12
    assert CACHE["kept"] == [1, 2, 3]
    assert all(a is b for a, b in zip((CACHE["inner"], SEEN, Traces.rows, SETTINGS.inner), kept, strict=True))
    assert {(12, 5)} == SHAPES
    assert list(LAST) == [12] == Traces.rows == TRACKER.rows
    assert COUNTS["calls"] == 1 == SETTINGS.steps == Tracker.total
    assert SETTINGS.inner.names == ["a", "b"]
    assert MEAN.tolist() == [1, 1, 1] == NUMBERS.tolist()
    assert outside_state.TOTAL == 1
    assert outside_state.BY_SIZE == {12: 1}
    own = torch.Generator().manual_seed(3)
    torch.rand(2, generator=own)
    assert torch.equal(own.get_state(), OWN.get_state())
    dice, rolls, old = random.Random(3), np.random.default_rng(3), np.random.RandomState(3)
    dice.random(), rolls.random(), old.rand()
    assert dice.getstate() == DICE.getstate()
    assert rolls.bit_generator.state == ROLLS.bit_generator.state
    assert np.array_equal(old.get_state()[1], OLD.get_state()[1])
