"""The sweep: the same numbers as one model after another, whatever the batches and passes."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import palora
from palora.evaluation import sweep
from palora.rays import simplex_grid


class TwoHeads(nn.Module):
    """A small network with batch normalisation and dropout: evaluation mode must matter."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
        self.heads = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 1)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = self.trunk(x)
        return tuple(head(features) for head in self.heads)


def adapted(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    model = palora.adapt(TwoHeads(), tasks=2, rank=2)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    model.trunk[1].running_mean.normal_()  # type: ignore[union-attr, index, operator]
    return model.to(dtype)


def data(samples: int = 13, dtype: torch.dtype = torch.float64) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 6, generator=generator, dtype=dtype)
    classes = torch.randint(3, (samples,), generator=generator)
    return x, (classes, torch.randn(samples, generator=generator, dtype=dtype))


def batches(size: int, **options: Any) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
    x, targets = data(**options)
    return zip(x.split(size), zip(*(target.split(size) for target in targets), strict=True), strict=True)


def losses(outputs: Any, targets: Any) -> Tensor:
    first = F.cross_entropy(outputs[0], targets[0], reduction="none")
    return torch.stack([first, (outputs[1].squeeze(1) - targets[1]) ** 2], 1)


def metrics(outputs: Any, targets: Any) -> dict[str, Tensor]:
    return {"accuracy/first": (outputs[0].argmax(1) == targets[0]).float()}


@pytest.mark.parametrize("rays_per_pass", [None, 1, 3, 100])
@pytest.mark.parametrize("size", [13, 5, 1])
def test_the_same_as_one_merged_model_after_another(rays_per_pass: int | None, size: int) -> None:
    model, rays = adapted(), simplex_grid(2, 4)
    front = sweep(model, batches(size), losses, rays, metrics, rays_per_pass)
    x, targets = data()
    for index, ray in enumerate(rays):
        merged = palora.merge(model, ray).eval()
        outputs = merged(x)
        torch.testing.assert_close(front.losses[index], losses(outputs, targets).mean(0).detach())
        expected = metrics(outputs, targets)["accuracy/first"].double().mean()
        torch.testing.assert_close(front.metrics["accuracy/first"][index], expected)
    assert torch.equal(front.rays, rays)
    assert len({tuple(row) for row in front.losses.tolist()}) == len(rays)


def test_no_pass_has_more_rows_than_asked_for() -> None:
    model, seen = adapted(), []
    handle = model.heads[0].register_forward_hook(lambda module, args, output: seen.append(len(output)))  # type: ignore[union-attr, index, operator]
    sweep(model, batches(5), losses, simplex_grid(2, 4), rays_per_pass=2)
    handle.remove()
    assert seen == [10, 10, 5, 10, 10, 5, 6, 6, 3]


def test_modes_and_statistics_are_as_before() -> None:
    model = adapted().train()
    model.trunk[1].eval()  # type: ignore[union-attr, index, operator]
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    inside: list[tuple[bool, bool]] = []

    def watched(outputs: Any, targets: Any) -> Tensor:
        inside.append((any(module.training for module in model.modules()), torch.is_grad_enabled()))
        return losses(outputs, targets)

    sweep(model, batches(5), watched, simplex_grid(2, 2))
    assert inside == [(False, False)] * 3
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

    def fails(outputs: Any, targets: Any) -> Tensor:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        sweep(model, batches(5), fails, simplex_grid(2, 2))
    assert [module.training for module in model.modules()] == modes


def test_a_model_without_adapters_is_one_point() -> None:
    torch.manual_seed(0)
    model = TwoHeads().double()
    ray = torch.tensor([0.5, 0.5])
    front = sweep(model, batches(5), losses, ray, metrics, tasks=("a", "b"), note="plain")
    x, targets = data()
    torch.testing.assert_close(front.losses[0], losses(model.eval()(x), targets).mean(0).detach())
    assert front.rays.tolist() == [[0.5, 0.5]]
    assert (front.tasks, front.note, len(front)) == (("a", "b"), "plain", 1)
    with pytest.raises(ValueError, match="one row for a model without adapters"):
        sweep(model, batches(5), losses, simplex_grid(2, 2))


@pytest.mark.parametrize("rays_per_pass", [None, 2])
def test_another_kind_of_model_by_its_forward(rays_per_pass: int | None) -> None:
    def forward(model: nn.Module, x: Tensor, rays: Tensor) -> list[Tensor]:
        return [(rays[:, None, :1] * x[None, :, :3]), (rays[:, None, 1:] * x[None, :, 3:4])]

    rays = simplex_grid(2, 4)
    front = sweep(nn.Identity(), batches(4), losses, rays, None, rays_per_pass, forward=forward)
    x, targets = data()
    for index, (first, second) in enumerate(rays.tolist()):
        expected = losses([first * x[:, :3], second * x[:, 3:4]], targets).mean(0)
        torch.testing.assert_close(front.losses[index], expected)


def test_targets_in_dictionaries_are_repeated_ray_major() -> None:
    rays = simplex_grid(2, 2)

    def forward(model: nn.Module, x: Tensor, rays: Tensor) -> Tensor:
        return x.expand(len(rays), *x.shape)

    def loss(outputs: Tensor, targets: dict[str, Any]) -> Tensor:
        assert torch.equal(outputs, targets["again"][0])
        assert targets["name"] == "kept"
        return outputs[:, :2]

    x, _ = data()
    front = sweep(nn.Identity(), [(x, {"again": [x], "name": "kept"})], loss, rays, forward=forward)
    torch.testing.assert_close(front.losses, x[:, :2].mean(0).expand(3, 2))


