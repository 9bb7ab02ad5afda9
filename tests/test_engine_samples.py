"""samples.json, which an evaluation leaves beside the front."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from engine_runs import small_set, tiny

import palora
import palora.data
from palora.engine import RunFolder, evaluate, samples, train
from palora.engine.costs import read_costs
from palora.engine.setup import assemble
from palora.engine.state import load_checkpoint
from palora.errors import PaloraError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of PaLoRA."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(palora.data, "load", lambda *args, **options: small_set())
        return train(tiny(), tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palora.data, "load", lambda *args, **options: small_set())


@pytest.mark.needs("moocore")
def test_samples_are_what_the_merged_model_answers(run: RunFolder) -> None:
    front = evaluate(run.path, samples=6).front
    content = json.loads(run.samples_file.read_text())
    assert (content["format"], content["split"], content["checkpoint"]) == ("palora samples 1", "test", "last")
    assert content["tasks"] == [{"name": "left", "kind": "classes"}, {"name": "right", "kind": "classes"}]
    assert torch.allclose(torch.tensor(content["rays"]), front.rays, atol=1e-6)
    parts = assemble(tiny())
    parts.model.load_state_dict(load_checkpoint(run.last)["model"])
    parts.model.eval()
    assert len(content["samples"]) == 6
    for sample in content["samples"]:
        inputs, targets = parts.dataset.test.rows(torch.tensor([sample["index"]]))
        assert [truth["class"] for truth in sample["truth"]] == [int(target) for target in targets]
        for ray, answers in zip(front.rays, sample["answers"], strict=True):
            with torch.no_grad():
                outputs = palora.merge(parts.model, ray)(inputs)
            for answer, output in zip(answers, outputs, strict=True):
                probabilities = output[0].softmax(0)
                assert answer["confidence"] == pytest.approx(float(probabilities.max()), abs=2e-4)
                assert answer["probabilities"] == pytest.approx(probabilities.tolist(), abs=2e-4)


def test_half_come_as_they_are_and_half_change_most(run: RunFolder) -> None:
    evaluate(run.path, samples=6)
    found = json.loads(run.samples_file.read_text())["samples"]
    assert [(s["index"], s["chosen"]) for s in found[:3]] == [(0, "first"), (1, "first"), (2, "first")]
    assert {s["chosen"] for s in found[3:]} == {"changes"}
    parts = assemble(tiny())
    parts.model.load_state_dict(load_checkpoint(run.last)["model"])
    inputs, targets = parts.dataset.test.rows(slice(0, samples.LOOKED_AT))
    change = torch.zeros(len(inputs))
    outputs = samples.answer(parts, inputs, palora.simplex_grid(2, 2))
    for output, target in zip(outputs, targets, strict=True):
        own = torch.stack([output[m].softmax(1)[range(len(target)), target] for m in range(3)])
        change += own.amax(0) - own.amin(0)
    order = [i for i in change.argsort(descending=True).tolist() if i > 2]
    assert [s["index"] for s in found[3:]] == order[:3]


def test_none_are_kept_where_none_are_wanted(run: RunFolder) -> None:
    evaluate(run.path, samples=2)
    assert run.samples_file.exists()
    evaluate(run.path, samples=0)
    assert not run.samples_file.exists()
    for wrong in (-1, 1000, True):
        with pytest.raises(PaloraError, match="`samples` should be an integer in 0 … 100"):
            evaluate(run.path, samples=wrong)


def test_the_file_is_bounded(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST_BYTES", 6_000)
    evaluate(run.path, samples=12)
    assert run.samples_file.stat().st_size <= 6_000
    assert json.loads(run.samples_file.read_text())["samples"], "some are left"


def test_spread_rays_keep_the_vertices() -> None:
    grid = palora.simplex_grid(3, 10)
    kept = samples.spread(grid, 12)
    assert len(kept) == 12
    for vertex in torch.eye(3):
        assert (kept == vertex).all(1).any()
    assert samples.spread(grid, 66) is grid


def test_few_rows_go_through_at_once(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = assemble(tiny())
    passes: list[int] = []
    forward = parts.method.forward

    def watched(model: object, inputs: torch.Tensor, rays: torch.Tensor) -> object:
        passes.append(len(rays))
        return forward(model, inputs, rays)  # type: ignore[arg-type]

    monkeypatch.setattr(parts.method, "forward", watched)
    monkeypatch.setattr(samples, "NUMBERS_A_PASS", 2 * 784 * 3)
    inputs = parts.dataset.test.rows(slice(0, 2))[0]
    outputs = samples.answer(parts, inputs, palora.simplex_grid(2, 6))
    assert passes == [3, 3, 1]
    assert outputs[0].shape == (7, 2, 10)


def test_costs_are_recorded_apart_from_the_metrics(run: RunFolder, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in run.costs_file.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    costs = read_costs(run.path)
    assert costs.train_seconds == pytest.approx(sum(line["train_seconds"] for line in lines), abs=2e-3)
    assert costs.peak_memory == max(line["peak_memory"] for line in lines)
    assert "seconds" not in run.metrics_file.read_text()
    (tmp_path / "costs.jsonl").write_text('{"epoch": 1, "train_seconds": 5}\n{"epoch": 1, "train_seconds": 3}\n{"ep')
    assert read_costs(tmp_path).train_seconds == 3, "a repeated epoch counts once"
    assert read_costs(tmp_path / "none").train_seconds is None
