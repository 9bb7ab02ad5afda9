"""`palora data`: what data there is, and how to get the rest."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None, help="List data sets, get them.")

Where = Annotated[str | None, typer.Option(metavar="DIR", help="Data folder (default: PALORA_DATA).")]


@app.command("list")
def list_data(data: Where = None) -> None:
    """List the data sets: what each needs, and whether it is there."""
    from palora.cli.console import table
    from palora.data import describe

    rows = [
        [row.name, "present" if row.present else "missing", row.needs, row.size, row.licence, row.where]
        for row in describe(data)
    ]
    table(["name", "", "needs", "size", "licence", "where"], rows)


@app.command("prepare")
def prepare(name: Annotated[str, typer.Argument(help="A name of `palora data list`.")], data: Where = None) -> None:
    """Download and build what NAME needs, unless it is there."""
    from palora.cli.console import say
    from palora.cli.pipes import outlive_reader
    from palora.data import prepare as prepare_data

    outlive_reader()
    place = prepare_data(name, data, Steps())
    say(f"{name} is ready: {place}")


class Steps:
    """Progress of a download or a build: a running line on a terminal; elsewhere a line when one begins."""

    def __init__(self) -> None:
        self.what = ""

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """`what` has come to `done` of `total`."""
        if sys.stderr.isatty():
            amount = f"{done:,}" if total is None else f"{100 * done // max(total, 1)} %"
            end = "\n" if total is not None and done >= total else ""
            print(f"\r{what}: {amount}\033[K", end=end, file=sys.stderr, flush=True)
        elif what != self.what:
            print(f"{what} …", file=sys.stderr, flush=True)
        self.what = what
