"""`palora report`: one page on one or several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Evaluated run folders, of the same tasks.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the page goes (else report.html beside the runs).")
    ] = None,
    samples: Annotated[
        bool, typer.Option("--samples/--no-samples", help="With inputs of the data set and what the models answer.")
    ] = True,
) -> None:
    """Write one self-contained HTML page: the fronts under a dial, answers, comparison, training, settings.

    Pages with samples hold pictures of the data set: mind its licence before you publish one.
    """
    from palora.cli.console import say
    from palora.report.page import write_page

    path = write_page(runs, out, samples)
    say(f"{'page':<20} {path} ({path.stat().st_size / 1e6:.1f} MB; open it in a browser)")
