"""Regular grids on the simplex."""

from __future__ import annotations

import itertools
from math import comb

import pytest
import torch

from palora.rays import fixed_rays, interior_grid, sarcos_grid, simplex_grid


@pytest.mark.parametrize("tasks, divisions", [(1, 4), (2, 1), (2, 10), (3, 10), (4, 5), (7, 3)])
def test_grid_is_every_multiple_of_one_over_divisions(tasks: int, divisions: int) -> None:
    expected = {c for c in itertools.product(range(divisions + 1), repeat=tasks) if sum(c) == divisions}
    grid = simplex_grid(tasks, divisions)
    assert len(grid) == comb(divisions + tasks - 1, tasks - 1) == len(expected)
    assert {tuple(row) for row in (grid * divisions).round().int().tolist()} == expected
    assert grid.dtype == torch.float32
    torch.testing.assert_close(grid.sum(1), torch.ones(len(grid)), atol=1e-7, rtol=0)


def test_rows_descend_lexicographically() -> None:
    rows = simplex_grid(4, 6).tolist()
    assert rows == sorted(rows, reverse=True)
    two = simplex_grid(2, 10)
    torch.testing.assert_close(two[:, 0], torch.linspace(1, 0, 11), atol=1e-7, rtol=0)
    assert two[0].tolist() == [1, 0]
    assert two[-1].tolist() == [0, 1]


def test_published_counts() -> None:
    assert len(simplex_grid(2, 10)) == 11
    assert len(simplex_grid(3, 10)) == 66
    assert len(interior_grid(7, 11)) == 210
    assert len(sarcos_grid()) == 100


@pytest.mark.parametrize("tasks, divisions", [(2, 2), (2, 5), (3, 3), (3, 7), (7, 11)])
def test_interior_grid_is_the_grid_without_its_boundary(tasks: int, divisions: int) -> None:
    grid = simplex_grid(tasks, divisions)
    torch.testing.assert_close(interior_grid(tasks, divisions), grid[(grid > 0).all(1)])


def test_sarcos_grid_takes_every_second_point_in_ascending_order() -> None:
    ascending = sorted(c for c in itertools.product(range(1, 6), repeat=7) if sum(c) == 11)
    torch.testing.assert_close(sarcos_grid(), torch.tensor(ascending[5:-5:2]) / 11)


def test_fixed_rays_are_the_vertices_and_the_centre() -> None:
    assert fixed_rays(2).tolist() == [[1, 0], [0, 1], [0.5, 0.5]]


@pytest.mark.parametrize("tasks, divisions, error", [(0, 3, ValueError), (3, 0, ValueError), (2, 1.5, TypeError)])
def test_bad_arguments(tasks: int, divisions: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"should be an integer >= 1\. Found"):
        simplex_grid(tasks, divisions)


def test_interior_needs_as_many_divisions_as_tasks() -> None:
    with pytest.raises(ValueError, match="`divisions` should be an integer >= 3"):
        interior_grid(3, 2)
