"""Wrapped models: names, files and merged models are those of the model inside."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from layer_cases import randomise_adapters
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

pytest.importorskip("safetensors")

from safetensors import safe_open

import palora
from palora.layers import UnsupportedModuleError, adapted_layers

RAY = torch.tensor([0.3, 0.7], dtype=torch.float64)
pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this PyTorch has no torch.distributed")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path) -> Iterator[None]:
    store, seconds = f"file://{tmp_path}/store", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1, timeout=seconds)
    yield
    dist.destroy_process_group()


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    return nn.Sequential(layers, nn.Tanh(), nn.Linear(3, 3)).double().eval()


def adapted() -> nn.Module:
    return randomise_adapters(palora.adapt(net(), ["a", "b"], 2))


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


def compiled_part(model: nn.Module) -> nn.Module:
    model[0] = compiled(model[0])
    return model


def checkpointed_part(model: nn.Module) -> nn.Module:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model[0] = checkpoint_wrapper(model[0])
    return model


def sharded(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (1,))
    for part in (model[0][0], model[0]):
        fully_shard(part, mesh=mesh)
    return fully_shard(model, mesh=mesh)


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "torch.compile": compiled,
    "a compiled part": compiled_part,
    "a checkpointed part": checkpointed_part,
    "DataParallel": DataParallel,
    "DDP": DistributedDataParallel,
    "AveragedModel": AveragedModel,
    "DDP of compiled": lambda model: DistributedDataParallel(compiled(model)),
    "compiled AveragedModel of DDP": lambda model: compiled(AveragedModel(DistributedDataParallel(model))),
    "fully_shard": sharded,
}
LATE = {"fully_shard"}  # cannot hold adapters that came later


def answer(model: nn.Module, x: Tensor) -> Tensor:
    with palora.at(model, RAY), torch.no_grad():
        return model(x)


@pytest.mark.parametrize("name", WRAPPERS)
def test_files_are_the_same_whoever_wraps(name: str, tmp_path: Path) -> None:
    palora.save_adapters(adapted(), tmp_path / "plain.safetensors", base=True)
    palora.save_adapters(WRAPPERS[name](adapted()), tmp_path / "wrapped.safetensors", base=True)
    found = []
    for file in ("plain", "wrapped"):
        with safe_open(tmp_path / f"{file}.safetensors", framework="pt") as opened:
            found.append(({key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata()))  # noqa: SIM118
    assert found[0][1] == found[1][1]
    assert list(found[0][0]) == list(found[1][0])
    for key, value in found[0][0].items():
        assert torch.equal(value, found[1][0][key]), key


@pytest.mark.parametrize("name", WRAPPERS)
def test_files_load_into_wrapped_models(name: str, tmp_path: Path) -> None:
    model, x = adapted(), torch.randn(4, 5).double()
    palora.save_adapters(model, tmp_path / "a.safetensors")
    expected = answer(model, x)
    alike = WRAPPERS[name](palora.adapt(net(), ["a", "b"], 2))
    assert palora.load_adapters(alike, tmp_path / "a.safetensors") is alike
    torch.testing.assert_close(answer(alike, x), expected)
    plain = WRAPPERS[name](net())
    if name in LATE:
        with pytest.raises(UnsupportedModuleError, match="adapt the plain model first"):
            palora.load_adapters(plain, tmp_path / "a.safetensors")
        return
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        palora.load_adapters(plain, tmp_path / "a.safetensors")
    torch.testing.assert_close(answer(plain, x), expected)
    assert any("will not synchronise" in str(w.message) for w in seen) == ("DDP" in name)


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("name", WRAPPERS)
def test_merged_is_the_model_inside(name: str, used: bool) -> None:
    x = torch.randn(4, 5).double()
    expected = answer(adapted(), x)
    model = WRAPPERS[name](adapted())
    if used:
        with palora.at(model, torch.rand(3, 2, dtype=torch.float64)):
            model(x).sum().backward()
    before = [type(module) for module in model.modules()]
    plain = palora.merge(model, RAY)
    assert list(plain.state_dict()) == list(net().state_dict())
    assert [type(module) for module in plain.modules()] == [type(module) for module in net().modules()]
    assert all(type(p) is nn.Parameter for p in plain.parameters())
    with torch.no_grad():
        torch.testing.assert_close(plain(x), expected)
    assert [type(module) for module in model.modules()] == before
    torch.testing.assert_close(answer(model, x), expected)
    again = copy.deepcopy(plain)
    with torch.no_grad():
        torch.testing.assert_close(again(x), expected)
    assert plain.train()[0].training


@pytest.mark.parametrize("name", WRAPPERS)
def test_names_are_those_inside(name: str) -> None:
    assert list(adapted_layers(WRAPPERS[name](adapted()))) == list(adapted_layers(adapted()))
    assert (
        str(palora.summary(WRAPPERS[name](adapted()))).replace("FSDP", "").split()
        == str(palora.summary(adapted())).split()
    )


@pytest.mark.parametrize("name", ["torch.compile", "AveragedModel", "a compiled part", "a checkpointed part"])
def test_adapt_reaches_the_model_inside(name: str) -> None:
    x = torch.randn(4, 5).double()
    model = WRAPPERS[name](net())
    model(x)  # compiled before it has adapters
    assert randomise_adapters(palora.adapt(model, ["a", "b"], 2, exclude=["2"])) is model
    assert list(adapted_layers(model)) == ["0.0", "0.3"]
    with palora.at(model, torch.stack([RAY, RAY.flip(0)])):
        stacked = palora.split(model(x), 2)
    torch.testing.assert_close(stacked[0], palora.merge(model, RAY)(x))
    torch.testing.assert_close(stacked[1], palora.merge(model, RAY.flip(0))(x))


@pytest.mark.parametrize("name", ["DDP", "DDP of compiled", "fully_shard"])
def test_adapters_that_would_not_be_synchronised_are_refused(name: str) -> None:
    model = WRAPPERS[name](net())
    with pytest.raises(UnsupportedModuleError, match="adapt the plain model first"):
        palora.adapt(model, 2, 2)
    assert not adapted_layers(model)


def test_a_child_called_module_is_no_wrapper() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x)

    assert list(adapted_layers(palora.adapt(Holder(), 2, 2))) == ["module"]
