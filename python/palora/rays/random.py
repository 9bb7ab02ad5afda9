"""The random schedules: preferences drawn from a symmetric Dirichlet distribution."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from palora.rays.checks import number
from palora.rays.schedule import Schedule


def dirichlet(p: float, rays: int, tasks: int, generator: torch.Generator) -> Tensor:
    """(rays, tasks) float64 draws of Dirichlet(p, …, p); p = 0 is its limit, a vertex chosen uniformly.

    Uses Gamma(p) = Gamma(p + 1)·U^{1/p} in logarithms, which stays exact where Gamma(p) itself underflows (p
    = 0.001), and subtracts the row's maximum before dividing by p, so that every row sums to 1 for every p.
    """
    shape = torch.full((rays, tasks), p + 1, dtype=torch.float64)
    gamma = torch._standard_gamma(shape, generator=generator)  # what torch.distributions draws from as well
    uniform = 1 - torch.rand(rays, tasks, dtype=torch.float64, generator=generator)  # in (0, 1]: finite logarithm
    logs = p * gamma.log() + uniform.log()
    if p == 0:
        return torch.nn.functional.one_hot(logs.argmax(1), tasks).double()
    return ((logs - logs.amax(1, keepdim=True)) / p).softmax(1)


class Dirichlet(Schedule):
    """M independent draws of Dirichlet(p·1) in every call, whatever τ is.

    p = 1 is uniform on the simplex, larger p concentrates the rays in the centre, smaller p on the edges, and
    p = 0 draws vertices only.

    Args:
        tasks: T >= 2.
        rays: M >= 1.
        p: concentration, >= 0.
        generator: a CPU generator to draw from. None makes one, seeded from PyTorch's global generator.

    Call it with τ in [0, 1] to get a float32 tensor of shape (M, T). The state is the generator's.
    """

    def __init__(self, tasks: int, rays: int, p: float = 1.0, generator: torch.Generator | None = None) -> None:
        super().__init__(tasks, rays)
        self.p = number("p", p, 0, math.inf, "a finite number >= 0")
        if generator is None:
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        elif generator.device.type != "cpu":
            raise ValueError(f"`generator` should be a CPU generator. Found one on {generator.device}.")
        self.generator = generator

    def _concentration(self, tau: float) -> float:
        return self.p

    def _sample(self, tau: float) -> Tensor:
        return dirichlet(self._concentration(tau), self.rays, self.tasks, self.generator)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(self._value(state, "generator"))


class AnnealedDirichlet(Dirichlet):
    """M independent draws of Dirichlet((p·(1 − τ) + 0.001)·1): vertices only, or nearly so, at the end of
    training.

    Arguments and call are those of :class:`Dirichlet` (the annealed random schedule of the paper's Appendix
    D).
    """

    def _concentration(self, tau: float) -> float:
        return self.p * (1 - tau) + 0.001
