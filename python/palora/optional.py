"""Packages that only parts of palora need: imported where they are needed, and one sentence where they are absent."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import Any

from palora.errors import PaloraError

REQUIREMENTS = {
    "PIL": "pillow>=10",
    "cvxpy": "cvxpy>=1.5",
    "matplotlib": "matplotlib>=3.8",
    "moocore": "moocore>=0.3",
    "onnx": "onnx>=1.16",
    "onnxruntime": "onnxruntime>=1.18",
    "onnxscript": "onnxscript>=0.5",
    "rich": "rich>=13",
    "safetensors": "safetensors>=0.4",
    "scipy": "scipy>=1.11",
    "torchjd": "torchjd>=0.18,<0.19",
    "typer": "typer>=0.17",
}
"""Top-level module → what pip is asked for, as in pyproject.toml. A package, not an extra of palora: that command is
right in a clone, beside an installation and beside none."""


class MissingPackageError(PaloraError, ImportError):
    """A package is needed that cannot be imported. Also an ImportError, for those who catch that."""


def need(module: str, purpose: str) -> Any:
    """Import `module`, of a package in REQUIREMENTS, and return it.

    Raises:
        MissingPackageError: it cannot be imported: "`purpose` needs <package>, …", with the command that installs it.
    """
    package = module.split(".")[0]
    try:
        return _drawing(module) if package == "matplotlib" else importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"{purpose} needs {package}, which cannot be imported here ({error}): "
            f"pip install '{REQUIREMENTS[package]}'."
        ) from error


def _drawing(module: str) -> Any:
    """matplotlib for figures that are saved and never shown, whatever MPLBACKEND says: a notebook hands the name of its
    own backend down to the commands that it starts, where matplotlib may not know it and then cannot be imported."""
    named = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    try:
        found = importlib.import_module(module)
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
    if named:  # what importing matplotlib would have done with it
        with contextlib.suppress(ValueError):
            sys.modules["matplotlib"].rcParams["backend"] = named  # type: ignore[attr-defined]
    return found
