"""Packages made absent in this process, as if they had never been installed: for programs that tests start."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from typing import Any


def hide(*packages: str) -> None:
    """From now on no import finds `packages` (top-level names), nor does `importlib.util.find_spec`."""

    class Without(importlib.machinery.PathFinder):
        @classmethod
        def find_spec(cls, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
            return None if name.partition(".")[0] in packages else super().find_spec(name, path, target)

    sys.meta_path[:] = [Without if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]
