"""Steps replayed from a CUDA graph, and losses that are read later: with a stand-in for the graph, which checks."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import At, DropoutNet, small_set, tiny
from graph_stand_in import Broken, StandIn
from test_engine_resume import assert_same_run
from torch import Tensor, nn

import palora.data
from palora.engine import Interrupted, train, trainer
from palora.engine.config import RunConfig
from palora.engine.graph import WARM_UP, Step, obstacle, recorder_for
from palora.engine.setup import Parts, assemble
from palora.engine.state import TrainState
from palora.engine.trainer import forward_pass, initial_state, set_learning_rate
from palora.errors import PaloraError

RUN: dict[str, Any] = {"limit": 88, "epochs": 3, "lr_milestones": (1,)}  # 5 batches of 16 and one of 8 an epoch


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palora.data, "load", lambda *args, **options: small_set())


def with_tensor_rates(parts: Parts, config: RunConfig) -> TrainState:
    """As on a GPU, where a captured step reads learning rates from memory; in float64, to be the number's equal."""
    state = initial_state(parts, config)
    for group in state.optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
    return state


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[StandIn]:
    """Runs with ``graph="on"`` are captured by stand-ins: one a run, in order."""
    made: list[StandIn] = []

    def recorder(config: RunConfig, parts: Parts) -> StandIn | None:
        if config.graph != "on":
            return None
        made.append(StandIn(parts.model))
        return made[-1]

    monkeypatch.setattr(trainer, "recorder_for", recorder)
    monkeypatch.setattr(
        trainer, "initial_state", lambda p, c: (with_tensor_rates if c.graph == "on" else initial_state)(p, c)
    )
    return made


@pytest.mark.needs("moocore")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_captured_run_is_the_run_itself(precision: str, tmp_path: Path, stand_in: list[StandIn]) -> None:
    """A short last batch and a new learning rate included: same records, same checkpoints, to the last bit."""
    config = tiny(**RUN, precision=precision)
    plain = train(config, tmp_path / "plain", make_model=DropoutNet)
    captured = train(replace(config, graph="on"), tmp_path / "captured", make_model=DropoutNet)
    assert_same_run(captured, plain)
    [recorder] = stand_in
    # Of 3 · 6 steps the first three run as they stand, and the last of each epoch, which is short.
    assert (recorder.captures, recorder.replays, recorder.asides) == (1, 12, 6)


