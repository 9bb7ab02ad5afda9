"""Figures as files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from palora.report import style
from palora.report.figures import FORMATS
from palora.report.figures import save as write

Where = str | os.PathLike[str] | None


@contextmanager
def styled(path: Where) -> Iterator[Callable[[Figure], Figure]]:
    """Within, figures have the house style; the function that it gives saves one to `path` and returns it.

    ValueError at once for a `path` of another format than .pdf, .png and .svg; None: saved nowhere.
    """
    target = None if path is None else Path(path)
    if target is not None and target.suffix.lower() not in FORMATS:
        raise ValueError(f"`path` should end in {', '.join(FORMATS)}. Found {os.fspath(target)!r}.")

    def save(figure: Figure) -> Figure:
        if target is not None:
            write(figure, target)
        return figure

    with matplotlib.rc_context(style.RC):
        yield save
