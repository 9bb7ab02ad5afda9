"""Rays in chunks give the gradients of all rays at once, in float64, for every objective and layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from engine_runs import DropoutNet
from torch import Tensor, nn

from palora.engine.chunking import accumulate, rewound
from palora.errors import PaloraError
from palora.methods import Method
from palora.methods.palora import PaLoRA, PaLoRAOptions

M, T, N = 5, 2, 7


class Coupling(PaLoRA):
    """Its objective has terms between rays: products of losses, and the largest one."""

    couples_rays = True

    def objective(self, losses: Tensor, rays: Tensor) -> Tensor:
        weighted = rays * losses
        neighbours = (losses[:-1, 0] * losses[1:, 1]).sum()
        return weighted.sum() + neighbours + losses.max() ** 2 + weighted.prod()


class Learnt(Coupling):
    """A coupling objective with a parameter of its own."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.scale = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))

    def objective(self, losses: Tensor, rays: Tensor) -> Tensor:
        return super().objective(losses * self.scale.exp(), rays) + self.scale.sum()


class Norms(PaLoRA):
    """Balances each ray's losses by the norms of their gradients: needs the graph of one ray at a time."""

    rays_per_pass = 1

    def backward(self, model: nn.Module, losses: Tensor, rays: Tensor) -> None:
        assert losses.shape == (1, T)
        weights = []
        for loss in losses[0]:
            (gradient,) = torch.autograd.grad(loss, [model.first.weight], retain_graph=True)
            weights.append(1 / (gradient.norm() + 1e-3))
        (torch.stack(weights) * rays[0] * losses[0]).sum().backward()


def make(kind: type[PaLoRA], dropout: float) -> tuple[PaLoRA, nn.Module]:
    """The method, and a model of linear layers, batch normalisation and dropout, with random adapters."""
    torch.manual_seed(1)
    method = kind(T, PaLoRAOptions(rays=M))
    model = method.adapt(DropoutNet(hidden=6, inputs=4, outputs=3, dtype=torch.float64))
    for name, parameter in model.named_parameters():
        if "lora" in name:
            nn.init.normal_(parameter)
    model.drop.p = dropout
    return method, model.train()


def losses_at(method: Method, model: nn.Module) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(N, 4, dtype=torch.float64, generator=generator)
    targets = torch.randint(0, 3, (T, N), generator=generator)

    def compute(rays: Tensor) -> Tensor:
        outputs: Sequence[Tensor] = method.forward(model, inputs, rays)
        rows = [
            F.cross_entropy(output.flatten(0, 1), target.repeat(len(rays)), reduction="none")
            for output, target in zip(outputs, targets, strict=True)
        ]
        return torch.stack(rows, 1).view(len(rays), N, T).mean(1)

    return compute


def gradients(method: PaLoRA, model: nn.Module, chunk: int | None) -> tuple[Tensor, dict[str, Tensor]]:
    rays = method.rays(0.7).double()
    torch.manual_seed(3)
    losses = accumulate(method, model, losses_at(method, model), rays, chunk)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found
    return losses, found


@pytest.mark.parametrize("kind", [PaLoRA, Coupling])
@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 9])
def test_chunks_equal_one_pass(kind: type[PaLoRA], chunk: int) -> None:
    losses, expected = gradients(*make(kind, 0.0), None)
    method, model = make(kind, 0.0)
    _, other_model = make(kind, 0.0)
    chunked_losses, found = gradients(method, model, chunk)
    gradients(method, other_model, None)
    torch.testing.assert_close(chunked_losses, losses, rtol=1e-12, atol=1e-14)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-13, msg=name)
    # Running statistics: once per ray, in order, whether or not there was a pass without graph before.
    for (name, buffer), (_, other) in zip(model.named_buffers(), other_model.named_buffers(), strict=True):
        torch.testing.assert_close(buffer, other, rtol=1e-12, atol=1e-14, msg=name)
    assert int(model.norm.num_batches_tracked) == M


def test_coupled_chunks_use_the_same_dropout_masks_in_both_passes() -> None:
    method, model = make(Coupling, 0.4)
    before = copy.deepcopy(model.state_dict())
    losses, found = gradients(method, model, 2)
    after = torch.get_rng_state()

    _, reference = make(Coupling, 0.4)
    reference.load_state_dict(before)
    rays = method.rays(0.7).double()
    torch.manual_seed(3)
    compute = losses_at(method, reference)
    expected_losses = torch.cat([compute(group) for group in rays.split(2)])  # one graph over all chunks
    method.objective(expected_losses, rays).backward()
    assert torch.equal(torch.get_rng_state(), after)  # the generators advanced once
    torch.testing.assert_close(losses, expected_losses.detach(), rtol=1e-12, atol=1e-14)
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-10, atol=1e-13, msg=name)


def test_parameters_of_a_coupling_objective_get_their_gradients() -> None:
    whole, chunked = make(Learnt, 0.0), make(Learnt, 0.0)
    gradients(*whole, None)
    gradients(*chunked, 2)
    torch.testing.assert_close(chunked[0].scale.grad, whole[0].scale.grad, rtol=1e-10, atol=1e-13)


def test_a_method_may_ask_for_one_graph_per_ray() -> None:
    """Against per-ray weights computed on models of one ray each."""
    method, model = make(Norms, 0.0)
    rays = method.rays(0.7).double()
    _, found = gradients(method, model, None)

    _, single = make(Norms, 0.0)
    compute = losses_at(method, single)
    total = torch.zeros(())
    for ray in rays:
        losses = compute(ray[None])[0]
        norms = [torch.autograd.grad(loss, single.first.weight, retain_graph=True)[0].norm() for loss in losses]
        total = total + sum(ray[t] * losses[t] / (norms[t] + 1e-3) for t in range(T))
    total.backward()
    for name, parameter in single.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-10, atol=1e-13, msg=name)


def test_gradients_of_all_rays_at_once_cannot_be_chunked() -> None:
    class Both(Coupling):
        def backward(self, model: nn.Module, losses: Tensor, rays: Tensor) -> None:
            self.objective(losses, rays).backward()

    with pytest.raises(PaloraError, match="leave out --ray-chunk"):
        gradients(*make(Both, 0.0), 2)


def test_rewound_restores_buffers_and_generators() -> None:
    _, model = make(PaLoRA, 0.5)
    buffers = copy.deepcopy(dict(model.named_buffers()))
    state = torch.get_rng_state()

    def disturb_and_fail() -> None:
        with rewound(model):
            model.norm.running_mean.add_(1)
            torch.rand(3)
            raise KeyError

    with pytest.raises(KeyError):
        disturb_and_fail()
    assert torch.equal(torch.get_rng_state(), state)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name])
