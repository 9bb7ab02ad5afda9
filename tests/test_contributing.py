"""The examples of CONTRIBUTING.md work as they stand."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import palora
from palora import data, engine, methods, models, recipes
from palora.data import registry as data_registry
from palora.methods import registry as method_registry
from palora.models import registry as model_registry

GUIDE = Path(__file__).parent.parent / "CONTRIBUTING.md"
BLOCK = re.compile(r"```python\n# python/(palora/\S+)\.py\n(.*?)```", re.DOTALL)


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example file `name`, such as "palora/methods/si", as a module."""
    (source,) = [text for path, text in BLOCK.findall(GUIDE.read_text()) if path == name]
    module = ModuleType(f"contributing_{name.replace('/', '_')}")
    module.__file__ = str(GUIDE)
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
    exec(compile(source, f"{GUIDE}:{name}", "exec"), module.__dict__)
    return module


def test_there_is_an_example_of_each_kind() -> None:
    kinds = [path.split("/")[1] for path, _ in BLOCK.findall(GUIDE.read_text())]
    assert sorted(kinds) == ["data", "methods", "models", "recipes"]


def test_the_model_is_built_by_name_and_can_be_adapted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(model_registry.MODELS, "tinycnn", example("palora/models/tinycnn", monkeypatch).TinyCNN)
    model = models.build("tinycnn", outputs=(3, 1)).double()
    x = torch.randn(2, 1, 5, 6, dtype=torch.float64)
    assert [tuple(y.shape) for y in model(x)] == [(2, 3), (2, 1)]
    assert model.last_shared_layer.kernel_size == (3, 3)
    palora.adapt(model, tasks=2, rank=1)
    with palora.at(model, torch.eye(2)):
        assert [tuple(y.shape) for y in palora.split(model(x), 2)] == [(2, 2, 3), (2, 2, 1)]


def test_the_method_does_not_see_the_units_of_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(method_registry.METHODS, "si", example("palora/methods/si", monkeypatch).ScaleInvariant)
    method = methods.build("si", 2)
    weight = torch.tensor([3.0, 2.0], requires_grad=True)
    method.objective(weight[None].square(), method.rays(1.0)).backward()
    first, weight.grad = weight.grad, None
    method.objective(weight[None].square() * torch.tensor([1.0, 100.0]), method.rays(1.0)).backward()
    torch.testing.assert_close(weight.grad, first)
    torch.testing.assert_close(first, 2 / weight.detach())


@pytest.mark.parametrize("method", ["palora", "si"])
@pytest.mark.needs("moocore")
def test_the_recipe_trains_the_data_set_with_the_method(
    method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry = example("palora/data/waves", monkeypatch).ENTRY
    monkeypatch.setitem(data_registry._ENTRIES, entry.name, entry)
    monkeypatch.setitem(method_registry.METHODS, "si", example("palora/methods/si", monkeypatch).ScaleInvariant)
    recipe = example("palora/recipes/waves", monkeypatch).RECIPE
    monkeypatch.setitem(recipes.RECIPES, recipe.name, recipe)

    dataset = data.load("waves", seed=3, rows=200)
    assert [len(s) for s in (dataset.train, dataset.validation, dataset.test)] == [200, 20, 20]
    torch.testing.assert_close(
        dataset.train.targets[0].square() + dataset.train.targets[1].square(), torch.ones(200, 1)
    )
    assert torch.equal(dataset.train.inputs, data.load("waves", seed=3, rows=200).train.inputs)

    engine.train(recipes.get("waves").configure(method=method, epochs=1), tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "last.pt").exists()
