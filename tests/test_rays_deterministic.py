"""The annealed and the fixed schedule: Eq. 3, base rays, and equal weight for every task."""

from __future__ import annotations

import math

import pytest
import torch

from palora import schedules
from palora.rays import simplex_grid
from palora.rays.deterministic import anneal

TAUS = [0.0, 1e-6, 0.1, 0.5, 1.0]
SIZES = [(tasks, rays) for tasks in (2, 3, 4, 5, 6, 7) for rays in (*range(1, 16), 21, 28)] + [
    (20, 3),
    (3, 100),
]


def smooth(rays: torch.Tensor, epsilon: float = 0.01) -> torch.Tensor:
    return (1 - rays.shape[1] * epsilon) * rays.double() + epsilon


def equation_3(rays: torch.Tensor, exponent: float) -> torch.Tensor:
    powers = rays.double() ** exponent
    return powers / powers.sum(1, keepdim=True)


def fits(tasks: int, rays: int) -> bool:
    whole_grid = any(len(simplex_grid(tasks, d)) == rays for d in range(1, 6))
    return rays % tasks in (0, 1) or whole_grid


@pytest.mark.parametrize("tasks, rays", SIZES)
def test_on_the_simplex_with_equal_weights_at_every_step(tasks: int, rays: int) -> None:
    schedule = schedules.Annealed(tasks, rays)
    for tau in TAUS:
        out = schedule(tau)
        assert out.shape == (rays, tasks)
        assert out.dtype == torch.float32
        assert (out >= 0).all()
        torch.testing.assert_close(out.sum(1), torch.ones(rays), atol=3e-7, rtol=0)
        weights = out.double().sum(0)
        torch.testing.assert_close(weights, torch.full_like(weights, rays / tasks), atol=1e-6, rtol=0)


@pytest.mark.parametrize("tasks, rays", SIZES)
def test_rays_differ_and_move_outwards(tasks: int, rays: int) -> None:
    schedule = schedules.Annealed(tasks, rays)
    torch.testing.assert_close(schedule(0.0), torch.full((rays, tasks), 1 / tasks))
    if rays == 1:
        return
    base = schedules.Fixed(tasks, rays)(0.0)
    distances = torch.cdist(base, base) + torch.eye(rays)
    assert distances.min() > 0.01, "two rays coincide"
    spread = [(schedule(tau) - 1 / tasks).norm() for tau in (0.0, 0.25, 0.5, 1.0)]
    assert spread == sorted(spread)
    assert spread[-1] > 0.3


@pytest.mark.parametrize("rays", [2, 3, 5, 6, 11])
def test_two_tasks_are_a_smoothed_linspace(rays: int) -> None:
    first = torch.linspace(0.99, 0.01, rays)
    torch.testing.assert_close(schedules.Fixed(2, rays)(0.3), torch.stack([first, 1 - first], 1))


@pytest.mark.parametrize("tasks, divisions", [(3, 1), (3, 2), (3, 3), (3, 4), (4, 2), (7, 1), (7, 2)])
def test_a_whole_grid_is_used_where_it_fits(tasks: int, divisions: int) -> None:
    grid = simplex_grid(tasks, divisions)
    torch.testing.assert_close(schedules.Fixed(tasks, len(grid))(1.0), smooth(grid).float())


@pytest.mark.parametrize("tasks, rays", [(2, 5), (2, 4), (3, 1), (3, 6), (3, 7), (3, 9), (4, 9), (7, 8), (7, 28)])
@pytest.mark.parametrize("tau", TAUS)
def test_equation_3(tasks: int, rays: int, tau: float) -> None:
    assert fits(tasks, rays)
    base = schedules.Fixed(tasks, rays)(0.0)
    product = schedules.Annealed(tasks, rays, temperature=5)(tau)
    quotient = schedules.Annealed(tasks, rays, temperature=5, exponent="quotient")(tau)
    torch.testing.assert_close(product, equation_3(base, 5 * tau).float(), atol=1e-6, rtol=0)
    torch.testing.assert_close(quotient, equation_3(base, tau / 5).float(), atol=1e-6, rtol=0)


def test_values_of_the_multimnist_recipe() -> None:
    # By hand: 0.745^2.5 / (0.745^2.5 + 0.255^2.5) at τ = 0.5, Q = 5.
    second = 0.745**2.5 / (0.745**2.5 + 0.255**2.5)
    rays = schedules.Annealed(2, 5)(0.5)
    assert rays[1, 0].item() == pytest.approx(second, abs=1e-6)
    assert rays[2].tolist() == [0.5, 0.5]


