"""Choosing a preference of a trained run, in Python and at the terminal."""

from __future__ import annotations

import json
import shlex
from functools import partial
from pathlib import Path

import pytest
import torch
from engine_runs import small_set, tiny

import palora
import palora.data
from palora.engine import RunFolder, Trained, choose, evaluate, read_metrics, train
from palora.engine.state import load_checkpoint
from palora.errors import PaloraError


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palora.data, "load", lambda *args, **options: small_set())


def _finished(folder: Path, **settings: object) -> RunFolder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(palora.data, "load", lambda *args, **options: small_set())
        return train(tiny(divisions=4, **settings), folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of PaLoRA, not evaluated, validated at five rays. Its adapters are large, so that λ matters."""
    options = {"schedule": "dirichlet", "rays": 3, "rank": 4, "alpha": 16.0}
    return _finished(tmp_path_factory.mktemp("run") / "run", lr=0.01, epochs=4, method_options=options)


def merged_numbers(run: RunFolder, split: str, ray: torch.Tensor) -> dict[str, float]:
    """Losses and accuracies of the merged model: another way to them."""
    model = palora.adapt(palora.models.LeNet(), 2, 4, 16.0, form="loralib")
    model.load_state_dict(load_checkpoint(run.last)["model"])
    inputs, targets = getattr(small_set(), split).take(96).rows(slice(None))
    with torch.no_grad():
        outputs = palora.merge(model, ray)(inputs)
    found = {}
    for name, output, target in zip(("left", "right"), outputs, targets, strict=True):
        found[f"loss/{name}"] = torch.nn.functional.cross_entropy(output, target).item()
        found[f"accuracy/{name}"] = (output.argmax(1) == target).double().mean().item()
    return found


def test_a_choice_is_made_on_validation_and_shown_on_test(run: RunFolder) -> None:
    trained = Trained(run.path)
    known = trained.grid_front("validation")
    record = read_metrics(run.path)[-1]["validation"]
    assert known.losses.tolist() == record["losses"], "what training wrote down"
    torch.testing.assert_close(known.losses, trained.front("validation", trained.grid).losses)

    by_hand = [merged_numbers(run, "validation", ray) for ray in trained.grid]
    bound = sorted(numbers["accuracy/left"] for numbers in by_hand)[2]
    good = [m for m, numbers in enumerate(by_hand) if numbers["accuracy/left"] >= bound - 1e-9]
    top = max(by_hand[m]["accuracy/right"] for m in good)
    found = choose(run.path, partial(palora.select, at_least={"left": bound}, best="right"))
    index = int((trained.grid == found.ray).all(1).nonzero())
    assert index in good
    assert by_hand[index]["accuracy/right"] == pytest.approx(top)
    for split, numbers in (("validation", found.validation), ("test", found.test)):
        assert numbers == pytest.approx(merged_numbers(run, split, found.ray), rel=1e-4)
    assert found.validation != found.test
    assert (found.rays, found.refined, found.asked, found.tasks) == (5, False, False, ("left", "right"))


def test_refined_choices_are_no_worse_and_measured_at_the_ray(run: RunFolder) -> None:
    said: list[str] = []
    coarse = choose(run.path, palora.knee)
    fine = choose(run.path, partial(palora.nearest, wish={"left": 0.5}), refine=True)
    assert fine.refined
    assert fine.rays > coarse.rays
    best = choose(run.path, lambda front: front.rays[front.losses.sum(1).argmin()], refine=True, show=said.append)
    grid = Trained(run.path).grid_front("validation")
    assert best.validation["loss/left"] + best.validation["loss/right"] <= grid.losses.sum(1).min().item() + 1e-6
    assert all(line.startswith("evaluating ") for line in said)
    for split, numbers in (("validation", best.validation), ("test", best.test)):
        assert numbers == pytest.approx(merged_numbers(run, split, best.ray), rel=1e-4)


def test_the_slopes_of_a_trained_model_add_up_to_its_losses(run: RunFolder) -> None:
    trained = Trained(run.path)
    ends = trained.front("validation", torch.eye(2)).losses
    total = torch.zeros(2, dtype=torch.float64)
    for m in range(10):  # the middle of each tenth of the way from (0, 1) to (1, 0)
        slope = trained.sensitivity("validation", torch.tensor([m + 0.5, 9.5 - m]) / 10)
        assert slope is not None
        total += (slope[:, 0] - slope[:, 1]) / 10
    torch.testing.assert_close(total.float(), ends[0] - ends[1], rtol=0.05, atol=0.005)
    assert (ends[0] - ends[1]).abs().max() > 0.02


def test_a_named_preference(run: RunFolder) -> None:
    found = choose(run.path, torch.tensor([0.25, 0.75]))
    assert found.asked
    assert found.ray.tolist() == [0.25, 0.75]
    with pytest.raises(PaloraError, match=r"\(0.3, 0.7\) is not on the grid .* nearest .* \(0.25, 0.75\)\. With ref"):
        choose(run.path, torch.tensor([0.3, 0.7]))
    between = choose(run.path, torch.tensor([0.3, 0.7]), refine=True)
    assert between.validation == pytest.approx(merged_numbers(run, "validation", torch.tensor([0.3, 0.7])), rel=1e-4)


def test_what_was_written_of_another_split_or_checkpoint_is_not_taken(run: RunFolder) -> None:
    ray = torch.tensor([1.0, 0.0])
    before = Trained(run.path).achieved("test", ray)
    evaluate(run.path, split="train")
    assert Trained(run.path).achieved("test", ray) == before
    evaluate(run.path)
    content = json.loads(run.front_file.read_text())
    content["losses"][0][0] = 123.0
    run.front_file.write_text(json.dumps(content))
    assert Trained(run.path).achieved("test", ray)["loss/left"] == 123.0, "front.json is of this checkpoint"
    assert Trained(run.path, checkpoint="best").achieved("test", ray)["loss/left"] != 123.0
    run.front_file.unlink()


def test_methods_without_preferences(tmp_path: Path) -> None:
    point = _finished(tmp_path / "ls", method="ls", epochs=1)
    assert choose(point.path, palora.knee).ray.tolist() == [0.5, 0.5]
    with pytest.raises(PaloraError, match="nothing to refine"):
        choose(point.path, palora.knee, refine=True)
    with pytest.raises(PaloraError, match=r"'ls' holds a single point .* only one, \(0.5, 0.5\)"):
        choose(point.path, torch.tensor([0.3, 0.7]), refine=True)


@pytest.mark.needs("typer")
def test_the_command(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    from palora.cli import main

    folder = str(run.path)
    assert main(["select", folder, "--knee", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = choose(run.path, palora.knee)
    assert found == json.loads(json.dumps(expected.to_dict()))
    words = shlex.split(found["export"])
    assert words[:4] == ["palora", "export", folder, "--preference"]
    assert [float(w) for w in words[4].split(",")] == found["preference"]

    assert main(["select", folder, "--best", "left", "--at-least", "right=0.01", "--at-least", "left=0"]) == 0
    out = capsys.readouterr().out
    assert "chosen on validation data among 5 rays; last checkpoint" in out
    assert f"palora export {folder} --preference " in out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith(("loss/", "accuracy/"))}
    chosen = choose(run.path, partial(palora.select, at_least={"right": 0.01, "left": 0.0}, best="left"))
    assert rows == {name: [f"{v:.4f}", f"{chosen.test[name]:.4f}"] for name, v in chosen.validation.items()}

    for words in (["--epsilon", "left=0.01"], ["--nearest", "left=0.3,right=0.2"], ["--preference", "1,0"]):
        assert main(["select", folder, *words]) == 0, words
    assert main(["select", folder, "--preference", "0.3,0.7", "--refine", "--checkpoint", "best"]) == 0
    assert "--preference 0.3,0.7 --checkpoint best" in capsys.readouterr().out


@pytest.mark.needs("typer")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "Say in one way what to choose"),
        (["--knee", "--best", "left"], "Say in one way what to choose"),
        (["--knee", "--at-least", "left=0.5"], "Say in one way what to choose"),
        (["--at-least", "left=0.5"], "Say in one way what to choose"),
        (["--best", "left", "--at-least", "right"], "--at-least should look like NAME=VALUE, as in left=0.95. Found"),
        (["--best", "left", "--at-least", "right=much"], "Found 'right=much'"),
        (["--nearest", "left=1,left=2"], "--nearest names left twice"),
        (["--best", "lft"], "There is no task or metric 'lft'. Did you mean left"),
        (["--best", "left", "--at-least", "right=1.5"], "the nearest is ("),
        (["--preference", "0.3,0.9"], "the nearest is 0.2,0.8."),
        (["--preference", "0.3,0.7"], "the nearest that was evaluated is (0.25, 0.75)"),
        (["--knee", "--checkpoint", "first"], "`checkpoint` should be last or best"),
    ],
)
def test_what_cannot_be_chosen_is_one_sentence(
    run: RunFolder, words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from palora.cli import main

    assert main(["select", str(run.path), *words]) == 1
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
