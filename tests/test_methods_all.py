"""Every method trains through the command line without a warning, and a stopped run goes on bit for bit."""

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import At, small_set

import palora.data
from palora import methods, recipes
from palora.cli import main
from palora.engine import Interrupted, RunConfig, train
from palora.engine.chunking import accumulate
from palora.engine.state import load_checkpoint

FLAGS = ["--limit", "64", "--batch", "16", "--epochs", "1", "--device", "cpu"]  # 4 steps


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palora.data, "load", lambda *args, **options: small_set())
    monkeypatch.setattr("palora.cli.results.draw", lambda *args: [])


def same(left: Any, right: Any, where: str = "checkpoint") -> None:
    """Equal to the last bit, through dictionaries and lists."""
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for i, (one, other) in enumerate(zip(left, right, strict=True)):
            same(one, other, f"{where}[{i}]")
    else:
        assert left == right, where


@pytest.mark.parametrize("name", methods.names())
def test_trains_without_a_warning_and_resumes_bit_for_bit(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["train", "multimnist-small", "--method", name, *FLAGS, "--out", str(whole)]) == 0
    assert "warning" not in capsys.readouterr().err.lower()

    config = RunConfig.read(whole / "config.json")
    assert config == recipes.get("multimnist-small").configure(
        method=name, limit=64, batch=16, epochs=1, device="cpu"
    )
    with pytest.raises(Interrupted):
        train(config, stopped, show=At(2, lambda: os.kill(os.getpid(), signal.SIGINT)))
    torch.manual_seed(999)
    assert main(["train", "multimnist-small", "--out", str(stopped), "--resume"]) == 0
    assert (stopped / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    same(*(load_checkpoint(folder / "checkpoints" / "last.pt") for folder in (stopped, whole)))


@pytest.mark.parametrize("name", methods.names())
def test_training_lowers_the_losses(name: str) -> None:
    """Twenty steps on one batch lower the mean of the losses at the centre."""
    torch.manual_seed(0)
    options = {"meta_lr": 1e-2} if name == "autolambda" else {}
    method = methods.build(name, 2, options)
    split = small_set().train
    inputs, targets = split.inputs[:32], [target[:32] for target in split.targets]
    model = method.adapt(palora.models.LeNet())
    optimiser = torch.optim.Adam(method.parameter_groups(model, 3e-3))
    centre = torch.full((1, 2), 0.5)

    def losses(rays: torch.Tensor) -> torch.Tensor:
        outputs = method.forward(model, inputs, rays)
        rows = [
            torch.stack([torch.nn.functional.cross_entropy(one, target) for one in output])
            for output, target in zip(outputs, targets, strict=True)
        ]
        return torch.stack(rows, dim=1)

    before = losses(centre).mean().item()
    for step in range(20):
        rays = method.rays((step + 1) / 20)
        optimiser.zero_grad()
        seen = accumulate(method, model, losses, rays)
        optimiser.step()
        method.after_step(seen, rays)
    assert losses(centre).mean().item() < before - 0.05
