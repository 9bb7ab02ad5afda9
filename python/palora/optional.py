"""Packages that only parts of palora need: imported where they are needed, and one sentence where they are absent."""

from __future__ import annotations

import importlib
from typing import Any

from palora.errors import PaloraError

REQUIREMENTS = {
    "PIL": "pillow>=10",
    "cvxpy": "cvxpy>=1.5",
    "matplotlib": "matplotlib>=3.8",
    "moocore": "moocore>=0.3",
    "rich": "rich>=13",
    "safetensors": "safetensors>=0.4",
    "scipy": "scipy>=1.11",
    "torchjd": "torchjd>=0.18,<0.19",
    "typer": "typer>=0.12",
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
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"{purpose} needs {package}, which cannot be imported here ({error}): "
            f"pip install '{REQUIREMENTS[package]}'."
        ) from error
