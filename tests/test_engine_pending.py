"""Losses that are read some steps later, and the run that is none the wiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import DropoutNet, small_set, tiny
from test_engine_resume import assert_same_run
from torch import Tensor

import palora.data
from palora.engine import Diverged, pending, read_metrics, train
from palora.engine.pending import Pending, Taken
from palora.engine.state import load_checkpoint


class Late:
    """A copy that is done once it is waited for, or after `asks` questions."""

    def __init__(self, asks: int) -> None:
        self.asks, self.waited = asks, False

    def query(self) -> bool:
        self.asks -= 1
        return self.asks < 0

    def synchronize(self) -> None:
        self.waited = True


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[Late]:
    """Every copy to the host is done only when it is waited for."""
    copies: list[Late] = []

    def to_host(losses: Tensor) -> tuple[Tensor, Late]:
        copies.append(Late(1000))
        return losses.clone(), copies[-1]

    monkeypatch.setattr(palora.data, "load", lambda *args, **options: small_set())
    monkeypatch.setattr(pending, "to_host", to_host)
    return copies


def taken(step: int) -> Taken:
    return Taken(1, step, 0.0, 0.0, torch.zeros(1, 2), torch.full((1, 2), float(step)))


def test_on_the_host_every_step_is_looked_at_at_once() -> None:
    seen: list[int] = []
    waiting = Pending(lambda t: seen.append(t.step), ahead=64)
    for step in range(3):
        waiting.add(taken(step))
        assert seen == list(range(step + 1))


def test_steps_are_looked_at_in_order_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = [Late(2), Late(0), Late(1000)]
    monkeypatch.setattr(pending, "to_host", lambda losses: (losses, copies[int(losses[0, 0])]))
    seen: list[int] = []
    waiting = Pending(lambda t: seen.append(t.step), ahead=64)
    waiting.add(taken(0))
    waiting.add(taken(1))  # here, but the one before is not
    assert seen == []
    waiting.add(taken(2))
    assert seen == [0, 1]
    assert not copies[2].waited
    waiting.settle()
    assert seen == [0, 1, 2]
    assert copies[2].waited


@pytest.mark.parametrize("ahead", [0, 2])
def test_no_more_steps_than_that_wait(late: list[Late], ahead: int) -> None:
    seen: list[int] = []
    waiting = Pending(lambda t: seen.append(t.step), ahead)
    for step in range(6):
        waiting.add(taken(step))
        assert seen == list(range(step + 1 - ahead))


@pytest.mark.needs("moocore")
def test_a_run_whose_losses_come_late_is_the_same_run(tmp_path: Path, late: list[Late]) -> None:
    """Checkpoints within the epochs, where all has to be settled, included."""
    run = train(tiny(), tmp_path / "late", make_model=DropoutNet)
    assert late
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pending, "to_host", lambda losses: (losses, None))
        plain = train(tiny(), tmp_path / "plain", make_model=DropoutNet)
    assert_same_run(run, plain)


@pytest.mark.needs("moocore")
def test_a_loss_that_is_not_finite_is_found_late_and_named_rightly(tmp_path: Path, late: list[Late]) -> None:
    config = tiny(lr=1e30, checkpoint_every=None)
    with pytest.raises(Diverged, match=r"in step 2 \(epoch 1\); the last good checkpoint is kept"):
        train(config, tmp_path / "run", make_model=DropoutNet)
    assert len(late) == 6  # the whole epoch had been taken
    assert [record["step"] for record in read_metrics(tmp_path / "run")] == [1]
    checkpoint: dict[str, Any] = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert checkpoint["position"]["step"] == 0
    assert all(value.isfinite().all() for value in checkpoint["model"].values())


@pytest.mark.needs("moocore")
def test_a_method_that_reads_losses_itself_gets_none_that_was_not_looked_at(tmp_path: Path, late: list[Late]) -> None:
    config = tiny(method="dwa", lr=1e30, checkpoint_every=None)
    with pytest.raises(Diverged, match=r"in step 2 "):
        train(config, tmp_path / "run", make_model=DropoutNet)
    assert len(late) == 2
