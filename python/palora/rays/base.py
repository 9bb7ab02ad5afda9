"""The base rays λ̃ of the deterministic schedules: spread over the simplex, with every task weighted alike.

A set of rays that is closed under cyclic permutation of the tasks gives all tasks the same total weight, and
keeps doing so when every ray is annealed, because annealing treats all tasks alike. Such sets are built from
*orbits*: a point of the regular grid and its T − 1 rotations. M = k·T + R rays are k orbits and a remainder
of R < T rays.

For the remainder Eq. 3 alone is not enough. As the exponent grows, an annealed ray tends to the uniform
preference over its k largest entries. If totals are equal, each is then M/T = a sum of fractions 1/k with k
<= T; for a prime T that does not divide M some k must be T, so that ray is the centre; leave it out and
repeat: at least R rays are the centre. To spread them out nevertheless, the remainder is a *fair division* of
one more orbit: its T annealed points, a weight of R/T each, are dealt out to R rays, and every ray is the
average of its share. Totals then stay equal at every exponent. R = 1 gives the centre itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from math import comb

import torch
from torch import Tensor

from palora.rays.grid import lattice

Point = tuple[int, ...]


@dataclass(frozen=True)
class BaseRays:
    """M base rays. The first M − R are `points`; the last R are `shares` @ `orbit` (both None if R = 0)."""

    points: Tensor  # (M − R, T) float64, before smoothing
    orbit: Tensor | None = None  # (T, T) float64: the orbit that the remainder divides
    shares: Tensor | None = None  # (R, T) float64: rows sum to 1, columns to R/T


def base_rays(tasks: int, rays: int) -> BaseRays:
    """`rays` base rays for `tasks` tasks.

    The whole regular grid where it has exactly `rays` points (always so for two tasks: linspace(1, 0, M));
    otherwise the vertices and further orbits of a regular grid, each chosen as far as possible from those
    already there, in lexicographic order with the first coordinate descending, and then the remainder.
    """
    divisions = _divisions_of_whole_grid(tasks, rays)
    if divisions is not None:
        return BaseRays(_on_simplex(list(lattice(tasks, divisions))))
    whole_orbits, remainder = divmod(rays, tasks)
    if remainder == 1:  # the fair division of an orbit into one share is the centre: say so without rounding
        points = [point for orbit in _spread_orbits(tasks, whole_orbits) for point in orbit]
        return BaseRays(torch.cat([_on_simplex(sorted(points, reverse=True), tasks), _centre(tasks)]))
    orbits = _spread_orbits(tasks, whole_orbits + (remainder > 0))
    points = sorted((point for orbit in orbits[:whole_orbits] for point in orbit), reverse=True)
    if not remainder:
        return BaseRays(_on_simplex(points, tasks))
    return BaseRays(_on_simplex(points, tasks), _on_simplex(orbits[-1]), _fair_shares(tasks, remainder))


def _divisions_of_whole_grid(tasks: int, rays: int) -> int | None:
    for divisions in count(1):
        size = comb(divisions + tasks - 1, tasks - 1)
        if size >= rays:
            return divisions if size == rays else None
    raise AssertionError  # count() does not end


def _spread_orbits(tasks: int, wanted: int) -> list[list[Point]]:
    """`wanted` full orbits of the coarsest grid that has that many: the vertices, then farthest first."""
    if wanted == 0:
        return []
    for divisions in count(1):
        candidates = _full_orbits(tasks, divisions)
        if len(candidates) >= wanted:
            break
    # By symmetry one representative of an orbit sees the distance of all. Integers: no rounding, true ties.
    representatives = torch.tensor([orbit[0] for orbit in candidates])  # (candidates, T)
    chosen, nearest = [0], torch.full((len(candidates),), torch.iinfo(torch.int64).max)
    while len(chosen) < wanted:
        newest = torch.tensor(candidates[chosen[-1]])  # (T, T)
        gaps = (representatives[:, None, :] - newest).square().sum(-1)  # (candidates, T)
        nearest = torch.minimum(nearest, gaps.min(1).values)
        chosen.append(max(range(len(candidates)), key=lambda i: int(nearest[i])))
    return [candidates[i] for i in chosen]


def _full_orbits(tasks: int, divisions: int) -> list[list[Point]]:
    """The orbits with T distinct points under rotation of the tasks; the vertices come first."""
    orbits = []
    for point in lattice(tasks, divisions):
        rotations = [point[-shift:] + point[:-shift] for shift in range(tasks)]
        if point == max(rotations) and len(set(rotations)) == tasks:
            orbits.append(rotations)
    return orbits


def _fair_shares(tasks: int, rays: int) -> Tensor:
    """Cut the T points of an orbit, laid end to end, into `rays` equal lengths: shares (rays, T)."""
    edges = torch.arange(rays + 1, dtype=torch.float64) * tasks / rays
    points = torch.arange(tasks, dtype=torch.float64)
    left, right = torch.maximum(edges[:-1, None], points), torch.minimum(edges[1:, None], points + 1)
    return (right - left).clamp_min(0) * rays / tasks


def _on_simplex(points: list[Point], tasks: int = 0) -> Tensor:
    counts = torch.tensor(points, dtype=torch.float64).reshape(len(points), -1 if points else tasks)
    return counts / counts.sum(1, keepdim=True)


def _centre(tasks: int) -> Tensor:
    return torch.full((1, tasks), 1 / tasks, dtype=torch.float64)
