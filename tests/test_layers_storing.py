"""Adapters in a safetensors file: round trips, and files that do not fit."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

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


def _small(norm: bool = True) -> torch.nn.Module:
    middle = torch.nn.BatchNorm1d(8) if norm else torch.nn.Tanh()
    return torch.nn.Sequential(torch.nn.Linear(5, 8), middle, torch.nn.Linear(8, 3)).double()


def _train(model: torch.nn.Module, parameters: Any = None, steps: int = 2) -> None:
    optimiser = torch.optim.SGD(list(model.parameters()) if parameters is None else parameters, 0.1)
    for _ in range(steps):
        with palora.at(model, torch.rand(3, 2, dtype=torch.float64)):
            model(torch.randn(6, 5, dtype=torch.float64)).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()


def _said(call: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in seen]


def _answer(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    model.eval()
    with palora.at(model, (0.2, 0.8)), torch.no_grad():
        return model(x)


def test_a_trained_base_is_told_at_save_and_at_load(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    start = _small()
    model = palora.adapt(copy.deepcopy(start), 2, 2)
    assert not _said(lambda: palora.save_adapters(model, path))
    _train(model)
    for changed in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        (text,) = _said(lambda m=changed: palora.save_adapters(m, path))
        assert "has changed since palora.adapt" in text
    (text,) = _said(lambda: palora.load_adapters(copy.deepcopy(start), path))
    assert "on a base with other values" in text


def test_everything_that_was_trained_in_one_call(tmp_path: Path) -> None:
    path, x = tmp_path / "a.safetensors", torch.randn(4, 5).double()
    model = palora.adapt(_small(), 2, 2)
    _train(model)
    assert not _said(lambda: palora.save_adapters(model, path, base=True))
    other = _small()
    assert not _said(lambda: palora.load_adapters(other, path))
    assert torch.equal(_answer(other, x), _answer(model, x))
    assert sorted(other.state_dict()) == sorted(model.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    assert not _said(lambda: palora.save_adapters(other, tmp_path / "again.safetensors"))


def test_parts_that_were_frozen_are_not_written_but_checked(tmp_path: Path) -> None:
    path, start = tmp_path / "a.safetensors", _small(norm=False)
    model = copy.deepcopy(start)
    model[0].requires_grad_(False)
    palora.adapt(model, 2, 2)
    _train(model, [p for p in model.parameters() if p.requires_grad])
    palora.save_adapters(model, path, base=True)
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {f"{i}.lora_{s}" for i in (0, 2) for s in "AB"} | {"2.weight", "2.bias"}
    same, x = copy.deepcopy(start), torch.randn(4, 5).double()
    assert not _said(lambda: palora.load_adapters(same, path))
    assert torch.equal(_answer(same, x), _answer(model, x))
    assert len(_said(lambda: palora.load_adapters(_small(norm=False), path))) == 1  # the frozen layer is another


def test_only_adapters_trained_says_nothing(tmp_path: Path) -> None:
    path, start, x = tmp_path / "a.safetensors", _small(), torch.randn(4, 5).double()
    model = palora.adapt(copy.deepcopy(start), 2, 2, train_base=False)
    _train(model, [p for p in model.parameters() if p.requires_grad])
    other = copy.deepcopy(start)
    assert not _said(lambda: palora.save_adapters(model, path))
    assert not _said(lambda: palora.load_adapters(other, path))
    assert torch.equal(_answer(other, x), _answer(model, x))


def test_statistics_of_a_norm_are_part_of_the_base(tmp_path: Path) -> None:
    model = palora.adapt(_small(), 2, 2)
    _train(model, palora.layers.adapter_parameters(model))  # the parameters stay, the statistics move
    assert len(_said(lambda: palora.save_adapters(model, tmp_path / "a.safetensors"))) == 1


def test_a_base_in_another_dtype_cannot_be_compared(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    start = _small()
    palora.save_adapters(palora.adapt(copy.deepcopy(start), 2, 2), path)
    assert not _said(lambda: palora.load_adapters(copy.deepcopy(start).bfloat16(), path))


@pytest.mark.filterwarnings("ignore:The adapters in")
def test_what_is_frozen_stays_frozen(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    palora.save_adapters(palora.adapt(_small(), 2, 2, train_base=False), path)
    loaded = palora.load_adapters(_small(), path)  # frozen as that of the file
    trainable = {name for name, p in loaded.named_parameters() if p.requires_grad}
    assert trainable == {f"{i}.lora_{s}" for i in (0, 2) for s in "AB"}
    before = loaded[1].running_mean.clone()
    loaded.train()
    with palora.at(loaded, (0.2, 0.8)):
        loaded(torch.randn(4, 5).double())
    assert torch.equal(loaded[1].running_mean, before)
    palora.save_adapters(palora.adapt(_small(), 2, 2), path)
    frozen = palora.load_adapters(_small().requires_grad_(False), path)  # frozen before it was loaded
    assert {name for name, p in frozen.named_parameters() if p.requires_grad} == trainable
    partly = _small()
    partly[0].requires_grad_(False)
    palora.load_adapters(partly, path)
    assert not partly[0].weight.requires_grad
    assert partly[2].weight.requires_grad


def test_models_without_values_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = randomise_adapters(palora.adapt(_small(), 2, 2))
    palora.save_adapters(model, path)
    with torch.device("meta"):
        empty, adapted = _small(), palora.adapt(_small(), 2, 2)
    for one in (empty, adapted):
        with pytest.raises(ValueError, match=r"'0\.weight' is on the meta device"):
            palora.load_adapters(one, path)
    with pytest.raises(ValueError, match="meta device and holds no values"):
        palora.save_adapters(adapted, path)


def test_adapters_alone_without_values_get_them(tmp_path: Path) -> None:
    path, x = tmp_path / "a.safetensors", torch.randn(4, 5).double()
    model = randomise_adapters(palora.adapt(_small(), 2, 2))
    palora.save_adapters(model, path)
    base = {key: value for key, value in model.state_dict().items() if "lora" not in key}
    with torch.device("meta"):
        late = palora.adapt(_small(), 2, 2)
        plain = _small()
    for one in (late, plain):
        one.load_state_dict(base, strict=False, assign=True)
        palora.load_adapters(one, path)
        assert not any(t.device.type == "meta" for t in one.state_dict().values())
        torch.testing.assert_close(_answer(one, x), _answer(model, x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_plain_model_takes_the_adapters_in_their_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = randomise_adapters(palora.adapt(_small(norm=False).float(), 2, 2))
    palora.save_adapters(model, path)
    loaded = palora.load_adapters(_small(norm=False).to(dtype), path)
    assert torch.equal(loaded[0].lora_A, model[0].lora_A)
    assert loaded[0].weight.dtype == dtype
    with palora.at(loaded, (0.2, 0.8)):
        assert loaded(torch.randn(4, 5, dtype=dtype)).dtype == dtype


def test_a_file_with_a_base_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    palora.save_adapters(palora.adapt(_small(), 2, 2), path, base=True)
    with pytest.raises(palora.PaloraError, match=r"'1\.weight', which `model` does not have"):
        palora.load_adapters(_small(norm=False), path)


def test_merged_models_and_state_dicts_hold_no_note(tmp_path: Path) -> None:
    model = palora.adapt(_small(), 2, 2)
    plain = palora.merge(model, (0.2, 0.8))
    assert not [name for name in vars(plain) if "palora" in name]
    assert not [key for key in model.state_dict() if "palora" in key]
