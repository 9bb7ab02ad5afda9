"""The rays at which a run is validated and evaluated."""

from __future__ import annotations

from torch import Tensor

from palora.engine.config import RunConfig
from palora.errors import PaloraError
from palora.methods import Method
from palora.rays.grid import sarcos_grid


def grid_of(method: Method, config: RunConfig) -> Tensor:
    """(K, T): the grid that `config` names for a method that holds a front, its one ray for another.

    "lattice": all multiples of 1/`divisions`. "sarcos": the 100 rays of the seven torques, where a lattice would
    have thousands.
    """
    if config.grid == "lattice" or len(method.evaluation_rays(1)) == 1:
        return method.evaluation_rays(config.divisions)
    if method.tasks != 7:
        raise PaloraError(f"The grid 'sarcos' is for 7 tasks; there are {method.tasks}: use 'lattice'.")
    return sarcos_grid()
