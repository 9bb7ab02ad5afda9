"""Packages made absent in this process, as if they had never been installed: for programs that tests start."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import BuiltinImporter, ModuleSpec, PathFinder
from typing import Any


def hide(*packages: str) -> None:
    """From now on no import finds `packages` (top-level names), nor does `importlib.util.find_spec`."""

    def without(finder: Any) -> Any:
        def find_spec(name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
            found: ModuleSpec | None = finder.find_spec(name, path, target)
            return None if name.partition(".")[0] in packages else found

        return type("Without", (finder,), {"find_spec": staticmethod(find_spec)})

    ours = (BuiltinImporter, PathFinder)
    sys.meta_path[:] = [without(finder) if finder in ours else finder for finder in sys.meta_path]
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]
