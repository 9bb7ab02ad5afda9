"""Hypervolume, dominance and monotonicity against definitions computed another way."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from palora.evaluation import hypervolume, monotonicity, nondominated


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


def front_by_definition(points: np.ndarray) -> list[bool]:
    return [not any(dominates(other, point) for other in points) for point in points]


def volume_by_inclusion_exclusion(points: np.ndarray, reference: np.ndarray) -> float:
    """The union of the boxes between each point and the reference."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for subset in itertools.combinations(points, size):
            box = np.clip(reference - np.max(subset, axis=0), 0, None)
            total += (-1) ** (size + 1) * float(np.prod(box))
    return total


@pytest.mark.parametrize("objectives", [1, 2, 3, 4, 5, 7, 10])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.needs("moocore")
def test_hypervolume_is_the_volume_of_the_union(objectives: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    points = random.uniform(0, 1.3, (8, objectives))  # some lie beyond the reference in some objective
    reference = random.uniform(0.9, 1.2, objectives)
    expected = volume_by_inclusion_exclusion(points, reference)
    assert hypervolume(points, reference) == pytest.approx(expected, abs=1e-12)
    assert hypervolume(torch.from_numpy(points), torch.from_numpy(reference)) == pytest.approx(expected, abs=1e-12)
    assert hypervolume(5 - points, 5 - reference, maximise=True) == pytest.approx(expected, abs=1e-12)


@pytest.mark.needs("moocore")
def test_hypervolume_by_hand() -> None:
    assert hypervolume([[0.25, 0.5], [0.5, 0.25]], 1.0) == pytest.approx(0.375 + 0.125)
    assert hypervolume([[0.9, 0.8]], [0, 0], maximise=True) == pytest.approx(0.72)
    assert hypervolume([[0.9, 0.8], [0.8, 0.9]], [0.0, 0.0], maximise=True) == pytest.approx(0.72 + 0.08)


@pytest.mark.needs("moocore")
def test_hypervolume_of_points_without_volume() -> None:
    assert hypervolume([], 1.0) == 0.0
    assert hypervolume(torch.empty(0, 3), [1, 1, 1]) == 0.0
    assert hypervolume([[2.0, 2.0]], 1.0) == 0.0
    assert hypervolume([[0.5, 1.0]], 1.0) == 0.0  # on the boundary
    assert hypervolume([[0.5, 2.0], [0.5, 0.5]], 1.0) == pytest.approx(0.25)


@pytest.mark.needs("moocore")
def test_hypervolume_ignores_order_copies_and_dominated_points() -> None:
    points = torch.rand(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value = hypervolume(points, 1.0)
    more = torch.cat([points, points, points + 0.01]).flip(0)
    assert hypervolume(more, 1.0) == pytest.approx(value, rel=1e-12)


@pytest.mark.needs("moocore")
def test_hypervolume_of_a_hundred_points_in_seven_dimensions() -> None:
    points = torch.rand(100, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = points / points.sum(1, keepdim=True)  # nothing is dominated: the hardest case
    reference = torch.tensor([0.4, 0.5, 0.3, 0.4, 0.3, 0.4, 0.4], dtype=torch.float64)
    unit = torch.rand(40_000, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    chunks = (unit * reference).split(2000)
    covered = sum((chunk[:, None] >= points).all(2).any(1).sum().item() for chunk in chunks) / 40_000
    assert 0.2 < covered < 0.8
    assert hypervolume(points, reference) == pytest.approx(covered * reference.prod().item(), rel=0.03)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("seed", range(5))
def test_nondominated_follows_the_definition(objectives: int, seed: int) -> None:
    # Few distinct values: many ties and copies.
    points = np.random.default_rng(seed).integers(0, 4, (40, objectives)).astype(float)
    assert nondominated(points).tolist() == front_by_definition(points)
    assert nondominated(torch.from_numpy(points), maximise=True).tolist() == front_by_definition(-points)


@pytest.mark.parametrize("levels", [5, 40, 10**6], ids=["many ties", "some ties", "no ties"])
def test_nondominated_of_more_points_than_a_block_holds(levels: int) -> None:
    """Near a sphere, so that hundreds are on the front and each block has rivals in the others."""
    rng = np.random.default_rng(levels)
    points = np.abs(rng.normal(size=(700, 3)))
    points *= rng.uniform(1.0, 1.02, size=(700, 1)) / np.linalg.norm(points, axis=1, keepdims=True)
    points = np.round(points * levels)
    better = [((points <= p).all(1) & (points < p).any(1)).any() for p in points]
    mask = nondominated(points)
    assert mask.tolist() == [not b for b in better]
    assert levels < 100 or int(mask.sum()) > 256


def test_copies_of_a_nondominated_point_all_count() -> None:
    mask = nondominated([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    assert mask.dtype == torch.bool
    assert mask.tolist() == [True, True, True, False, False]
    assert nondominated([]).shape == (0,)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_points_that_are_not_finite(bad: float) -> None:
    points = [[0.5, 0.5], [0.1, bad]]
    with pytest.raises(ValueError, match=r"`points` should be finite numbers. Found .* at index \[1, 1\]"):
        hypervolume(points, 1.0)
    with pytest.raises(ValueError, match="`points` should be finite"):
        nondominated(points)
    with pytest.raises(ValueError, match="`reference` should be finite"):
        hypervolume([[0.5]], bad)


def test_shapes_that_do_not_match() -> None:
    with pytest.raises(ValueError, match=r"`points` should have shape \(points, objectives\)"):
        hypervolume([0.1, 0.2], 1.0)
    with pytest.raises(ValueError, match="one for each of the 2 columns"):
        hypervolume([[0.1, 0.2]], [1.0, 1.0, 1.0])
    with pytest.raises(TypeError, match="rectangular"):
        nondominated([[1.0], [1.0, 2.0]])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tasks", [2, 3, 7])
def test_monotonicity_is_spearman(tasks: int, seed: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(seed)
    rays = random.integers(0, 5, (30, tasks)) / 4  # with ties
    losses = random.integers(0, 9, (30, tasks)) / 8 - 0.5 * rays
    expected = [stats.spearmanr(rays[:, t], losses[:, t]).statistic for t in range(tasks)]
    found = monotonicity(torch.from_numpy(rays), torch.from_numpy(losses))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_monotonicity_of_perfect_orders_and_constants() -> None:
    first = torch.linspace(0, 1, 11)
    rays = torch.stack([first, 1 - first], 1)
    assert monotonicity(rays, (-rays).exp()).tolist() == [-1.0, -1.0]
    assert monotonicity(rays, rays**3).tolist() == [1.0, 1.0]
    mixed = monotonicity(rays, torch.stack([torch.ones(11), first], 1))
    assert math.isnan(mixed[0])
    assert mixed[1] == -1.0
    assert monotonicity(rays[:1], rays[:1]).isnan().all()
    assert monotonicity(rays[:0], rays[:0]).isnan().all()


def test_monotonicity_of_bad_input() -> None:
    with pytest.raises(ValueError, match="same shape"):
        monotonicity(torch.rand(3, 2), torch.rand(2, 3))
    with pytest.raises(ValueError, match="NaN"):
        monotonicity(torch.rand(3, 2), torch.full((3, 2), math.nan))
