"""Every numeric option of every command with numbers that make no sense: a quick and clean answer, never a hang."""

from __future__ import annotations

import dataclasses
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, get_type_hints

import engine_runs
import pytest

pytest.importorskip("rich")
pytest.importorskip("typer")

import torch
from torch import nn

import palora
from palora import data, methods, models
from palora.cli import ablate, bench, main, toy, train
from palora.cli.flags import without_none
from palora.data import Batches, Split, TaskSpec
from palora.engine import RunConfig, trainer
from palora.engine.grids import grid_of
from palora.errors import PaloraError
from palora.evaluation import delta_m, summary
from palora.rays.grid import fixed_rays, interior_grid
from palora.toy import descend

NUMBERS = ("nan", "inf", "-1", "0", "1e30", str(10**12))
LIMIT = 20  # seconds of a case
BASE = {"epochs": "1", "batch": "32", "limit": "32"}


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def too_late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def numeric(command: str) -> list[str]:
    """The names of a command's options that take a number."""
    functions = {"train": train.command(True), "ablate": ablate.ablate, "toy": toy.toy, "bench": bench.bench}
    hints = get_type_hints(functions[command])
    return [name for name, hint in hints.items() if without_none(hint) in (int, float)]


def needed(option: str) -> dict[str, str]:
    """A method that has the option, and the values of others under which it does anything."""
    for method in methods.METHODS.values():
        for field in dataclasses.fields(method.Options):
            if field.name == option:
                only = field.metadata["only"]
                return {"method": method.name, **{name: values[0] for name, values in only.items()}}
    return {}


