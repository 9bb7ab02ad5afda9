"""The deterministic schedules of PaLoRA (Eq. 3): annealed from the centre outwards, or fixed."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from palora.rays.base import base_rays
from palora.rays.checks import number, whole
from palora.rays.schedule import Schedule

EXPONENTS = ("product", "quotient")


def anneal(rays: Tensor, exponent: float) -> Tensor:
    """λ_t^e / Σ_s λ_s^e for every row of `rays` (Eq. 3), where 0^0 counts as 1: at e = 0 each row is the
    centre.

    Computed as a softmax of logarithms whose maximum is 0, so that no exponent, however large, overflows or
    leaves a row without weight.
    """
    if exponent == 0:
        return torch.full_like(rays, 1 / rays.shape[-1])
    logs = rays.log()
    return ((logs - logs.amax(-1, keepdim=True)) * exponent).softmax(-1)


class _Deterministic(Schedule):
    """Smoothed base rays, an exponent for every τ, and the rotation of the rays that do not fit."""

    most_tasks, most_rays = 64, 1024  # the search for spread rays takes T³ and M² steps

    def __init__(self, tasks: int, rays: int, temperature: float, epsilon: float) -> None:
        super().__init__(tasks, rays)
        self.temperature = number("temperature", temperature, math.ulp(0.0), math.inf, "a finite number > 0")
        largest = math.nextafter(1 / self.tasks, 0)
        interval = f"a number >= 0 and < 1/tasks = {1 / self.tasks:.4g}, or no ray but the centre is left"
        self.epsilon = number("epsilon", epsilon, 0, largest, interval)
        base = base_rays(self.tasks, self.rays)
        self._points = self._smooth(base.points)
        self._orbit = None if base.orbit is None else self._smooth(base.orbit)
        self._shares = base.shares
        self._calls = 0

    def _smooth(self, points: Tensor) -> Tensor:
        return (1 - self.tasks * self.epsilon) * points + self.epsilon

    @abstractmethod
    def _exponent(self, tau: float) -> float:
        """The exponent e of Eq. 3."""

    def _sample(self, tau: float) -> Tensor:
        exponent = self._exponent(tau)
        rays = anneal(self._points, exponent)
        if self._orbit is not None and self._shares is not None:
            remainder = self._shares @ anneal(self._orbit, exponent)
            rays = torch.cat([rays, remainder.roll(self._calls % self.tasks, dims=1)])
        self._calls += 1
        return rays

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self._calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._calls = whole("state['calls']", self._value(state, "calls"), 0)


class Annealed(_Deterministic):
    """The paper's schedule: rays that start in the centre of the simplex and move outwards (Eq. 3, Sec. 4.2).

    λ_m(τ) = λ̃_m^e / Σ_t λ̃_{m,t}^e, with exponent e = Q·τ for ``exponent="product"`` and e = τ/Q for
    ``exponent="quotient"``, where Q is `temperature`. Eq. 3 prints τ/Q, but the paper's Fig. 8 finds that
    higher temperatures give larger fronts and its authors' code multiplies, so "product" is the default.

    **Base rays.** Two tasks: linspace(1, 0, M) for the first task, so the rays run from task 1 to task 2.
    More tasks: the regular triangular grid where M is its size (3, 6, 10, 15 … rays for three tasks),
    otherwise the vertices and further grid points, always together with their rotations. Every λ̃ is then
    smoothed to (1 − Tε)·λ̃ + ε, because an exact zero stays zero under every exponent but 0; for M = 5, T = 2
    and ε = 0.01 that is linspace(0.99, 0.01, 5).

    **Equal weights.** Σ_m λ_{m,t} = M/T for every task, at every τ and in every call, for every M and T.
    Where M is the size of a regular grid or R = M mod T is 0 or 1 (then one ray is the centre, as is the only
    ray of M = 1), every ray follows Eq. 3 exactly. Otherwise R rays do not fit: for a prime T, equal weights
    under Eq. 3 alone would put all R of them into the centre. The last R rays are then averages of annealed
    rays instead (:mod:`palora.rays.base`): interior points, each favouring a few tasks, that rotate by one
    task with every call, so that over T calls every task takes every role.

    Args:
        tasks: T >= 2.
        rays: M >= 1.
        temperature: Q > 0.
        epsilon: smoothing, 0 <= ε < 1/T. With 0, and for τ > 0, zeros stay zeros.
        exponent: "product" or "quotient".

    Call it with τ in [0, 1] to get a float32 tensor of shape (M, T).
    """

    def __init__(
        self,
        tasks: int,
        rays: int,
        temperature: float = 5.0,
        epsilon: float = 0.01,
        exponent: str = "product",
    ) -> None:
        super().__init__(tasks, rays, temperature, epsilon)
        if exponent not in EXPONENTS:
            raise ValueError(f"`exponent` should be 'product' (Q·τ) or 'quotient' (τ/Q). Found {exponent!r}.")
        self.exponent = exponent

    def _exponent(self, tau: float) -> float:
        return self.temperature * tau if self.exponent == "product" else tau / self.temperature


class Fixed(_Deterministic):
    """The same rays at every τ: :class:`Annealed` without annealing (the paper's ablation, Appendix D).

    λ_m = λ̃_m^Q / Σ_t λ̃_{m,t}^Q with Q = `temperature`; the default of 1 leaves the smoothed base rays as
    they are. Base rays, smoothing, equal weights and the rotation of rays that do not fit are those of
    :class:`Annealed`.

    Args:
        tasks: T >= 2.
        rays: M >= 1.
        epsilon: smoothing, 0 <= ε < 1/T.
        temperature: Q > 0; the ablation uses 1, 2 and 5.

    Call it with τ in [0, 1] to get a float32 tensor of shape (M, T).
    """

    def __init__(self, tasks: int, rays: int, epsilon: float = 0.01, temperature: float = 1.0) -> None:
        super().__init__(tasks, rays, temperature, epsilon)

    def _exponent(self, tau: float) -> float:
        return self.temperature
