"""Adapter files that do not fit are refused before the model is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from layer_cases import randomise_adapters
from torch import nn

pytest.importorskip("safetensors")

from safetensors import safe_open
from safetensors.torch import save_file

import palora


def _plain() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def _model(tasks: Any = ("a", "b")) -> nn.Module:
    torch.manual_seed(0)
    return randomise_adapters(palora.adapt(_plain(), tasks, 2))


def _parts(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118


def _refused(path: Path) -> None:
    for model in (_model(), _plain()):
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(palora.PaloraError):
            palora.load_adapters(model, path)
        assert list(model.state_dict()) == list(before)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert type(model[0]) is type((_model() if "0.lora_A" in before else _plain())[0])


_CHANGES = {
    "nan": lambda t: t.fill_(float("nan")),
    "inf": lambda t: t.fill_(float("inf")),
    "int8": lambda t: t.to(torch.int8),
    "bool": lambda t: t.bool(),
    "shape": lambda t: t[:1].contiguous(),
}


@pytest.mark.parametrize("change", [*_CHANGES, "missing", "extra"])
def test_tensors_that_do_not_fit(change: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    palora.save_adapters(_model(), path)
    tensors, metadata = _parts(path)
    if change == "missing":
        del tensors["2.lora_B"]
    elif change == "extra":
        tensors["more"] = torch.zeros(2)
    else:
        tensors["2.lora_B"] = _CHANGES[change](tensors["2.lora_B"])
    save_file(tensors, path, metadata)
    _refused(path)


@pytest.mark.parametrize(
    "key, value",
    [
        ("tasks", '["a"]'),
        ("tasks", "3"),
        ("layers", "[" * 5000),
        ("layers", "{}"),
        ("rank", "1000000000"),
        ("alpha", "nan"),
    ],
)
def test_metadata_that_does_not_fit(key: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    palora.save_adapters(_model(), path)
    tensors, metadata = _parts(path)
    save_file(tensors, path, {**metadata, key: value})
    with pytest.raises(palora.PaloraError):
        palora.load_adapters(_plain(), path)


def test_swapped_tasks_are_reordered_and_others_refused(tmp_path: Path) -> None:
    path, x = tmp_path / "a.safetensors", torch.randn(4, 5)
    model = _model()
    palora.save_adapters(model, path)
    swapped = palora.load_adapters(_model(("b", "a")), path)
    with palora.at(model, (0.2, 0.8)):
        expected = model(x)
    with palora.at(swapped, (0.8, 0.2)):
        torch.testing.assert_close(swapped(x), expected)
    with pytest.raises(palora.PaloraError, match="tasks"):
        palora.load_adapters(_model(("a", "c")), path)


def test_absurd_sizes_are_refused_before_memory_is_touched() -> None:
    for tasks, rank in ((10**9, 1), (2, 10**9), (2**16, 2**16)):
        model = nn.Sequential(nn.Linear(5, 8))
        with pytest.raises(ValueError, match=r"tasks|rank"):
            palora.adapt(model, tasks, rank)
        assert type(model[0]) is nn.Linear
