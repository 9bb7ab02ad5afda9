"""PaMaL's regulariser on graphs worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from palora.methods.multiforward import edges, multiforward


def test_without_ties_the_graph_is_the_sorted_chain() -> None:
    weights = [[0.5, 0.5], [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]]
    assert set(edges(weights, 0)) == {(2, 0), (0, 3), (3, 1)}
    assert set(edges(weights, 1)) == {(1, 3), (3, 0), (0, 2)}


def test_ties_take_the_next_strictly_larger_node_in_lexicographic_order() -> None:
    # On task 0: 0.2 twice, then 0.4 twice. Of the two nodes at 0.4, the one with less weight on task 1 comes first.
    weights = [[0.2, 0.3, 0.5], [0.4, 0.5, 0.1], [0.2, 0.6, 0.2], [0.4, 0.1, 0.5]]
    assert set(edges(weights, 0)) == {(0, 3), (2, 3)}
    # On task 2: 0.1 < 0.2 < 0.5 twice; after task 2 comes task 0, where node 0 has less weight.
    assert set(edges(weights, 2)) == {(1, 2), (2, 0)}
    assert edges([[1.0, 0.0], [1.0, 0.0]], 0) == []


def test_the_right_order_costs_nothing_and_the_wrong_one_does() -> None:
    weights = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
    right = torch.tensor([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
    assert multiforward(right, weights).item() == pytest.approx(0.0, abs=1e-7)
    # Task 0: edges (2, 1), (1, 0); L_0 falls by 1 along each. As released, just that is penalised: log e = 1 a task.
    assert multiforward(right, weights, as_released=True).item() == pytest.approx(2.0, rel=1e-6)


def test_figure_three_of_the_paper() -> None:
    """Five samples; on task 0 the second is worse than the third, on task 1 the fourth is."""
    first = torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1])
    weights = torch.stack([first, 1 - first], 1)
    losses = torch.tensor([[1.0, 5.0], [3.5, 4.0], [3.0, 3.0], [4.0, 3.25], [5.0, 1.0]])
    # Task 0: violations 0.5 on the edge (third, second), none on the other three. Task 1: 0.25 on (third, fourth).
    expected = math.log((math.exp(0.5) + 3) / 4) + math.log((math.exp(0.25) + 3) / 4)
    assert multiforward(losses, weights).item() == pytest.approx(expected, rel=1e-6)
    shuffled = torch.tensor([3, 0, 4, 2, 1])
    assert multiforward(losses[shuffled], weights[shuffled]).item() == pytest.approx(expected, rel=1e-6)


def test_the_gradient_pulls_apart_what_is_in_the_wrong_order() -> None:
    weights = torch.tensor([[0.8, 0.2], [0.2, 0.8]])
    losses = torch.tensor([[2.0, 1.0], [1.0, 1.5]], requires_grad=True)
    multiforward(losses, weights).backward()
    # log exp(v) = v: task 0, edge (1, 0), v = 2 − 1; task 1, edge (0, 1), v = 1.5 − 1.
    torch.testing.assert_close(losses.grad, torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))


def test_one_sample_has_nothing_to_compare() -> None:
    losses = torch.rand(1, 3, requires_grad=True)
    assert multiforward(losses, torch.full((1, 3), 1 / 3)).item() == 0
