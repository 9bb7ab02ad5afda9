"""PaMaL's multi-forward regularisation: more weight on a task should mean a lower loss on it (Sec. 4.2, Eq. 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Edge = tuple[int, int]


def edges(weights: list[list[float]], task: int) -> list[Edge]:
    """The lexicographic graph of a task: from every node to the next one with strictly more weight on the task.

    `weights`: W nodes, T weights each. Of several next nodes that tie on the task, the first in the order of the
    following tasks' weights is taken (task t, t + 1, …, cyclically). Without ties this is the chain of the nodes
    sorted by their weight on the task, W − 1 edges; the nodes of the largest weight have no edge.
    """

    def order(node: int) -> tuple[float, ...]:
        return (*weights[node][task:], *weights[node][:task])

    found = []
    for i, node in enumerate(weights):
        above = [j for j, other in enumerate(weights) if other[task] > node[task]]
        if above:
            found.append((i, min(above, key=order)))
    return found


def multiforward(losses: Tensor, weights: Tensor, as_released: bool = False) -> Tensor:
    """R = Σ_t log(1/|E_t| Σ_{(i, j) ∈ E_t} exp[violation of (i, j)]₊), a scalar; 0 where nothing is violated.

    An edge (i, j) has λ_it < λ_jt, so that L_t(j) should be the lower loss. The text and Fig. 3 penalise the case
    that it is not: the violation is L_t(j) − L_t(i), which is the default. Eq. 3 as printed, and the authors' code,
    have L_t(i) − L_t(j), which penalises the right order: `as_released`.

    Args:
        losses: (W, T), with their graph.
        weights: (W, T), the weight of every task at each of the W samples.
    """
    nodes = weights.tolist()
    total = losses.new_zeros(())
    for task in range(losses.shape[1]):
        graph = edges(nodes, task)
        if graph:
            i, j = torch.tensor(graph, device=losses.device).T
            difference = losses[j, task] - losses[i, task]
            violation = (-difference if as_released else difference).clamp_min(0)
            total = total + torch.logsumexp(violation, 0) - math.log(len(graph))
    return total
