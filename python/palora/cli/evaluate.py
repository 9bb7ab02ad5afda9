"""`palora evaluate`: the front of a finished, or stopped, run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    checkpoint: Annotated[str, typer.Option(help="last, or best by validation hypervolume.")] = "last",
    pseudo: Annotated[
        bool, typer.Option("--pseudo", help="Also weights outside the simplex: what each adapter holds.")
    ] = False,
    data: Annotated[str | None, typer.Option(metavar="DIR", help="Data folder (else as trained).")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, … (else as trained).")] = None,
    control: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Run to show as a point (default: those beside RUN that fit)."),
    ] = None,
) -> None:
    """Evaluate the run RUN on a grid of rays: front.json, front.png, front.pdf, and the numbers."""
    from palora.cli.pipes import outlive_reader
    from palora.cli.results import finish

    outlive_reader()
    finish(run, control or [], pseudo, split=split, checkpoint=checkpoint, data=data, device=device)