def test_fixed_ignores_tau_and_raises_to_the_temperature() -> None:
    schedule = schedules.Fixed(3, 10, temperature=2.0)
    assert torch.equal(schedule(0.0), schedule(1.0))
    base = schedules.Fixed(3, 10)(0.0)
    torch.testing.assert_close(schedule(0.5), equation_3(base, 2).float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("tasks, rays", [(3, 2), (3, 5), (4, 3), (7, 5), (7, 13)])
def test_rays_that_do_not_fit_rotate_over_the_tasks(tasks: int, rays: int) -> None:
    schedule = schedules.Annealed(tasks, rays)
    calls = torch.stack([schedule(1.0) for _ in range(2 * tasks)])
    assert torch.equal(calls[:tasks], calls[tasks:]), "the period is T calls"
    fitting = rays - rays % tasks
    assert torch.equal(calls[0, :fitting], calls[1, :fitting])
    for shift in range(tasks):
        assert torch.equal(calls[shift, fitting:], calls[0, fitting:].roll(shift, 1))
    assert not torch.equal(calls[0], calls[1])
    # Over a period every ray gives every task the same weight, and each task is once the favourite.
    torch.testing.assert_close(calls[:tasks, fitting:].mean(0), torch.full((rays % tasks, tasks), 1 / tasks))


@pytest.mark.parametrize("tasks, rays", [(2, 5), (3, 6), (3, 4), (4, 8), (7, 1)])
def test_rays_that_fit_stay_where_they_are(tasks: int, rays: int) -> None:
    schedule = schedules.Annealed(tasks, rays)
    assert torch.equal(schedule(0.7), schedule(0.7))


def test_state_continues_the_rotation() -> None:
    schedule = schedules.Annealed(7, 5)
    for _ in range(4):
        schedule(0.5)
    resumed = schedules.Annealed(7, 5)
    resumed.load_state_dict(schedule.state_dict())
    assert torch.equal(resumed(0.6), schedule(0.6))
    with pytest.raises(ValueError, match="state_dict of Annealed"):
        resumed.load_state_dict({"generator": 3})


def test_zeros_and_extreme_temperatures() -> None:
    corner = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert anneal(corner, 0.0).tolist() == [[0.5, 0.5]]  # 0^0 counts as 1
    assert anneal(corner, 1e-9).tolist() == [[1.0, 0.0]]
    for tasks, rays in [(2, 4), (3, 6), (3, 8), (7, 5)]:
        for epsilon in (0.0, 0.01):
            schedule = schedules.Annealed(tasks, rays, temperature=1e300, epsilon=epsilon)
            for tau in (0.0, 1e-9, 1.0):
                out = schedule(tau)
                assert out.isfinite().all()
                torch.testing.assert_close(out.sum(1), torch.ones(rays), atol=3e-7, rtol=0)
                torch.testing.assert_close(out.sum(0), torch.full((tasks,), rays / tasks), atol=1e-6, rtol=0)
    cold = schedules.Annealed(3, 3, temperature=1e-300, exponent="quotient", epsilon=0.0)(1.0)
    assert torch.equal(cold, torch.eye(3))


@pytest.mark.parametrize("tau", [-0.01, 1.01, math.nan, math.inf])
def test_tau_outside_the_unit_interval(tau: float) -> None:
    for schedule in (schedules.Annealed(2, 3), schedules.Fixed(2, 3), schedules.Dirichlet(2, 3)):
        with pytest.raises(ValueError, match=r"`tau` should be a number from 0 to 1\. Found"):
            schedule(tau)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"tasks": 1}, "`tasks` should be an integer >= 2"),
        ({"rays": 0}, "`rays` should be an integer >= 1"),
        ({"temperature": 0.0}, "`temperature` should be a finite number > 0"),
        ({"temperature": math.inf}, "`temperature`"),
        ({"epsilon": 0.5}, "`epsilon` should be a number >= 0 and < 1/tasks"),
        ({"epsilon": -0.1}, "`epsilon`"),
        ({"exponent": "power"}, "`exponent` should be 'product'"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedules.Annealed(**{"tasks": 2, "rays": 3, **arguments})  # type: ignore[arg-type]


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match="`rays` should be an integer"):
        schedules.Fixed(2, 2.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`tau`"):
        schedules.Fixed(2, 2)("0.5")  # type: ignore[arg-type]
