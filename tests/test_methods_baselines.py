"""Multi-task baselines against solutions known by other means."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from palora import methods
from palora.errors import PaloraError
from palora.methods.gradients import TaskGradients
from palora.methods.nash import bargain
from palora.methods.rotograd import Rotated
from palora.models import LeNet

TASKS = 3


class Bowls(nn.Module):
    """Shared weight w (3, 5), heads h_t: task t's loss is a quadratic in w and h_t with a gradient known by hand."""

    def __init__(self, pulls: Tensor) -> None:
        super().__init__()
        self.shared = nn.Parameter(torch.zeros(pulls.shape[1], dtype=pulls.dtype))
        self.heads = nn.ParameterList(torch.ones(2, dtype=pulls.dtype) for _ in pulls)
        self.unused = nn.Parameter(torch.zeros(1))
        self.pulls = pulls

    def shared_parameters(self) -> list[nn.Parameter]:
        return [self.shared]

    def losses(self) -> Tensor:
        """(1, T): ⟨pull_t, w⟩ + |h_t|²/2 + 1, whose gradients are pull_t and h_t = (1, 1)."""
        rows = [pull @ self.shared + h @ h / 2 + 1 for pull, h in zip(self.pulls, self.heads, strict=True)]
        return torch.stack(rows).unsqueeze(0)


