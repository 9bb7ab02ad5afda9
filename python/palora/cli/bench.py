"""`palora bench`: how fast ours is, beside the authors' way and the plain model."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

PINS = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}


def bench(
    only: Annotated[str | None, typer.Option(metavar="TEXT", help="Only groups whose name has TEXT.")] = None,
    seconds: Annotated[float, typer.Option(help="Seconds to spend on each row.")] = 3.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the rows to FILE.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="OLD NEW", help="Compare two files; measure nothing.")
    ] = None,
) -> None:
    """Time ops, training steps, sweeps and per-request mixing.

    Every row is checked against float64 first; a row that is wrong shows no numbers. Columns run interleaved in one
    process, with threads pinned to cores.
    """
    from palora.bench import table
    from palora.cli.console import say
    from palora.cli.console import table as show

    if compare is not None:
        head = ["", "ours: old / new", "floor: old / new", "ours, less the machine's change"]
        show(head, table.compare(*compare), right=range(1, 4))
        return
    pin_threads()
    import torch

    from palora.bench import layers, models, ops
    from palora.engine.environment import describe
    from palora.engine.memory import keep_freed_memory
    from palora.engine.setup import pick_device

    place = pick_device(device)
    keep_freed_memory()
    header = {**describe(), "pins": {name: os.environ.get(name) for name in PINS}, "device": str(place)}
    say(f"{header['processor']}, {header['threads']} threads, torch {header['torch']}, {place}, float32")
    say("One process, columns interleaved; ratios are of minima and hold for an idle machine.")
    rows = []
    cases = [*ops.cases(place, torch.float32), *layers.cases(place), *models.cases(place)]
    for group in dict.fromkeys(group for group, _ in cases):
        if only and only not in group:
            continue
        found = [table.measured(group, make, seconds) for its, make in cases if its == group]
        say(f"\n{group}")
        show(table.HEADINGS, [table.cells(row) for row in found], right=range(2, len(table.HEADINGS)))
        rows += found
    if json is not None:
        table.save(json, header, rows)
    if any(not row.correct for row in rows):
        print("palora: some rows are wrong, see above.", file=sys.stderr)
        raise typer.Exit(1)


def pin_threads() -> None:
    """Start this process again with threads pinned: OpenMP reads these variables once, before the first import."""
    if all(name in os.environ for name in PINS):
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **PINS})
