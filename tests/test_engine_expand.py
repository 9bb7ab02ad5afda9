"""Pareto expansion: adapters on another run's model, which stays as it was to the last bit."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import small_set, tiny
from method_cases import every_method

pytest.importorskip("typer")

import palora.data
from palora import models, recipes
from palora.cli import main, results
from palora.engine import RunFolder, evaluate, train
from palora.engine.config import RunConfig
from palora.engine.expand import final_lr, starting_model
from palora.engine.pseudo import pseudo_preferences
from palora.engine.setup import assemble
from palora.engine.state import Position, load_checkpoint
from palora.errors import PaloraError
from palora.recipes.expansion import expanding


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(palora.data, "load", lambda *args, **options: small_set())
    monkeypatch.setattr(results, "draw", lambda *args: [])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of linear scalarisation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(palora.data, "load", lambda *args, **options: small_set())
        return train(tiny(method="ls", lr=3e-3), tmp_path_factory.mktemp("ls") / "run").path


def quick(run: Path, **more: Any) -> RunConfig:
    settings = {"epochs": 1, "batch": 16, "limit": 48, "divisions": 2, "log_every": 1, **more}
    return expanding(recipes.get("multimnist-small"), run, **settings)


@pytest.mark.needs("moocore")
def test_only_the_adapters_move(trained: Path, tmp_path: Path) -> None:
    run = train(quick(trained), tmp_path / "expanded")
    base = load_checkpoint(RunFolder(trained).last)["model"]
    state = load_checkpoint(run.last)["model"]
    for name, value in base.items():
        assert torch.equal(state[name], value), name
    moved = [name for name, value in state.items() if "lora_A" in name and value.abs().sum() > 0]
    assert len(moved) == 7  # conv1, conv2, fc and four layers of the heads
    front = evaluate(run.path).front
    assert len(front) == 3
    plain = evaluate(trained).front
    # Four small steps away from the checkpoint; before them every ray was the checkpoint itself.
    assert (front.losses - plain.losses).abs().max() < 0.5


@pytest.mark.needs("moocore")
def test_before_the_first_step_every_ray_is_the_checkpoint(trained: Path) -> None:
    config = quick(trained)
    parts = assemble(config, lambda: starting_model(config))
    parts.model.eval()
    x = parts.dataset.test.inputs[:8]
    plain = models.build("lenet")
    plain.load_state_dict(load_checkpoint(RunFolder(trained).last)["model"])
    with torch.no_grad():
        for y, z in zip(parts.method.forward(parts.model, x, torch.eye(2)), plain(x), strict=True):
            torch.testing.assert_close(y, z.expand(2, -1, -1), rtol=1e-4, atol=1e-5)
    assert {p.requires_grad for n, p in parts.model.named_parameters() if "lora" not in n} == {False}


def test_epochs_and_learning_rate_follow_the_recipe_and_the_run(trained: Path) -> None:
    config = expanding(recipes.get("multimnist"), trained)
    assert (config.epochs, config.lr, config.lr_milestones) == (4, 3e-3, ())
    assert config.method_options["freeze_base"] is True
    assert expanding(recipes.get("multimnist"), trained, lr=1e-4, epochs=2).lr == 1e-4
    halved = tiny(lr=1e-3, lr_milestones=(2, 5, 9), lr_decay=0.5, epochs=6)
    assert final_lr(halved) == 1e-3 / 4


def write_checkpoint(model: torch.nn.Module, run: Path) -> None:
    """Of a training that took no step."""
    rest: dict[str, Any] = {"optimizer": {}, "method": {}, "position": asdict(Position()), "rng": {}, "metrics_size": 0}
    torch.save({"format": 1, "model": model.state_dict(), **rest}, run / "checkpoints" / "last.pt")


@pytest.mark.parametrize("name", every_method(but=("stl", "cosmos")))
def test_a_checkpoint_of_any_method_with_one_model(name: str, tmp_path: Path) -> None:
    """Not trained: a checkpoint of the method's first moment, and what it makes of the centre."""
    config = tiny(method=name)
    parts = assemble(config)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text(json.dumps(config.to_dict()))
    write_checkpoint(parts.model, tmp_path / "run")
    model = starting_model(quick(tmp_path / "run"))
    x, centre = parts.dataset.test.inputs[:4], torch.tensor([[0.5, 0.5]])
    with torch.no_grad():
        expected = parts.method.forward(parts.model.eval(), x, centre)
        for y, z in zip(model.eval()(x), expected, strict=True):
            torch.testing.assert_close(y, z[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["stl", "cosmos"])
def test_methods_without_one_plain_model_are_refused(name: str, tmp_path: Path) -> None:
    config = tiny(method=name)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text(json.dumps(config.to_dict()))
    write_checkpoint(assemble(config).model, tmp_path / "run")
    with pytest.raises(PaloraError, match=f"trained by '{name}', which does not leave one plain model"):
        starting_model(quick(tmp_path / "run"))


@pytest.mark.needs("moocore")
def test_what_does_not_fit_is_one_sentence(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(PaloraError, match="'ls' has not: use palora"):
        quick(trained, method="ls")
    with pytest.raises(PaloraError, match="not a run folder"):
        quick(tmp_path)
    with pytest.raises(PaloraError, match=r"model_options = \{'tasks': 2\}; this recipe has \{'tasks': 3\}"):
        starting_model(quick(trained, model_options={"tasks": 3}))
    with pytest.raises(PaloraError, match="'lenet' of recipe 'multimnist-small' reads no pretrained weights"):
        starting_model(tiny(pretrained="weights.th"))


@pytest.mark.needs("moocore")
def test_through_the_command_line(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--epochs", "1", "--limit", "32", "--batch", "16", "--rays", "2", "--out", "run"]
    assert main(["train", "multimnist-small", "--expand", str(trained), *flags]) == 0
    assert main(["train", "multimnist-small", "--resume", "--out", "run"]) == 0  # finished: evaluated again
    capsys.readouterr()
    assert main(["evaluate", "run", "--pseudo"]) == 0
    shown = capsys.readouterr().out
    assert "pseudo-preferences" in shown
    assert "-1.00 1.00" in shown
    rows = json.loads(Path("run/front.json").read_text())["summary"]["pseudo"]
    assert [row["ray"] for row in rows] == [[0, 0], [1, -1], [-1, 1], [-1, -1]]
    # Without adapters the model is the checkpoint.
    point = evaluate(trained)
    assert rows[0]["loss/left"] == pytest.approx(point.front.losses[0, 0].item(), rel=0.05)
    assert main(["evaluate", str(trained), "--pseudo"]) == 1
    assert "the method 'ls' has none" in capsys.readouterr().err


def test_pseudo_preferences_of_three_tasks() -> None:
    expected = [[0, 0, 0], [1, -1, -1], [-1, 1, -1], [-1, -1, 1], [-1, -1, -1]]
    assert pseudo_preferences(3).tolist() == expected
