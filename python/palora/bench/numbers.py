"""Numbers on a command line that argparse reads."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Annotated, Any

from palora_kernels.typed import Range, conform


def between(low: float, high: float, kind: type = float) -> Callable[[str], Any]:
    """For argparse's ``type``: a finite number in low … high."""

    def read(text: str) -> Any:
        try:
            return conform("it", kind(text), Annotated[kind, Range(low, high)])  # type: ignore[valid-type]
        except ValueError as error:
            said = str(error) if "should be" in str(error) else f"it should be a number. Found {text!r}."
            raise argparse.ArgumentTypeError(said) from None

    return read
