"""`torch.func` around blocks of `palora.at`: by inputs, parameters and rays, against loops and differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from layer_cases import randomise_adapters
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

import palora

RAYS = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], dtype=torch.float64)
X = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)
    return randomise_adapters(palora.adapt(nn.Sequential(*layers).double(), tasks=2, rank=2))


def difference(function: Callable[[Tensor], Tensor], at: Tensor, i: int, step: float = 1e-6) -> Tensor:
    """The derivative by element i, numerically."""
    along = torch.zeros(at.numel(), dtype=at.dtype)
    along[i] = step
    return (function(at + along.view_as(at)) - function(at - along.view_as(at))) / (2 * step)


def test_by_the_inputs(model: nn.Module) -> None:
    def outputs(x: Tensor) -> Tensor:
        with palora.at(model, RAYS):
            return model(x)

    def loss(x: Tensor) -> Tensor:
        return outputs(x).sin().sum()

    with torch.no_grad():
        expected, loss_by_x = difference(outputs, X, 7), difference(loss, X, 7)
        second = difference(lambda x: grad(loss)(x).flatten(), X, 7, 1e-5)
    torch.testing.assert_close(jacrev(outputs)(X).flatten(2)[..., 7], expected, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(jacfwd(outputs)(X).flatten(2)[..., 7], expected, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(grad(loss)(X).flatten()[7], loss_by_x, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(hessian(loss)(X).view(20, 20)[:, 7], second, atol=1e-6, rtol=1e-5)
    along = torch.eye(20, dtype=torch.float64)[7].view(4, 5)
    torch.testing.assert_close(jvp(outputs, (X,), (along,))[1], expected, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("many", [False, True])
def test_by_the_rays(model: nn.Module, many: bool) -> None:
    def outputs(rays: Tensor) -> Tensor:
        with palora.at(model, rays):
            return model(X)

    rays = RAYS if many else RAYS[0]
    with torch.no_grad():
        expected = difference(outputs, rays, 1)
    torch.testing.assert_close(jacrev(outputs)(rays).flatten(2)[..., 1], expected, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(vmap(outputs)(RAYS), torch.stack([outputs(ray) for ray in RAYS]))


def test_by_the_parameters_for_every_sample(model: nn.Module) -> None:
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(values: dict[str, Tensor], sample: Tensor) -> Tensor:
        with palora.at(model, RAYS):
            return functional_call(model, values, (sample[None],)).sin().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(parameters, X)
    for i, sample in enumerate(X):
        model.zero_grad()
        for ray in RAYS:
            with palora.at(model, ray):
                model(sample[None]).sin().sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name][i], parameter.grad, msg=lambda m, n=name: f"{n}: {m}")
