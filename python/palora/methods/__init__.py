"""How a front (or a point) is learnt: one file a method, one registry."""

from __future__ import annotations

from palora.methods.base import Method, NoOptions
from palora.methods.registry import METHODS, build, get, make_options, names, refuse_idle

__all__ = ["METHODS", "Method", "NoOptions", "build", "get", "make_options", "names", "refuse_idle"]
