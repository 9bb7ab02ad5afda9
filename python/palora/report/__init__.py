"""What a run looks like: figures of its fronts."""

from __future__ import annotations

from palora.optional import need

need("matplotlib", "Drawing figures")

from palora.report.curves import convergence_figure, hypervolume_figure
from palora.report.figures import front_figure
from palora.report.parallel import parallel_figure
from palora.report.rays import lattice_figure
from palora.report.scenes import scene_figure
from palora.report.solid import space_figure

__all__ = [
    "convergence_figure",
    "front_figure",
    "hypervolume_figure",
    "lattice_figure",
    "parallel_figure",
    "scene_figure",
    "space_figure",
]
