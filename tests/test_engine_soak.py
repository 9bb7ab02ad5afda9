"""A long training keeps no more in the end than at its beginning."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from engine_runs import DropoutNet, small_set, tiny

import palora.data
from palora.engine import train
from palora.engine.progress import Silent

pytestmark = pytest.mark.needs("moocore")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palora.data, "load", lambda *args, **options: small_set())


class Weighing(Silent):
    """After each of the `steps`: bytes that the process holds, objects that Python tracks, tensors among them."""

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps, self.done = set(steps), 0
        self.bytes: list[int] = []
        self.objects: list[int] = []
        self.tensors: list[int] = []

    def step(self, epoch: int, losses: Sequence[float], rays: int) -> None:
        self.done += 1
        if self.done in self.steps:
            gc.collect()
            found = gc.get_objects()
            self.objects.append(len(found))
            self.tensors.append(sum(issubclass(type(one), torch.Tensor) for one in found))
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.bytes.append(pages * os.sysconf("SC_PAGE_SIZE"))


def test_nothing_piles_up_from_epoch_to_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 epochs of 3 steps, each with records, a validation and checkpoints; weighed at the same place of an epoch."""
    for module in ("blocks", "state"):
        monkeypatch.setattr(f"palora.layers.{module}.MOST", 8)  # passes whose rays are remembered; else 1,024
    weighing = Weighing([2 + 3 * epoch for epoch in (5, 20, 38)])
    train(tiny(epochs=40, limit=48, checkpoint_every=2), tmp_path / "run", show=weighing, make_model=DropoutNet)
    assert len(set(weighing.tensors)) == 1, weighing.tensors
    assert max(weighing.objects) - weighing.objects[0] < 100, weighing.objects


@pytest.mark.slow
def test_2000_steps_hold_the_memory_of_1200(tmp_path: Path) -> None:
    """LeNet, 100 epochs of 20 steps. By step 1,200 the 1,024 passes whose rays are remembered are full."""
    weighing = Weighing([1200, 1600, 2000])
    train(tiny(epochs=100, limit=320, checkpoint_every=50), tmp_path / "run", show=weighing)
    assert len(set(weighing.tensors)) == 1, weighing.tensors
    assert max(weighing.objects) - weighing.objects[0] < 300, weighing.objects
    assert max(weighing.bytes) - weighing.bytes[0] < 16 * 2**20, weighing.bytes
