"""The examples of CONTRIBUTING.md work as they stand."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from kernel_cases import assert_equals_definition, linear_case, linear_delta_case

import palora
from palora import data, engine, methods, models, recipes
from palora.data import registry as data_registry
from palora.methods import registry as method_registry
from palora.models import registry as model_registry
from palora_kernels import plans
from palora_kernels.eager import linear

GUIDE = Path(__file__).parent.parent / "CONTRIBUTING.md"
BLOCK = re.compile(r"```python\n# (?:python/)?(palora(?:_kernels)?/\S+)\.py\n(.*?)```", re.DOTALL)


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
    assert sorted(kinds) == ["data", "eager", "methods", "models", "recipes", "triton", "verify"]


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


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("bias", [0, 1, 2])
def test_the_plan_equals_the_definition(shared: bool, bias: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batched = example("palora_kernels/eager/batched", monkeypatch)
    monkeypatch.setitem(linear.PLANS, "batched", (batched.forward, batched.backward))
    for op in ("linear", "linear_delta"):
        monkeypatch.setitem(plans.ALGORITHMS, op, (*plans.ALGORITHMS[op], "batched"))
    case = linear_case(3, 4, 5, 6, 2, 2, shared=shared, bias=bias)
    assert_equals_definition("linear", case, torch.float64, "batched", shared=shared)
    case = linear_delta_case(3, 4, 5, 6, 2, shared=shared, bias=bias)
    assert_equals_definition("linear_delta", case, torch.float64, "batched", shared=shared)


def test_the_triton_kernel_scales_and_is_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From files, as Triton reads its kernels."""
    pytest.importorskip("triton")
    found = {}
    for name in ("palora_kernels/triton/linear/scaling", "palora_kernels/verify/variants/linear_scaling"):
        (source,) = [text for path, text in BLOCK.findall(GUIDE.read_text()) if path == name]
        path = tmp_path / f"{name.rpartition('/')[2]}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(name.replace("/", "."), path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        found[path.stem] = module
    S, lam = torch.randn(3 * 37, 10), torch.rand(3, 2)
    wanted = S * lam.repeat_interleave(5, 1).repeat_interleave(37, 0)
    torch.testing.assert_close(found["scaling"].run(S, lam), wanted)
    assert [variant.name for variant in found["linear_scaling"].variants()] == [
        "linear_scaling bf16", "linear_scaling fp16", "linear_scaling fp32",
    ]  # fmt: skip
