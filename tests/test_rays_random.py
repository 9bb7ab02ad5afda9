"""The Dirichlet schedules: distribution, tiny and huge concentrations, reproducibility."""

from __future__ import annotations

import pytest
import torch

from palora import schedules
from palora.rays.random import dirichlet


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("tasks, p", [(2, 0.4), (2, 1.0), (3, 5.0), (7, 1.0)])
def test_marginals_are_beta(tasks: int, p: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    draws = schedules.Dirichlet(tasks, 5000, p, generator())(0.5).double()
    for column in draws.T:
        # Beta(p, (T−1)p) is the exact marginal; the threshold is met by one column in 10,000 by chance.
        assert stats.kstest(column.numpy(), stats.beta(p, (tasks - 1) * p).cdf).pvalue > 1e-4


@pytest.mark.parametrize("p", [0.2, 0.02])
def test_tiny_entries_have_the_right_distribution(p: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    draws = dirichlet(p, 5000, 2, generator())[:, 0]
    small = draws[draws < 0.5].numpy()  # near 1 float64 runs out of digits, near 0 it does not
    assert abs(len(small) / 5000 - 0.5) < 0.03
    assert stats.kstest(small, lambda x: 2 * stats.beta(p, p).cdf(x)).pvalue > 1e-4


def test_entries_covary_as_a_dirichlet_does() -> None:
    stats = pytest.importorskip("scipy.stats")
    draws = schedules.Dirichlet(3, 20_000, 2.0, generator())(0.0).double()
    expected = stats.dirichlet([2.0] * 3).cov()
    torch.testing.assert_close(draws.T.cov(), torch.from_numpy(expected), atol=1.5e-3, rtol=0)


@pytest.mark.parametrize("p", [0.0, 1e-320, 1e-9, 0.001, 0.1, 1.0, 100.0, 1e15])
@pytest.mark.parametrize("tasks", [2, 7])
def test_always_on_the_simplex(p: float, tasks: int) -> None:
    rays = schedules.Dirichlet(tasks, 2000, p, generator())(0.0)
    assert rays.dtype == torch.float32
    assert rays.isfinite().all()
    assert (rays >= 0).all()
    torch.testing.assert_close(rays.sum(1), torch.ones(2000), atol=3e-7, rtol=0)
    # Every task is drawn alike: the mean of 2000 draws is within five standard errors of 1/T.
    variance = (tasks - 1) / tasks**2 / (tasks * p + 1)
    assert ((rays.double().mean(0) - 1 / tasks).abs() < 5 * (variance / 2000) ** 0.5 + 1e-6).all()


def test_no_concentration_means_vertices() -> None:
    rays = schedules.Dirichlet(3, 100, 0.0, generator())(0.0)
    assert set(rays.flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(rays.sum(1), torch.ones(100))


def test_annealing_moves_from_p_to_the_vertices() -> None:
    start = schedules.AnnealedDirichlet(3, 4000, 5.0, generator())(0.0)
    expected = schedules.Dirichlet(3, 4000, 5.001, generator())(0.0)
    assert torch.equal(start, expected)
    end = schedules.AnnealedDirichlet(3, 4000, 5.0, generator())(1.0)
    assert torch.equal(end, schedules.Dirichlet(3, 4000, 0.001, generator())(0.0))
    assert (end.amax(1) > 0.99).float().mean() > 0.97


@pytest.mark.parametrize("kind", [schedules.Dirichlet, schedules.AnnealedDirichlet])
def test_state_resumes_bit_for_bit(kind: type[schedules.Dirichlet]) -> None:
    schedule = kind(3, 4, 1.0, generator(7))
    schedule(0.1)
    state = schedule.state_dict()
    expected = [schedule(tau) for tau in (0.2, 0.3)]
    resumed = kind(3, 4, 1.0)
    resumed.load_state_dict(state)
    assert all(torch.equal(resumed(tau), ray) for tau, ray in zip((0.2, 0.3), expected, strict=True))


def test_without_a_generator_the_global_seed_decides_and_is_not_drawn_from_later() -> None:
    torch.manual_seed(3)
    first, second = schedules.Dirichlet(2, 3), schedules.Dirichlet(2, 3)
    before = torch.get_rng_state()
    rays = first(0.0)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(rays, second(0.0))
    torch.manual_seed(3)
    assert torch.equal(schedules.Dirichlet(2, 3)(0.0), rays)


@pytest.mark.parametrize("p", [-1.0, float("nan"), float("inf")])
def test_bad_concentration(p: float) -> None:
    with pytest.raises(ValueError, match="`p` should be a finite number >= 0"):
        schedules.Dirichlet(2, 3, p)
