"""`ray_chunk`: what is measured, what follows from it, and that it changes nothing but rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_runs import small_set, tiny
from torch import nn

import palora
import palora.data
from palora.engine import RunConfig, chunk_size, train
from palora.engine.state import load_checkpoint


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palora.data, "load", lambda *args, **options: small_set())


def test_kept_bytes_of_a_known_graph() -> None:
    """Two linear layers and a tanh: the backward needs x, the tanh's output, and the weights (not counted)."""
    model = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 5))
    x = torch.randn(8, 10)
    kept = chunk_size.kept_bytes(model, lambda rays: model(x).sum(), torch.ones(1, 2))
    assert kept == (8 * 10 + 8 * 20) * 4


def test_measuring_changes_neither_statistics_nor_random_numbers() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    before, state = model[1].running_mean.clone(), torch.get_rng_state()
    chunk_size.kept_bytes(model, lambda rays: model(torch.ones(3, 4)).sum(), torch.ones(1, 2))
    assert torch.equal(model[1].running_mean, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("free, expected", [(10**12, None), (25_000, 3), (1, 1)])
def test_as_many_rays_as_fit(monkeypatch: pytest.MonkeyPatch, free: int, expected: int | None) -> None:
    monkeypatch.setattr(chunk_size, "available_memory", lambda device: free)
    monkeypatch.setattr(chunk_size, "kept_bytes", lambda *_: 3_000)
    sizes = chunk_size.estimate(nn.Identity(), lambda rays: rays, torch.rand(5, 2), torch.device("cpu"))
    assert sizes.train == expected


@pytest.mark.needs("moocore")
def test_little_memory_makes_small_chunks_with_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tiny(), tmp_path / "whole")
    monkeypatch.setattr(chunk_size, "available_memory", lambda device: 1)
    chunked = train(tiny(), tmp_path / "chunked")
    first, second = load_checkpoint(whole.last), load_checkpoint(chunked.last)
    assert first["position"]["chunk"] is None
    assert second["position"]["chunk"] == 1
    for name, weight in first["model"].items():
        torch.testing.assert_close(second["model"][name], weight, atol=2e-3, rtol=1e-2)


@pytest.mark.needs("moocore")
def test_a_resumed_run_keeps_the_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another amount of free memory must not change the order of the sums half way."""
    config = replace(tiny(), epochs=1)
    monkeypatch.setattr(chunk_size, "available_memory", lambda device: 1)
    run = train(config, tmp_path / "run")
    monkeypatch.setattr(chunk_size, "available_memory", lambda device: 10**12)
    train(config, run.path, resume=True)
    assert load_checkpoint(run.last)["position"]["chunk"] == 1


def test_bad_settings_are_named() -> None:
    config = tiny()
    for bad in (0, -1, "some", 1.5):
        with pytest.raises(ValueError, match="`ray_chunk` should be"):
            replace(config, ray_chunk=bad)
    assert isinstance(replace(config, ray_chunk="all"), RunConfig)


@pytest.mark.slow
@pytest.mark.needs("moocore")
def test_a_compiled_run_learns_the_same(tmp_path: Path) -> None:
    plain = train(tiny(), tmp_path / "plain")
    compiled = train(replace(tiny(), compile=True), tmp_path / "compiled")
    first, second = load_checkpoint(plain.last), load_checkpoint(compiled.last)
    for name, weight in first["model"].items():
        torch.testing.assert_close(second["model"][name], weight, atol=2e-3, rtol=1e-2)


@pytest.mark.needs("moocore")
def test_a_bf16_run_learns_nearly_the_same(tmp_path: Path) -> None:
    plain = train(tiny(), tmp_path / "plain")
    low = train(replace(tiny(), precision="bf16"), tmp_path / "low")
    first, second = load_checkpoint(plain.last), load_checkpoint(low.last)
    assert all(weight.dtype == torch.float32 for weight in second["model"].values() if weight.is_floating_point())
    a, b = first["position"]["best"], second["position"]["best"]
    assert a == pytest.approx(b, abs=0.05)
