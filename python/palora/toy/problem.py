"""Two losses of θ ∈ ℝ² and their Pareto front (PaMaL paper, Appendix C; after Yu et al., 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from palora.models.base import MultiTaskModel

STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
"""Where the papers start from."""

SMALLEST = 5e-6
"""What the arguments of the logarithms are kept above."""


def losses(theta: Tensor, scale: float = 1.0) -> Tensor:
    """ℓ(θ), (…, 2) → (…, 2): ℓ_1 = c(c_1 f_1 + c_2 g_1) and ℓ_2 = c_1 f_2 + c_2 g_2, with c = `scale`.

    f rules where θ_2 > 0, a steep valley for each task; g where θ_2 < 0, a paraboloid for each, around (±7, −8).
    c = 1 is the problem with equal scales, c = 0.1 the one that asks for balancing.
    """
    x, y = theta.unbind(-1)
    valley_1 = 0.5 * (-x - 7) - torch.tanh(-y)
    valley_2 = 0.5 * (-x + 3) - torch.tanh(-y) + 2
    f_1, f_2 = (valley.abs().clamp(min=SMALLEST).log() + 6 for valley in (valley_1, valley_2))
    g_1, g_2 = ((side.square() + 0.1 * (y + 8).square()) / 10 - 20 for side in (x - 7, x + 7))
    c_1, c_2 = torch.tanh(0.5 * y).clamp(min=0), torch.tanh(-0.5 * y).clamp(min=0)
    return torch.stack([scale * (c_1 * f_1 + c_2 * g_1), c_1 * f_2 + c_2 * g_2], dim=-1)


def pareto_set(points: int = 201) -> Tensor:
    """The Pareto-optimal θ, (points, 2) float64, from the best for task 2 to the best for task 1.

    All have θ_2 < 0, where both losses are tanh(−θ_2/2) (square(θ_1 ∓ 7)/10 + square(θ_2 + 8)/100 − 20). With
    weight w on task 1 the derivative in θ_1 vanishes at θ_1 = 7(2w − 1), whatever θ_2; what is left is an
    equation in θ_2, solved by Newton's method from −8. The set does not depend on the scale c.
    """
    w = torch.linspace(0, 1, points, dtype=torch.float64)
    x = 7 * (2 * w - 1)
    floor = (w * (x - 7).square() + (1 - w) * (x + 7).square()) / 10 - 20
    y = torch.full_like(x, -8.0)
    for _ in range(20):
        t, bowl = torch.tanh(-y / 2), floor + (y + 8).square() / 100
        t_y, bowl_y = -(1 - t.square()) / 2, (y + 8) / 50
        t_yy = t * (1 - t.square()) / -2
        slope = t_y * bowl + t * bowl_y
        curvature = t_yy * bowl + 2 * t_y * bowl_y + t / 50
        y = y - slope / curvature
    return torch.stack([x, y], dim=1)


def pareto_front(scale: float = 1.0, points: int = 201) -> Tensor:
    """The losses of :func:`pareto_set`, (points, 2) float64."""
    return losses(pareto_set(points), scale)


class Point(MultiTaskModel):
    """θ as a model: a linear layer 1 → 2 without bias, fed with ones, whose weight is θ; both tasks see it.

    Input (n, 1); output two tensors (n, 2). Adapters, weight ensembles and task gradients work as in any model.
    """

    def __init__(self, start: tuple[float, float]) -> None:
        super().__init__(nn.Sequential(nn.Linear(1, 2, bias=False)), [nn.Identity(), nn.Identity()])
        self.start = start
        self._go_to(start)

    def reset_parameters(self) -> None:
        """Go to the next of STARTS: where the second member of an ensemble begins."""
        known = self.start in STARTS
        self._go_to(STARTS[(STARTS.index(self.start) + 1) % len(STARTS)] if known else STARTS[0])

    def _go_to(self, theta: tuple[float, float]) -> None:
        self.start = theta
        with torch.no_grad():
            self.last_shared_layer.get_parameter("weight").copy_(torch.tensor(theta).unsqueeze(1))

    @property
    def last_shared_layer(self) -> nn.Module:
        return self.trunk.get_submodule("0")
