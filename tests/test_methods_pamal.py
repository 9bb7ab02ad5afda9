"""PaMaL: what a step minimises, against a loop over plain mixtures; members and tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import palora
from palora import methods
from palora.engine.chunking import accumulate
from palora.methods.members import member_weights, weighting
from palora.methods.multiforward import multiforward
from palora.models import MLP, LeNet

N = 6


def made(**options: Any) -> tuple[Any, nn.Module, Tensor, Tensor]:
    torch.manual_seed(4)
    method = methods.build("pamal", 2, options, seed=7)
    model = method.adapt(MLP(5, (7,), (3, 3)).double())
    return method, model, torch.randn(N, 5, dtype=torch.float64), torch.randint(0, 3, (2, N))


def losses_of(outputs: Any, targets: Tensor) -> Tensor:
    return torch.stack([F.cross_entropy(y, t) for y, t in zip(outputs, targets, strict=True)])


def stacked_losses(method: Any, model: nn.Module, x: Tensor, targets: Tensor) -> Any:
    def compute(rays: Tensor) -> Tensor:
        outputs = method.forward(model, x, rays)
        return torch.stack([losses_of([y[m] for y in outputs], targets) for m in range(len(rays))])

    return compute


@pytest.mark.parametrize("chunk", [None, 1, 2])
@pytest.mark.parametrize("released", [False, True])
def test_a_step_is_a_loop_over_mixtures_of_the_members(chunk: int | None, released: bool) -> None:
    method, model, x, targets = made(window=4, regularisation=3.0, as_released=released)
    alphas = method.rays(0.5).double()
    assert alphas.shape == (4, 2)
    found = accumulate(method, model, stacked_losses(method, model, x, targets), alphas, chunk)

    members = [{n: p.detach()[k].clone().requires_grad_() for n, p in model.named_parameters()} for k in range(2)]
    plain = MLP(5, (7,), (3, 3)).double()
    rows = []
    for alpha in alphas:
        mixture = {n: sum(a * member[n] for a, member in zip(alpha, members, strict=True)) for n in members[0]}
        rows.append(losses_of(torch.func.functional_call(plain, mixture, (x,)), targets))
    losses = torch.stack(rows)
    total = (alphas * losses).sum()
    penalty = 3.0 * multiforward(losses, alphas, released)
    assert penalty > 0
    if not released or penalty < total:
        total = total + penalty
    total.backward()
    torch.testing.assert_close(found, losses.detach(), rtol=1e-10, atol=1e-12)
    for name, parameter in model.named_parameters():
        for k in range(2):
            torch.testing.assert_close(parameter.grad[k], members[k][name].grad, rtol=1e-8, atol=1e-11, msg=name)


def test_as_released_drops_a_penalty_that_exceeds_the_loss() -> None:
    alphas = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    losses = torch.tensor([[0.1, 1.0], [1.0, 0.1]])
    weighted = (alphas * losses).sum()
    small = methods.build("pamal", 2, {"regularisation": 0.1, "as_released": True})
    assert small.objective(losses, alphas).item() == pytest.approx((weighted + 0.1 * 1.8).item(), rel=1e-5)
    large = methods.build("pamal", 2, {"regularisation": 10.0, "as_released": True})
    assert large.objective(losses, alphas).item() == pytest.approx(weighted.item(), rel=1e-6)


def test_parameters_double_and_learn_m_times_as_fast() -> None:
    method = methods.build("pamal", 2)
    model = method.adapt(LeNet())
    assert sum(p.numel() for p in model.parameters()) == 2 * 27_450
    assert {g["lr"] for g in method.parameter_groups(model, 1e-3)} == {2e-3}
    for options, rate in (({"as_released": True}, 1e-3), ({"member_lr": 1.5}, 1.5e-3), ({"members": 3}, 3e-3)):
        other = methods.build("pamal", 2, options)
        assert [g["lr"] for g in other.parameter_groups(other.adapt(LeNet()), 1e-3)] == [pytest.approx(rate)]


@pytest.mark.parametrize("p", [0.0, 0.1, 1.0, 100.0])
def test_any_concentration(p: float) -> None:
    method = methods.build("pamal", 2, {"p": p, "window": 200})
    alphas = method.rays(0.5)
    torch.testing.assert_close(alphas.sum(1), torch.ones(200))
    spread = 4 * alphas[:, 0].var().item()  # 1 for vertices alone, 4 · 1/12 for the uniform distribution
    expected = 1 / (2 * p + 1)
    assert spread == pytest.approx(expected, rel=0.3, abs=1e-3)
    assert method.objective(torch.rand(200, 2), alphas).isfinite()


def test_members_beyond_the_tasks() -> None:
    method, model, x, targets = made(members=3, window=2, regularisation=1.0)
    alphas = method.rays(0.5)
    assert alphas.shape == (2, 3)
    W = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    torch.testing.assert_close(method.task_weights(alphas), alphas @ W)
    outputs = method.forward(model, x, alphas.double())
    with palora.at(model, alphas[1].double()):
        torch.testing.assert_close(outputs[0][1], model(x)[0], rtol=1e-10, atol=1e-12)
    accumulate(method, model, stacked_losses(method, model, x, targets), alphas.double())
    assert all(p.grad.isfinite().all() for p in model.parameters())
    # A preference is answered by a mixture that has it.
    grid = method.evaluation_rays(10).double()
    with palora.at(model, member_weights(grid, method.matrix)):
        expected = palora.split(model(x), 11)
    for y, z in zip(method.forward(model, x, grid), expected, strict=True):
        torch.testing.assert_close(y, z)


def test_mixtures_have_the_preference_and_are_short() -> None:
    grid = palora.simplex_grid(2, 10)
    for matrix in (weighting(2, 3), weighting(2, 5), weighting(2, None, "1,0; 1,0; 0,1; 0.2,0.8")):
        alphas = member_weights(grid, matrix)
        assert (alphas >= 0).all()
        torch.testing.assert_close(alphas.sum(1), torch.ones(11))
        torch.testing.assert_close(alphas @ matrix, grid, rtol=1e-5, atol=1e-6)
    doubled = member_weights(torch.tensor([[0.3, 0.7]]), torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]))
    torch.testing.assert_close(doubled, torch.tensor([[0.15, 0.15, 0.35, 0.35]]))
    # Where no mixture has it, the closest: both members lie between the vertices.
    torch.testing.assert_close(
        member_weights(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0.8, 0.2], [0.2, 0.8]])),
        torch.tensor([[1.0, 0.0], [0.5, 0.5]]),
    )
    torch.testing.assert_close(weighting(3), torch.eye(3))
    assert member_weights(grid, weighting(2)) is grid


def test_the_centre_is_the_plain_model() -> None:
    method, model, x, _ = made()
    plain = method.plain(model)
    assert type(plain) is MLP
    with palora.at(model, (0.5, 0.5)):
        torch.testing.assert_close(plain(x)[1], model(x)[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1, "regularisation": 1.0}, "`window` should be > 1"),
        ({"members": 1}, "`members` should be an integer >= 2"),
        ({"weighting": "1,0; x"}, "`weighting` should look like"),
        ({"weighting": "1,0; 0.5,0.6"}, "sum to 1"),
        ({"weighting": "1,0,0; 0,1,0"}, r"shape \(m >= 2, 2\)"),
        ({"weighting": "0.5,0.5; 0.5,0.5"}, "invertible"),
        ({"balance": "loud"}, "`balance` should be one of none, gradient"),
    ],
)
def test_bad_options_are_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        methods.build("pamal", 2, options)


def test_saved_state_goes_on_with_the_same_samples(tmp_path: Path) -> None:
    one, other = methods.build("pamal", 2, seed=1), methods.build("pamal", 2, seed=2)
    one.rays(0.1)
    torch.save(one.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(one.rays(0.2), other.rays(0.2))
