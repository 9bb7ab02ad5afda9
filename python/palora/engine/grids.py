"""The rays at which a run is validated and evaluated."""

from __future__ import annotations

from torch import Tensor

from palora.engine.config import RunConfig
from palora.errors import PaloraError
from palora.methods import Method
from palora.rays.grid import grid_size, sarcos_grid

MOST = 100_000  # rays of a validation


def check_against_tasks(method: Method, config: RunConfig) -> None:
    """PaloraError if the grid or the reference point of `config` is not for so many tasks: before any work is done."""
    front = len(method.evaluation_rays(1)) > 1
    if front and config.grid == "lattice" and grid_size(method.tasks, config.divisions) > MOST:
        raise PaloraError(
            f"`divisions` should be smaller: {config.divisions} for {method.tasks} tasks make more than {MOST:,} rays."
        )
    if front and config.grid == "sarcos" and method.tasks != 7:
        raise PaloraError(f"The grid 'sarcos' is for 7 tasks; there are {method.tasks}: use 'lattice'.")
    if config.reference is not None and len(config.reference) != method.tasks:
        raise PaloraError(
            f"`reference` should have a number for each of the {method.tasks} tasks. Found {len(config.reference)}."
        )


def grid_of(method: Method, config: RunConfig) -> Tensor:
    """(K, T): the grid that `config` names for a method that holds a front, its one ray for another.

    "lattice": all multiples of 1/`divisions`. "sarcos": the 100 rays of the seven torques, where a lattice would
    have thousands.
    """
    if config.grid == "lattice" or len(method.evaluation_rays(1)) == 1:
        return method.evaluation_rays(config.divisions)
    check_against_tasks(method, config)
    return sarcos_grid()
