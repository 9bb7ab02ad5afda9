"""Packages that only some methods need: the extra `methods`."""

from __future__ import annotations

import importlib
from typing import Any

from palora.errors import PaloraError


def need(method: str, module: str) -> Any:
    """Import `module` for `method`; where it is missing, a PaloraError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise PaloraError(
            f"The method '{method}' needs {package}, which is not installed here ({error}): "
            "pip install 'palora[methods]'."
        ) from error
