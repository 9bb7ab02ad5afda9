"""The illustrative problem of the papers: two losses of two variables, with a front that is known."""

from __future__ import annotations

from palora.toy.descent import Descent, descend, options_for, suited
from palora.toy.problem import STARTS, Point, losses, pareto_front, pareto_set

__all__ = ["STARTS", "Descent", "Point", "descend", "losses", "options_for", "pareto_front", "pareto_set", "suited"]
