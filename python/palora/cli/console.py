"""Where commands print: rich on a terminal, plain text elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from palora.optional import need

if TYPE_CHECKING:
    from rich.console import Console


@cache
def console() -> Console:
    """Standard output. Where it is no terminal: no colours, and no line is folded."""
    found: Console = need("rich.console", "The progress of a run").Console(soft_wrap=True)
    return found


def say(text: str = "") -> None:
    """Print a line as it is."""
    print(text, flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print aligned columns under `head` (nothing if it is empty), those in `right` (indices) flush right."""
    lines = [head, *rows] if any(head) else list(rows)
    widths = [max((len(row[i]) for row in lines), default=0) for i in range(len(head))]
    for row in lines:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        say("  ".join(cells).rstrip())
