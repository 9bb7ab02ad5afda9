"""What `evaluate` measures and writes down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from engine_runs import small_set, tiny
from torch import nn

import palora
import palora.data
from palora.engine import RunFolder, controls_beside, evaluate, train
from palora.engine.setup import assemble
from palora.engine.state import load_checkpoint
from palora.errors import PaloraError


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palora.data, "load", lambda *args, **options: small_set())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of PaLoRA."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(palora.data, "load", lambda *args, **options: small_set())
        return train(tiny(), tmp_path_factory.mktemp("run") / "run")


@pytest.mark.needs("moocore")
def test_evaluation_of_a_run(run: RunFolder) -> None:
    result = evaluate(run.path)
    parts = assemble(tiny())
    parts.model.load_state_dict(load_checkpoint(run.last)["model"])
    parts.model.eval()
    split = parts.dataset.test
    for m, ray in enumerate(result.front.rays):
        with torch.no_grad():
            outputs = palora.merge(parts.model, ray)(split.inputs)
        for t, (task, output) in enumerate(zip(result.front.tasks, outputs, strict=True)):
            loss = nn.functional.cross_entropy(output, split.targets[t])
            hits = (output.argmax(1) == split.targets[t]).float().mean()
            assert result.front.losses[m, t].item() == pytest.approx(loss.item(), rel=1e-4)
            assert result.front.metrics[f"accuracy/{task}"][m].item() == pytest.approx(hits.item(), abs=0.011)

    content = json.loads(run.front_file.read_text())
    assert palora.Front.load(run.front_file) == result.front
    summary = content["summary"]
    assert summary["split"] == "test"
    assert summary["hypervolume"]["losses_reference"] == [1, 1]
    assert summary["hypervolume"]["accuracies_reference"] == [0, 0]
    assert summary["nondominated"]["of"] == 3
    assert set(summary["fixed_rays"]) == {"left", "right", "centre"}
    assert all(summary["fixed_rays"].values())
    assert set(summary["best_of_grid"]) == {"accuracy/left", "accuracy/right", "loss/left", "loss/right"}
    assert summary["parameters"] == 27_450 + 3_430


@pytest.mark.needs("moocore")
def test_vertices_and_centre_are_evaluated_even_off_the_grid(tmp_path: Path) -> None:
    run = train(tiny(epochs=1, limit=16, divisions=3), tmp_path / "run")
    result = evaluate(run.path)
    assert len(result.front) == 4  # the grid alone: (1, 0), (2/3, 1/3), …
    assert result.summary["nondominated"]["of"] == 4
    assert result.summary["fixed_rays"]["centre"] is not None
    front = evaluate(run.path, split="validation", checkpoint="best").front
    assert len(front) == 4


@pytest.mark.needs("moocore")
def test_evaluation_errors(tmp_path: Path, run: RunFolder) -> None:
    with pytest.raises(PaloraError, match="not a run folder"):
        evaluate(tmp_path)
    with pytest.raises(PaloraError, match="`split` should be"):
        evaluate(run.path, split="tset")
    with pytest.raises(PaloraError, match="`checkpoint` should be"):
        evaluate(run.path, checkpoint="first")


@pytest.mark.needs("moocore")
def test_controls_beside_a_run(tmp_path: Path) -> None:
    settings = {"epochs": 1, "limit": 16}
    own = train(tiny(**settings), tmp_path / "mine")
    for name, config in {
        "a": tiny(method="ls", **settings),
        "b": tiny(method="ls", seed=1, **settings),
        "c": tiny(method="stl", epochs=2, limit=16),
        "d": tiny(method_options={"rank": 2, "rays": 2}, **settings),
    }.items():
        evaluate(train(config, tmp_path / name).path)
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "front.json").write_text("{}")
    found = controls_beside(own.path)
    assert list(found) == ["ls"]
    assert found["ls"] == palora.Front.load(tmp_path / "a" / "front.json")
