"""Hypernetworks: counts, and answers equal to those of the models they make."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from palora import methods, models
from palora.errors import PaloraError
from palora.methods.epo import epo_weights
from palora.models import MLP, LeNet

EMBEDDING = 2 * 100 + 100 + 2 * (100 * 100 + 100)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        # Layer by layer as the authors list them: weights and biases of conv 1 and 2, fc, and two heads of two layers.
        (
            "lenet",
            {"tasks": 2},
            EMBEDDING + 101 * (250 + 10 + 5000 + 20 + 16000 + 50 + 2 * (2500 + 50 + 500 + 10)),
        ),
        ("mlp", {"inputs": 468, "hidden": (256,), "outputs": (2, 2)}, EMBEDDING + 101 * (468 * 256 + 256 + 2 * 514)),
    ],
)
def test_parameter_counts(name: str, settings: dict, expected: int) -> None:
    model = methods.build("phn-ls", 2).adapt(models.build(name, **settings))
    assert sum(p.numel() for p in model.parameters()) == expected
    assert {"lenet": 2_792_950, "mlp": 12_250_792}[name] == expected
    assert not any("target" in key for key in model.state_dict())


def test_every_ray_is_answered_by_the_model_made_for_it() -> None:
    method = methods.build("phn-ls", 2)
    model = method.adapt(LeNet().double()).double()
    x, rays = torch.randn(3, 1, 28, 28, dtype=torch.float64), torch.tensor([[0.1, 0.9], [0.6, 0.4]]).double()
    outputs = method.forward(model, x, rays)
    assert [tuple(y.shape) for y in outputs] == [(2, 3, 10)] * 2
    for m, ray in enumerate(rays):
        plain = model.generated(ray)
        assert type(plain) is LeNet
        for y, z in zip(outputs, plain(x), strict=True):
            torch.testing.assert_close(y[m], z, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(outputs[0][0], outputs[0][1])
    assert torch.equal(method.plain(model)(x)[0], model.generated(torch.tensor([0.5, 0.5]).double())(x)[0])


def test_gradients_reach_what_makes_the_weights() -> None:
    method = methods.build("phn-ls", 2)
    model = method.adapt(MLP(4, (5,), (3, 2)))
    outputs = method.forward(model, torch.randn(6, 4), method.rays(0.1))
    losses = torch.stack([y.square().mean((1, 2)) for y in outputs], 1)
    method.backward(model, losses, torch.tensor([[0.5, 0.5]]))
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.needs("scipy")
def test_epo_moves_along_the_direction_of_the_shared_gradients() -> None:
    """The embedding and the makers of the trunk decide the weights; the heads' makers get them too."""
    method = methods.build("phn-epo", 2)
    model = method.adapt(MLP(4, (5,), (3, 2)).double()).double()
    x, targets = torch.randn(6, 4, dtype=torch.float64), (torch.randint(0, 3, (6,)), torch.randint(0, 2, (6,)))
    rays = torch.tensor([[0.2, 0.8]], dtype=torch.float64)

    def losses_of() -> torch.Tensor:
        outputs = method.forward(model, x, rays)
        return torch.stack([F.cross_entropy(y[0], t) for y, t in zip(outputs, targets, strict=True)])[None]

    shared = [p for name, p in model.named_parameters() if "embedding" in name or "trunk" in name]
    assert 0 < len(shared) < len(list(model.parameters()))
    losses = losses_of()
    G = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses[0]]
    flat = torch.stack([torch.cat([g.flatten() for g in row]) for row in G])
    beta = epo_weights(losses[0].detach(), flat @ flat.T, rays[0])
    expected = torch.autograd.grad(2 * (beta * losses[0]).sum(), list(model.parameters()))
    method.backward(model, losses_of(), rays)
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-6, atol=1e-10)


def test_rays_crowd_at_the_vertices() -> None:
    method = methods.build("phn-ls", 2)
    drawn = torch.cat([method.rays(0.5) for _ in range(400)])
    assert 4 * drawn[:, 0].var().item() == pytest.approx(1 / 1.4, rel=0.15)  # Dirichlet(0.2)


def test_networks_with_statistics_are_refused() -> None:
    with pytest.raises(PaloraError, match="running statistics that ResNet18 keeps: it is for LeNet and MLP"):
        methods.build("phn-ls", 2).adapt(models.ResNet18((1, 2)))