def update(name: str, pulls: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """The gradient that `name` makes for the shared weight, and the factor (T,) of each head's gradient."""
    method = methods.build(name, len(pulls), options)
    model = Bowls(pulls)
    method.backward(model, model.losses(), method.rays(0.5))
    assert model.unused.grad is None
    heads = torch.stack([head.grad for head in model.heads])
    assert torch.equal(heads[:, 0], heads[:, 1])
    return model.shared.grad, heads[:, 0]


def random_pulls(tasks: int = TASKS, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tasks, 5, generator=generator, dtype=torch.float64)


def test_gradients_of_single_tasks_and_what_is_shared() -> None:
    model = LeNet()
    outputs = model(torch.randn(4, 1, 28, 28))
    losses = torch.stack([output.square().mean() for output in outputs])
    expected = [torch.autograd.grad(loss, model.shared_parameters(), retain_graph=True) for loss in losses]
    found = TaskGradients(model, losses)
    shared = {id(p) for p in model.shared_parameters()}
    assert [id(p) in shared for p in found.parameters] == found.shared
    flat = torch.stack([torch.cat([g.flatten() for g in row]) for row in expected]).double()
    torch.testing.assert_close(found.gramian(), flat @ flat.T, rtol=1e-5, atol=1e-9)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.needs("torchjd")
def test_mgda_of_two_is_the_shortest_vector_between_them(seed: int) -> None:
    a, b = pulls = random_pulls(2, seed) + torch.tensor([[0.0] * 4 + [2.0], [1.0] * 5], dtype=torch.float64)
    part = float((b @ (b - a) / (b - a).square().sum()).clamp(0, 1))  # Sener & Koltun, Eq. 4 and Fig. 1
    shared, heads = update("mgda", pulls)
    torch.testing.assert_close(shared, 2 * (part * a + (1 - part) * b))
    torch.testing.assert_close(heads, torch.tensor([2 * part, 2 - 2 * part], dtype=torch.float64))


@pytest.mark.needs("torchjd")
def test_mgda_normalised_ignores_the_scale_of_a_gradient() -> None:
    pulls = random_pulls(2)
    factors = torch.tensor([[1.0], [50.0]], dtype=torch.float64)
    weights = [update("mgda", pulls * f, normalisation="l2")[1] for f in (1.0, factors)]
    torch.testing.assert_close(*weights)
    torch.testing.assert_close(weights[0], torch.ones(2, dtype=torch.float64))  # unit vectors: their middle
    with pytest.raises(ValueError, match="`normalisation` should be one of none, l2"):
        methods.build("mgda", 2, {"normalisation": "L1"})


@pytest.mark.needs("torchjd")
def test_pcgrad_projects_conflicts_away() -> None:
    a, b = torch.tensor([1.0, 0.0, 0.0, 0, 0]), torch.tensor([-1.0, 1.0, 0.0, 0, 0])
    shared, heads = update("pcgrad", torch.stack([a, b]))
    # a loses its part along b: a + b/2 = (½, ½); b loses its part along a: (0, 1).
    torch.testing.assert_close(shared, torch.tensor([0.5, 1.5, 0.0, 0, 0]))
    assert torch.equal(heads, torch.ones(2))
    agreeing = random_pulls(2).abs()
    torch.testing.assert_close(update("pcgrad", agreeing)[0], agreeing.sum(0))


@pytest.mark.parametrize("tasks", [2, 3])
@pytest.mark.needs("torchjd")
def test_imtl_has_equal_projections(tasks: int) -> None:
    pulls = random_pulls(tasks)
    shared, heads = update("imtl", pulls)
    projections = pulls / pulls.norm(dim=1, keepdim=True) @ shared
    torch.testing.assert_close(projections, projections[:1].expand(tasks))
    torch.testing.assert_close(heads.sum(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(shared, heads @ pulls)


@pytest.mark.parametrize("c", [0.0, 0.4, 0.8])
@pytest.mark.needs("torchjd", "cvxpy")
def test_cagrad_solves_the_primal_problem(c: float) -> None:
    pulls = random_pulls(TASKS, seed=3)
    shared, heads = update("cagrad", pulls, c=c)
    found = shared.numpy() * (1 + c**2) / TASKS
    G = pulls.numpy()
    mean = G.mean(0)
    radius = c * np.linalg.norm(mean)
    # max s with ⟨g_t, d⟩ >= s and ‖d − mean‖ <= radius, by another solver on (d, s)
    ball = {"type": "ineq", "fun": lambda z: radius**2 - np.sum((z[:-1] - mean) ** 2)}
    tasks = {"type": "ineq", "fun": lambda z: G @ z[:-1] - z[-1]}
    start = np.append(mean, (G @ mean).min())
    minimize = pytest.importorskip("scipy.optimize").minimize
    best = minimize(lambda z: -z[-1], start, constraints=[ball, tasks], options={"ftol": 1e-12, "maxiter": 500})
    assert np.linalg.norm(found - mean) <= radius * (1 + 1e-3) + 1e-9
    assert (G @ found).min() == pytest.approx(-best.fun, abs=2e-3)
    assert torch.equal(heads, torch.ones(TASKS, dtype=torch.float64))


@pytest.mark.needs("torchjd", "cvxpy")
def test_cagrad_goes_on_when_a_task_is_solved() -> None:
    pulls = torch.tensor([[1.0, 2.0, 0, 0, 0], [0.0] * 5])
    torch.testing.assert_close(update("cagrad", pulls)[0], pulls.sum(0) / (1 + 0.4**2))


@pytest.mark.parametrize("tasks", [2, 3, 7])
def test_nash_solves_the_bargaining_equation(tasks: int) -> None:
    pulls = torch.randn(tasks, 9, generator=torch.Generator().manual_seed(tasks), dtype=torch.float64)
    gramian = pulls @ pulls.T
    gramian /= gramian.norm()
    alpha = bargain(gramian, niter=50)
    assert (alpha > 0).all()
    torch.testing.assert_close(gramian @ alpha, 1 / alpha, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bargain(gramian, niter=20), alpha, rtol=1e-6, atol=1e-6)  # 20 are enough


def test_nash_weights_the_whole_loss_and_cuts_the_shared_gradient_alone() -> None:
    pulls = random_pulls()
    shared, heads = update("nash", pulls)
    free, same = update("nash", pulls, max_norm=0.0)
    torch.testing.assert_close(shared.norm(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(free, same @ pulls)
    torch.testing.assert_close(heads, same)
    torch.testing.assert_close(shared * free.norm(), free)


def test_nash_with_opposed_and_vanishing_gradients() -> None:
    opposed = torch.tensor([[1.0, 0, 0, 0, 0], [-1.0, 0, 0, 0, 0]])
    assert all(part.isfinite().all() for part in update("nash", opposed))
    assert update("nash", opposed)[0].norm() < 1e-2
    assert torch.equal(update("nash", 0 * opposed)[1], torch.ones(2))


@pytest.mark.needs("torchjd")
def test_graddrop_follows_one_sign_per_weight() -> None:
    torch.manual_seed(0)
    pulls = torch.tensor([[3.0, 1.0, 2.0, -1.0, 0.0], [-1.0, 2.0, -2.0, -4.0, 0.0]], dtype=torch.float64)
    seen = torch.stack([update("graddrop", pulls)[0] for _ in range(400)])
    assert {v.item() for v in seen[:, 0]} == {3.0, -1.0}
    assert {v.item() for v in seen[:, 2]} == {2.0, -2.0}
    assert torch.equal(seen[:, 1], torch.full((400,), 3.0, dtype=torch.float64))  # signs agree: the sum
    assert torch.equal(seen[:, 3:], torch.tensor([-5.0, 0.0], dtype=torch.float64).expand(400, 2))
    assert (seen[:, 0] > 0).double().mean() == pytest.approx(0.75, abs=0.08)  # ½ (1 + 2/4)
    assert torch.equal(update("graddrop", pulls)[1], torch.ones(2, dtype=torch.float64))


@pytest.mark.needs("torchjd")
def test_uncertainty_weighting_by_hand() -> None:
    method = methods.build("uw", 2)
    model = method.adapt(nn.Linear(1, 1))
    with torch.no_grad():
        model.uncertainty.log_var.copy_(torch.tensor([0.2, -1.0]))
    losses = torch.tensor([[2.0, 3.0]], requires_grad=True)
    total = method.objective(losses, method.rays(1.0))
    expected = 0.5 * (math.exp(-0.2) * 2 + 0.2) + 0.5 * (math.exp(1.0) * 3 - 1.0)
    assert total.item() == pytest.approx(expected)
    total.backward()
    assert model.uncertainty.log_var.grad[0].item() == pytest.approx(0.5 - 0.5 * math.exp(-0.2) * 2)
    (group,) = method.parameter_groups(model, 0.1)
    assert any(p is model.uncertainty.log_var for p in group["params"])


def test_dynamic_weight_average_by_hand() -> None:
    method = methods.build("dwa", 2, {"dwa_window": 2, "dwa_temperature": 2.0})
    losses = [[4.0, 4.0], [4.0, 2.0], [2.0, 3.0], [1.0, 3.0], [1.0, 1.0]]
    for row in losses[:3]:
        method.after_step(torch.tensor([row]), method.rays(0.5))
        assert torch.equal(method.weights(), torch.ones(2))
    for first, row in enumerate(losses[3:]):
        method.after_step(torch.tensor([row]), method.rays(0.5))
        old, new = (
            np.array(losses[first : first + 2]).mean(0),
            np.array(losses[first + 2 : first + 4]).mean(0),
        )
        expected = 2 * np.exp(new / old / 2) / np.exp(new / old / 2).sum()
        np.testing.assert_allclose(method.weights().numpy(), expected, rtol=1e-6)
    objective = method.objective(torch.tensor([[1.0, 10.0]]), method.rays(0.5))
    assert objective.item() == pytest.approx((expected * [1, 10]).sum() / 2)


@pytest.mark.needs("torchjd")
def test_random_weights_are_the_ray_of_the_step() -> None:
    torch.manual_seed(3)
    rays = torch.stack([methods.build("rlw", 3).rays(0.5)[0] for _ in range(200)])
    assert rays.unique(dim=0).shape == (200, 3)
    torch.testing.assert_close(rays.sum(1), torch.ones(200))
    torch.testing.assert_close(rays.mean(0), torch.full((3,), 1 / 3), atol=0.06, rtol=0)


def test_auto_lambda_follows_the_product_of_successive_gradients() -> None:
    """Adam's first step has the sign of the meta-gradient and the size of its learning rate."""
    first = torch.tensor([[1.0, 0.0, 0, 0, 0], [0.0, 1.0, 0, 0, 0]])
    second = torch.tensor([[2.0, -9.0, 0, 0, 0], [1.0, -9.0, 0, 0, 0]])
    method = methods.build("autolambda", 2, {"meta_lr": 0.01, "meta_init": 0.1})
    gradients = []
    for pulls in (first, second):
        model = Bowls(pulls)
        with torch.no_grad():
            for head in model.heads:
                head.zero_()
        method.backward(model, model.losses(), method.rays(0.5))
        gradients.append(model.shared.grad)
    torch.testing.assert_close(gradients[0], 0.1 * first.sum(0))
    # ⟨first_0, Σ second⟩ = 3 > 0: helps, weight up; ⟨first_1, Σ second⟩ = −18 < 0: hurts, weight down.
    torch.testing.assert_close(method.weights.detach(), torch.tensor([0.11, 0.09]))
    torch.testing.assert_close(gradients[1], 0.11 * second[0] + 0.09 * second[1])


def roto(steps: int = 0) -> tuple[Any, Rotated, Tensor]:
    method = methods.build("rotograd", 2, {"rotation_size": 40})
    model = method.adapt(LeNet())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for skew in model.skew:
            skew.copy_(0.3 * torch.randn(skew.shape, generator=generator))
    return method, model, torch.randn(6, 1, 28, 28, generator=generator)


def test_rotograd_turns_features_and_keeps_their_norm() -> None:
    _, model, x = roto()
    model(x)
    assert model.rotation(0).shape == (40, 40)  # of 50 features
    for task, view in enumerate(model.views):
        turned = model.rotation(task)
        torch.testing.assert_close(turned @ turned.T, torch.eye(40), atol=1e-5, rtol=0)
        torch.testing.assert_close(view.norm(dim=1), model.features.norm(dim=1))
        assert torch.equal(view[:, 40:], model.features[:, 40:])


def test_rotograd_gives_the_trunk_gradients_of_equal_norm() -> None:
    method, model, x = roto()
    factors = torch.tensor([[1.0, 30.0]])

    def losses() -> Tensor:
        return torch.stack([output.square().mean() for output in model(x)]).unsqueeze(0) * factors

    found = losses()
    features = model.features
    plain = [torch.autograd.grad(loss, features, retain_graph=True)[0] for loss in found[0]]
    heads = [
        torch.autograd.grad(loss, list(head.parameters()), retain_graph=True)
        for loss, head in zip(found[0], model.heads, strict=True)
    ]
    norms = torch.stack([gradient.norm() for gradient in plain])
    common = norms.mean()  # in the first step all ratios are 1
    trunk = torch.autograd.grad(
        features,
        list(model.trunk.parameters()),
        sum(common * g / n for g, n in zip(plain, norms, strict=True)),
        retain_graph=True,
    )
    mean = sum(plain) / 2
    target = sum(mean.norm() * g / n for g, n in zip(plain, norms, strict=True)) / 2
    method.backward(model, found, method.rays(0.5))
    for parameter, expected in zip(model.trunk.parameters(), trunk, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-6)
    for head, expected in zip(model.heads, heads, strict=True):
        for parameter, gradient in zip(head.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)

    def misalignment(task: int) -> Tensor:
        turned = model.rotation(task).detach()
        view = torch.cat([plain[task][:, :40] @ turned.T, plain[task][:, 40:]], 1)
        goal = torch.cat([target[:, :40] @ model.rotation(task).T, target[:, 40:]], 1)
        return (goal - view).square().sum(1).mean()

    for task in range(2):
        (expected,) = torch.autograd.grad(misalignment(task), model.skew[task])
        torch.testing.assert_close(model.skew[task].grad, expected, rtol=1e-3, atol=1e-6)
    rates = [(len(group["params"]), group["lr"]) for group in method.parameter_groups(model, 1.0)]
    assert rates == [(len(list(model.parameters())) - 2, 1.0), (2, pytest.approx(0.1))]


def test_rotograd_leaves_a_plain_model() -> None:
    """R_t goes into the head's first layer: W R_t z."""
    method, model, x = roto()
    plain = method.plain(model)
    assert type(plain) is LeNet
    assert plain.state_dict().keys() == LeNet().state_dict().keys()
    for found, expected in zip(plain(x), model(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(plain.heads[0].fc1.weight, model.heads[0].fc1.weight)


def test_rotograd_says_what_it_needs() -> None:
    with pytest.raises(PaloraError, match="Linear has no `trunk` and `heads`"):
        methods.build("rotograd", 2).adapt(nn.Linear(2, 2))


@pytest.mark.parametrize(("name", "package"), [("mgda", "torchjd"), ("cagrad", "cvxpy"), ("uw", "torchjd")])
def test_a_missing_extra_is_one_sentence(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(module: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{module}'")

    monkeypatch.setattr("palora.optional.importlib.import_module", absent)
    with pytest.raises(PaloraError, match=rf"'{name}' needs {package}.*: pip install '{package}[<>=,.\d]+'\.$"):
        methods.build(name, 2)


@pytest.mark.needs("torchjd", "cvxpy")
def test_gradients_that_are_not_finite_reach_the_loop_which_reports_them() -> None:
    pulls = random_pulls(2)
    pulls[0, 0] = torch.nan
    assert not update("cagrad", pulls)[0].isfinite().all()