@pytest.mark.parametrize("dtype, kept", [(torch.float32, torch.float32), (torch.bfloat16, torch.float32)])
def test_sums_are_wide_and_the_result_has_the_type_of_the_loss(dtype: torch.dtype, kept: torch.dtype) -> None:
    value = torch.full((1000, 2), 0.1, dtype=dtype)

    def forward(model: nn.Module, x: Tensor, rays: Tensor) -> Tensor:
        return x[None]

    front = sweep(nn.Identity(), [(value, value)] * 20, lambda outputs, _: outputs, torch.ones(1, 2), forward=forward)
    assert front.losses.dtype == kept
    assert front.losses.tolist() == [[value[0, 0].item()] * 2]  # a float32 sum of 20,000 tenths would be off


@pytest.mark.parametrize(
    "loss, message",
    [
        (lambda o, t: losses(o, t).mean(0), "do not average over the samples"),
        (lambda o, t: losses(o, t)[:, :1], r"shape \(3·samples, 2\)"),
        (lambda o, t: losses(o, t)[1:], "Found shape"),
    ],
)
def test_a_loss_of_the_wrong_shape(loss: Callable[[Any, Any], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sweep(adapted(), batches(13), loss, simplex_grid(2, 2))


def test_other_mistakes() -> None:
    model, rays = adapted(), simplex_grid(2, 2)
    with pytest.raises(ValueError, match="`metric_fn` should return one value a sample"):
        sweep(model, batches(13), losses, rays, lambda o, t: {"a": torch.ones(3)})
    with pytest.raises(ValueError, match="`batches` should hold at least one sample"):
        sweep(model, [], losses, rays)
    with pytest.raises(ValueError, match="`rays` should have shape"):
        sweep(model, batches(13), losses, torch.rand(2, 2, 2))
    with pytest.raises(ValueError, match="`rays_per_pass` should be an integer >= 1"):
        sweep(model, batches(13), losses, rays, rays_per_pass=0)


class Batch(OrderedDict):
    """As a tokenizer's output: a mapping of a class of its own."""


class Pair(NamedTuple):
    x: Any
    y: Any


def _pairs(x: Tensor, y: Tensor) -> dict[str, Any]:
    return {
        "tuple": (x, y),
        "list": [x, y],
        "named tuple": Pair(x, y),
        "arrays": (x.numpy(), y.numpy()),
        "array and tensor": (x.numpy(), y),
        "mapping and tensor": (Batch(x=x), y),
        "mapping of arrays": (Batch(x=x.numpy()), y.numpy()),
        "user dictionary": (UserDict(x=x), y),
    }


@pytest.mark.parametrize("kind", _pairs(torch.zeros(1, 6), torch.zeros(1, 2)))
def test_pairs_of_all_kinds_give_the_same_front(kind: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 2)

        def forward(self, x: Any) -> Tensor:
            return self.fc(x if isinstance(x, Tensor) else x["x"])

    torch.manual_seed(0)
    model, grid = palora.adapt(Net().double(), 2, 2), simplex_grid(2, 3)
    nn.init.normal_(model.fc.lora_A)
    x, y = torch.randn(5, 6).double(), torch.randn(5, 2).double()
    expected = torch.stack([(palora.merge(model, ray)(x) - y).square().mean(0) for ray in grid])
    front = sweep(model, [_pairs(x, y)[kind]], lambda o, t: (o - t).square(), grid)
    torch.testing.assert_close(front.losses, expected)


@pytest.mark.parametrize(
    "batch, found",
    [
        ((torch.zeros(2, 6), torch.zeros(2, 1), torch.zeros(2, 1)), "a tuple of 3"),
        ([torch.zeros(2, 6)], "a list of 1"),
        ({"x": torch.zeros(2, 6), "y": torch.zeros(2, 2)}, "a dict with the keys x, y"),
        (Batch(input_ids=torch.zeros(2, 6)), "a Batch with the keys input_ids"),
        (torch.zeros(2, 6), r"a Tensor of shape \(2, 6\)"),  # unpacks into two
        (np.zeros((2, 6)), r"a ndarray of shape \(2, 6\)"),
        ("ab", "a str"),
        (None, "a NoneType"),
        (([0.0, 1.0], [1.0, 0.0]), "a pair whose inputs are list without a tensor"),
        ((3, torch.zeros(2, 2)), "a pair whose inputs are int without a tensor"),
    ],
)
def test_batches_that_are_no_pairs_are_refused_in_one_sentence(batch: Any, found: str) -> None:
    model = palora.adapt(nn.Linear(6, 2), 2, 2)
    with pytest.raises(TypeError, match=rf"`batches` should yield pairs \(inputs, targets\).* Found {found};"):
        sweep(model, [batch], lambda o, t: (o - t).square(), simplex_grid(2, 2))


def test_a_forward_of_ones_own_takes_any_inputs() -> None:
    def forward(model: nn.Module, inputs: Any, rays: Tensor) -> Tensor:
        return torch.full((len(rays), 3, 2), float(inputs))

    batches, grid = [(2, torch.zeros(3, 2))], simplex_grid(2, 2)
    front = sweep(nn.Linear(1, 1), batches, lambda o, t: (o - t).square(), grid, forward=forward)
    assert torch.equal(front.losses, torch.full((3, 2), 4.0))
