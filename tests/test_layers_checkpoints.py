"""Checkpointed functions that are no part of one pass: recomputed with the rays of their own forward all the same."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from layer_cases import randomise_adapters
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import palora

RAYS = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
OTHERS = RAYS.flip(1)
BOTH = pytest.mark.parametrize("reentrant", [False, True])


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)
    return randomise_adapters(palora.adapt(nn.Sequential(*layers).double(), tasks=2, rank=2))


def assert_gradients_are_those_of(
    function: Callable[[nn.Module, Tensor], Tensor], rays: Tensor, reentrant: bool, elsewhere: bool
) -> None:
    model, x = net(), torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    plain = copy.deepcopy(model)
    with palora.at(plain, rays):
        function(plain, x).sum().backward()
    expected, x.grad = x.grad, None
    with palora.at(model, rays):
        y = checkpoint(function, model, x, use_reentrant=reentrant)
    if elsewhere:
        with palora.at(model, OTHERS if rays.dim() == 2 else OTHERS[0]):
            y.sum().backward()
    else:
        y.sum().backward()
    torch.testing.assert_close(x.grad, expected)
    for (name, p), q in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(p.grad, q[1].grad, msg=lambda m, n=name: f"{n}: {m}")


@BOTH
@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("rays", [RAYS, RAYS[0]])
def test_a_pass_and_what_is_around_it(reentrant: bool, elsewhere: bool, rays: Tensor) -> None:
    assert_gradients_are_those_of(lambda model, x: model((x * 1.5).sin()).cos(), rays, reentrant, elsewhere)


@BOTH
@pytest.mark.parametrize("elsewhere", [False, True])
def test_layers_that_are_called_by_themselves(reentrant: bool, elsewhere: bool) -> None:
    assert_gradients_are_those_of(lambda model, x: model[0](x.sin()).cos(), RAYS[0], reentrant, elsewhere)


@BOTH
@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("inner", [False, True])
def test_checkpoints_in_checkpoints(reentrant: bool, elsewhere: bool, inner: bool) -> None:
    def function(model: nn.Module, x: Tensor) -> Tensor:
        hidden = checkpoint(lambda t: model[1](model[0](t)), x * 2, use_reentrant=inner)
        return model[2](hidden).sin()

    assert_gradients_are_those_of(function, RAYS[0], reentrant, elsewhere)


def test_blocks_of_several_threads_that_fit_one_node_are_refused() -> None:
    model, x = net(), torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    made: list[Tensor] = []

    def forward(ray: Tensor) -> None:
        with palora.at(model, ray):
            made.append(checkpoint(lambda t: model[0](t.sin()).cos(), x, use_reentrant=False))

    for ray in RAYS:
        thread = threading.Thread(target=forward, args=(ray,))
        thread.start()
        thread.join()
    with pytest.raises(RuntimeError, match=r"blocks of palora\.at of several threads fit it"):
        made[0].sum().backward()


def test_a_bounded_number_of_blocks_is_remembered_and_none_without_gradients() -> None:
    model, x = net(), torch.randn(4, 5, dtype=torch.float64)
    blocks = model[0].rays_state.blocks
    with torch.no_grad(), palora.at(model, RAYS):
        model(x)
    assert not blocks.closed
    for _ in range(1100):
        with palora.at(model, RAYS[0]):
            model[0](x)
    assert len(blocks.closed) == 1024
    assert blocks.bytes == sum(block.nbytes for block in blocks.closed)