@pytest.mark.needs("moocore")
@pytest.mark.parametrize("first, then", [("on", "on"), ("on", "off"), ("off", "on")])
def test_resumed_with_or_without_a_graph_it_is_the_same_run(
    first: str, then: str, tmp_path: Path, stand_in: list[StandIn]
) -> None:
    config = tiny(**RUN, graph=first)
    plain = train(replace(config, graph="off"), tmp_path / "plain", make_model=DropoutNet)
    stop = At(9, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", show=stop, make_model=DropoutNet)
    resumed = train(replace(config, graph=then), tmp_path / "run", resume=True, make_model=DropoutNet)
    assert_same_run(resumed, plain)
    assert all(recorder.replays for recorder in stand_in)


# Single steps: a model twice, captured and not


class Pair:
    """Two equal models in the hands of a step that runs as it stands and of one that is captured."""

    def __init__(self, make_model: Any = DropoutNet, **settings: Any) -> None:
        config = tiny(**settings)
        self.states, self.steps, self.notes = [], [], []
        for recorded in (False, True):
            parts = assemble(config, make_model)
            state = with_tensor_rates(parts, config)
            recorder = StandIn(parts.model) if recorded else None
            self.states.append(state)
            self.steps.append(Step(parts, state, forward_pass(parts, config), recorder, note=self.notes.append))
        self.recorder = recorder
        self.rays = torch.Generator().manual_seed(1)

    def step(self, rows: int = 16, rays: int = 3, fill: float | None = None) -> Tensor:
        """One step of each on the same new batch; the losses, which are equal, as are the weights after it."""
        inputs = torch.randn(rows, 1, 28, 28) if fill is None else torch.full((rows, 1, 28, 28), fill)
        targets = tuple(torch.randint(10, (rows,)) for _ in range(2))
        weights = torch.rand(rays, 2, generator=self.rays)
        before, found = torch.get_rng_state(), []
        for step in self.steps:
            torch.set_rng_state(before)
            found.append(step(inputs, targets, weights))
        assert torch.equal(*found)
        for one, other in zip(*(state.model.state_dict().values() for state in self.states), strict=True):
            assert torch.equal(one, other)
        return found[1]

    def set_chunk(self, chunk: int | None) -> None:
        for state in self.states:
            state.position.chunk = chunk


def test_losses_of_a_step_stay_when_the_next_is_replayed() -> None:
    pair = Pair()
    found = [pair.step() for _ in range(WARM_UP + 3)]
    kept = [losses.clone() for losses in found]
    pair.step()
    assert all(map(torch.equal, found, kept))
    assert len({tuple(losses.flatten().tolist()) for losses in found}) == len(found)


def test_another_shape_runs_as_it_stands_and_the_graph_is_kept() -> None:
    pair = Pair()
    for _ in range(4):
        for _ in range(WARM_UP + 2):
            pair.step()
        pair.step(rows=5)
    assert pair.recorder.captures == 1
    assert pair.recorder.asides == WARM_UP + 4


def test_a_number_of_rays_that_stays_is_captured_anew_and_one_that_alternates_is_not() -> None:
    pair = Pair()
    for _ in range(WARM_UP + 2):
        pair.step(rays=3)
    for _ in range(WARM_UP + 2):
        pair.step(rays=5)
    assert (pair.recorder.captures, pair.recorder.replays) == (2, 4)
    for rays in (3, 4) * WARM_UP:
        pair.step(rays=rays)
    assert (pair.recorder.captures, pair.recorder.replays) == (2, 4)


def test_a_changed_chunk_runs_as_it_stands() -> None:
    pair = Pair()
    for _ in range(WARM_UP + 1):
        pair.step(rays=4)
    pair.set_chunk(2)
    pair.step(rays=4)
    assert (pair.recorder.replays, pair.recorder.asides) == (1, WARM_UP + 1)
    for _ in range(WARM_UP):  # two passes a step are as good a graph as one
        pair.step(rays=4)
    assert (pair.recorder.captures, pair.recorder.replays) == (2, 2)


def test_a_loss_that_is_not_finite_comes_out_of_a_replay() -> None:
    pair = Pair()
    for _ in range(WARM_UP + 1):
        pair.step()
    state = pair.states[1]
    step, rays = pair.steps[1], torch.full((3, 2), 0.5)
    targets = tuple(torch.zeros(16, dtype=torch.long) for _ in range(2))
    assert step(torch.full((16, 1, 28, 28), float("nan")), targets, rays).isnan().all()
    assert state.model.first.weight.isnan().any()


def test_a_step_that_needs_the_host_is_not_captured() -> None:
    """A batch normalisation that averages over all steps divides by their number, which it reads."""

    def counting() -> nn.Module:
        model = DropoutNet()
        model.norm.momentum = None
        return model

    pair = Pair(make_model=counting)
    for _ in range(WARM_UP + 2):
        pair.step()
    assert pair.recorder.captures == 0
    [note] = pair.notes
    assert "_local_scalar_dense gives the host a value" in note

    parts = assemble(tiny(), counting)
    state = initial_state(parts, tiny())
    step = Step(parts, state, forward_pass(parts, tiny()), StandIn(parts.model), required=True)
    batch = torch.randn(16, 1, 28, 28), tuple(torch.zeros(16, dtype=torch.long) for _ in range(2)), torch.rand(3, 2)
    step(*batch)
    with pytest.raises(PaloraError, match=r"--graph on cannot be had, because a step needs the host"):
        step(*batch)


# The stand-in finds what a graph would get wrong


def captured_step(config: RunConfig, state_of: Any = with_tensor_rates, make_model: Any = DropoutNet) -> Any:
    parts = assemble(config, make_model)
    state = state_of(parts, config)
    step = Step(parts, state, forward_pass(parts, config), StandIn(parts.model))
    batch = torch.randn(16, 1, 28, 28), tuple(torch.zeros(16, dtype=torch.long) for _ in range(2)), torch.rand(3, 2)
    for _ in range(WARM_UP + 2):
        step(*batch)
    return state, lambda: step(*batch)


def test_a_learning_rate_that_is_a_number_would_be_frozen() -> None:
    config = tiny(lr_milestones=(1,))
    for state_of in (with_tensor_rates, initial_state):
        state, step = captured_step(config, state_of)
        state.position.epoch = 1
        set_learning_rate(state, config)
        if state_of is initial_state:
            with pytest.raises(Broken, match="_fused_adam"):
                step()
        else:
            step()


def test_weights_or_moments_at_other_addresses_would_be_missed() -> None:
    state, step = captured_step(tiny())
    state.model.first.weight.data = state.model.first.weight.data.clone()
    with pytest.raises(Broken, match=r"captured was .* address"):
        step()
    state, step = captured_step(tiny())
    moments = state.optimizer.state[state.model.first.bias]
    moments["exp_avg"] = moments["exp_avg"].clone()
    with pytest.raises(Broken, match="_fused_adam"):
        step()


def test_what_a_step_keeps_would_be_overwritten() -> None:
    class Keeping(DropoutNet):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            outputs = super().forward(x)
            self.kept = outputs[0].detach()
            return outputs

    with pytest.raises(Broken, match="outlive"):
        captured_step(tiny(), make_model=Keeping)


# Where there can be no graph


def test_a_graph_that_cannot_be_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PaloraError, match=r"--graph on cannot be had, because the run is on cpu, .*: leave it out\."):
        train(tiny(graph="on"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"`graph` should be auto, on or off\. Found 'yes'\."):
        tiny(graph="yes")


def test_what_stands_in_the_way_of_a_graph() -> None:
    on_gpu = {"device": torch.device("cuda")}
    parts = replace(assemble(tiny()), **on_gpu)
    assert obstacle(tiny(), parts) is None
    assert recorder_for(tiny(graph="off"), parts) is None
    assert "torch.compile" in str(obstacle(tiny(compile=True), parts))
    reading = tiny(method_options={"balance": "gradient"})
    parts = replace(assemble(reading), **on_gpu)
    assert recorder_for(reading, parts) is None
    with pytest.raises(PaloraError, match="the method 'palora', as it is set, reads or keeps values on the host"):
        recorder_for(replace(reading, graph="on"), parts)


def test_learning_rates_in_memory_are_numbers_in_a_checkpoint() -> None:
    parts = assemble(tiny(), DropoutNet)
    state = with_tensor_rates(parts, tiny(lr=1e-3))
    rates = [group["lr"] for group in state.optimizer.param_groups]
    snapshot = state.snapshot()
    assert [group["lr"] for group in snapshot["optimizer"]["param_groups"]] == [1e-3, 2e-3]
    for rate in rates:
        rate.zero_()
    state.restore(snapshot)
    for group, rate in zip(state.optimizer.param_groups, rates, strict=True):
        assert group["lr"] is rate
    assert [float(rate) for rate in rates] == [1e-3, 2e-3]


def test_a_run_of_before_there_were_graphs_can_be_resumed() -> None:
    values = tiny().to_dict()
    del values["graph"]
    assert RunConfig.from_dict(values).graph == "auto"
