"""Adapters in a safetensors file: round trips, and files that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from layer_cases import randomise_adapters

pytest.importorskip("safetensors")

from safetensors import safe_open
from safetensors.torch import save_file

import palora


def _net(form: str = "loralib", rank: int = 2) -> torch.nn.Module:
    return palora.adapt(palora.models.LeNet(), ["left", "right"], rank, alpha=3.0, form=form)


def test_round_trip_and_metadata(tmp_path: Path) -> None:
    model, path = randomise_adapters(_net()), tmp_path / "adapters.safetensors"
    palora.save_adapters(model, path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["rank"], metadata["alpha"], metadata["form"]) == ("2", "3.0", "loralib")
    assert json.loads(metadata["tasks"]) == ["left", "right"]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    x = torch.randn(2, 1, 28, 28)
    other = _net()
    other.load_state_dict(model.state_dict())
    randomise_adapters(other)
    palora.load_adapters(other, path)
    plain = palora.models.LeNet()
    plain.load_state_dict(model.state_dict(), strict=False)
    palora.load_adapters(plain, path)  # adapts it as the file says
    with palora.at(model, (0.2, 0.8)):
        expected = model(x)
    for loaded in (other, plain):
        with palora.at(loaded, (0.2, 0.8)):
            for got, want in zip(loaded(x), expected, strict=True):
                assert torch.equal(got, want)


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    palora.save_adapters(_net(), path)
    with pytest.raises(palora.PaloraError, match="'rank': 2"):
        palora.load_adapters(_net(rank=3), path)
    with pytest.raises(palora.PaloraError, match="does not have"):
        palora.load_adapters(torch.nn.Sequential(torch.nn.Linear(3, 3)), path)
    with pytest.raises(palora.PaloraError, match="no adapter file"):
        palora.load_adapters(_net(), tmp_path / "none.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(palora.PaloraError, match="corrupt"):
        palora.load_adapters(_net(), path)
    save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(palora.PaloraError, match="not one written by"):
        palora.load_adapters(_net(), path)
    with pytest.raises(ValueError, match="no adapted layers"):
        palora.save_adapters(palora.models.LeNet(), path)