def words(given: dict[str, str]) -> list[str]:
    return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that are set up, as every one is, and draw the rays of a step and of a validation, but train no step."""

    def drawn(config: Any, parts: Any, *rest: Any) -> None:
        parts.method.rays(0.5)
        grid_of(parts.method, config)

    monkeypatch.setattr(data, "load", lambda *a, **k: engine_runs.small_set())
    monkeypatch.setattr(trainer, "run_epochs", drawn)
    monkeypatch.setattr("palora.cli.results.finish", lambda *a, **k: None)
    monkeypatch.setattr(bench, "pin_threads", lambda: None)
    monkeypatch.setattr(bench, "on_host", lambda *a: ({}, []))


def clean(arguments: list[str], capsys: pytest.CaptureFixture[str], refused: bool) -> None:
    with at_most(LIMIT):
        status = main(arguments)
    said = capsys.readouterr().err
    assert status in (0, 1, 2), said
    assert "unexpected" not in said
    assert "Traceback" not in said
    if refused:
        assert status, f"{' '.join(arguments)} was taken"
    if status:
        assert said.count("\n") == 1, said
        assert said.startswith("palora: ")


@pytest.mark.parametrize("option", [name for name in numeric("train") if name != "offset"])  # the data's: below
def test_numbers_of_train(option: str, short: None, capsys: pytest.CaptureFixture[str]) -> None:
    for number in NUMBERS:
        given = {**BASE, **needed(option), option: number}
        never = {"lr": ("nan", "inf")}.get(option, ("nan", "inf", "1e30", str(10**12)))
        clean(["train", "multimnist-small", "--out", f"run{number}", *words(given)], capsys, number in never)


@pytest.mark.parametrize(
    "option, form", [("ray_chunk", "{}"), ("data_option", "limit={}"), ("data_option", "offset={}")]
)
def test_numbers_within_texts_of_train(
    option: str, form: str, short: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "load", engine_runs.load)
    for number in (*NUMBERS, "²", "9" * 5000, "[" * 5000):
        given = {**BASE, option: form.format(number)}
        refused = not (option == "data_option" and number == "0")
        clean(["train", "multimnist-small", "--out", f"run{number[:9]}", *words(given)], capsys, refused)


def test_numbers_of_ablate(short: None, capsys: pytest.CaptureFixture[str]) -> None:
    for number in ("nan", "inf", "-1", "1e30", str(10**12)):
        for option in [*numeric("ablate"), "seeds"]:
            if option == "lr" and number in ("1e30", str(10**12)):  # diverges, and says so
                continue
            given = {**BASE, option: number}
            clean(["ablate", "multimnist-small", "--out", "ablation", *words(given)], capsys, True)
        for setting in ("rank", "rays", "temperature", "epochs", "batch"):
            given = {name: value for name, value in {**BASE, "set": f"{setting}={number}"}.items() if name != setting}
            clean(["ablate", "multimnist-small", "--out", "ablation", *words(given)], capsys, True)


def test_numbers_of_toy_and_bench(short: None, capsys: pytest.CaptureFixture[str]) -> None:
    for number in NUMBERS:
        for option in numeric("toy"):
            given = {"steps": "3", option: number}
            clean(["toy", *words(given)], capsys, number != "0" and not (option in ("scale", "lr") and number == "1"))
        for option in numeric("bench"):
            clean(["bench", "--device", "cpu", *words({option: number})], capsys, True)


@pytest.mark.slow
@pytest.mark.parametrize("option", numeric("train"))
def test_numbers_of_train_in_whole_runs(
    option: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "load", lambda *a, **k: engine_runs.small_set())
    for number in NUMBERS:
        given = {**BASE, **needed(option), option: number}
        with at_most(120):
            status = main(["train", "multimnist-small", "--out", f"run{number}", *words(given)])
        said = capsys.readouterr().err
        assert status in (0, 1, 2), said
        assert "unexpected" not in said


BAD = (math.nan, math.inf, -1, 0, 1e30, 10**12, 10**400, True, None, "1", [1])


def _front() -> palora.Front:
    return palora.Front(torch.eye(2), torch.rand(2, 2))


CALLS: dict[str, Callable[[Any], Any]] = {
    "simplex_grid tasks": lambda v: palora.simplex_grid(v, 10),
    "simplex_grid divisions": lambda v: palora.simplex_grid(2, v),
    "interior_grid": lambda v: interior_grid(3, v),
    "fixed_rays": fixed_rays,
    "Annealed tasks": lambda v: palora.schedules.Annealed(v, 5),
    "Annealed rays": lambda v: palora.schedules.Annealed(2, v),
    "Dirichlet tasks": lambda v: palora.schedules.Dirichlet(v, 5),
    "Dirichlet rays": lambda v: palora.schedules.Dirichlet(2, v),
    "adapt tasks": lambda v: palora.adapt(nn.Sequential(nn.Linear(2, 2)), v, 1),
    "adapt rank": lambda v: palora.adapt(nn.Sequential(nn.Linear(2, 2)), 2, v),
    "split": lambda v: palora.split(torch.rand(4, 2), v),
    "LeNet tasks": lambda v: models.LeNet(tasks=v),
    "MLP": lambda v: models.MLP(4, (v,), (1,)),
    "models.build": lambda v: models.build("mlp", inputs=4, hidden=(v, v), outputs=(1,)),
    "Batches": lambda v: Batches(Split(torch.rand(4, 2), (torch.rand(4),)), v),
    "TaskSpec": lambda v: TaskSpec("a", "mse", "mse", v),
    "descend steps": lambda v: descend("ls", (0.0, 0.0), steps=v),
    "descend lr": lambda v: descend("ls", (0.0, 0.0), steps=2, lr=v),
    "data.load": lambda v: data.load("multimnist-small", limit=v),
    "epochs": lambda v: engine_runs.tiny(epochs=v),
    "divisions": lambda v: engine_runs.tiny(divisions=v),
    "ray_chunk": lambda v: engine_runs.tiny(ray_chunk=v),
    "rank": lambda v: methods.build("palora", 2, {"rank": v}),
    "temperature": lambda v: methods.build("palora", 2, {"temperature": v}),
    "hypervolume": lambda v: palora.hypervolume([[0.5, 0.5]], v),
}
MAY = {
    "hypervolume": (-1, 0, 1e30, 10**12, True, [1], "1"),
    "Batches": (10**12, 10**400),  # one batch
    "temperature": (None,),
    "data.load": (None,),
    "ray_chunk": (None,),
}


@pytest.mark.parametrize("name", CALLS)
def test_numbers_of_functions(name: str) -> None:
    for value in BAD:
        with at_most(LIMIT):
            if any(type(value) is type(fine) and value == fine for fine in MAY.get(name, ())):
                CALLS[name](value)
                continue
            with pytest.raises((ValueError, TypeError, PaloraError)) as refused:
                CALLS[name](value)
            assert "\n" not in str(refused.value)
            assert len(str(refused.value)) < 500


def test_delta_m_has_neither_division_by_zero_nor_nan() -> None:
    for metrics, single in (({"a": 1.0}, {"a": 0.0}), ({"a": math.nan}, {"a": 1.0}), ({"a": 1.0}, {"a": math.inf})):
        with pytest.raises(ValueError, match=r"\['a'\]"):
            delta_m(metrics, single)
    with pytest.raises(ValueError, match="should not be 0"):
        delta_m({"a": 1e300}, {"a": 1e-300})
    assert delta_m({"loss": 1.1}, {"loss": 1.0}) == pytest.approx(10.0)


def test_references_have_a_number_a_task() -> None:
    with pytest.raises(ValueError, match="each of the 2 tasks"):
        summary(_front(), (1.0, 2.0, 3.0))
    config = engine_runs.tiny(reference=(1.0, 1.0, 1.0))
    with pytest.raises(PaloraError, match=r"`reference` should have a number for each of the 2 tasks\. Found 3"):
        trainer.assemble(config)
    with pytest.raises(ValueError, match=r"`reference\[0\]` should be a finite number"):
        engine_runs.tiny(reference=(math.nan, 1.0))


IDLE = (
    "train multimnist-small --p 0.5",
    "train multimnist-small --exponent quotient --schedule fixed",
    "train multimnist-small --temperature 2 --schedule dirichlet",
    "train multimnist-small --as-released",
    "train multimnist-small --method ls --rank 2",
    "train multimnist-small --method ls --divisions 5",
    "train multimnist-small --method ls --ray-chunk 1",
    "train sarcos --divisions 5",
    "train multimnist-small --offset 6 --data-option offset=8",
    "train multimnist-small --data-option offset=6 --data-option offset=8",
    "ablate multimnist-small --set p=0.5,1",
    "ablate multimnist-small --method ls --set rank=1,2",
    "toy --set rank=2 --method ls",
    "toy --set p=2",
    "toy --method all --method ls",
    "bench --device cpu --only zzz",
    "bench --compare a b --only ops",
    "bench --compare a b --seconds 1",
    "bench --check --seconds 1",
    "bench --tune --figure a.png",
    "bench --device cpu --dtype float16",
)


@pytest.mark.parametrize("line", IDLE)
def test_options_that_do_nothing_are_refused(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "pin_threads", lambda: None)
    with at_most(LIMIT):
        assert main(line.split()) in (1, 2)
    said = capsys.readouterr().err
    assert said.startswith("palora: ")
    assert said.count("\n") == 1


def test_two_places_that_weights_come_from_are_refused() -> None:
    with pytest.raises(PaloraError, match="only one can: leave one out"):
        engine_runs.tiny(expand="a", pretrained="b")
    assert isinstance(engine_runs.tiny(pretrained="b"), RunConfig)
