"""The entry point: runs a command, and turns every error into one sentence and an exit status."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from itertools import takewhile
from typing import Annotated, Any

import typer

import palora
from palora.cli import ablate, bench, data, doctor, evaluate, recipes, toy, train
from palora.cli.pipes import READER_LEFT, ReaderLeft, guarded
from palora.errors import PaloraError

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``palora`` with `arguments` (default: those of the process); returns the exit status.

    0: done; 1: it failed, the reason is on stderr; 2: the command line was wrong; 130: stopped by Ctrl-C or
    SIGTERM; 141: whoever read the output has left. What writes files goes on without a reader.
    """
    try:
        with guarded():
            return run(arguments)
    except ReaderLeft:
        return READER_LEFT


def run(arguments: Sequence[str] | None) -> int:
    """`main`, its output guarded."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in ([], ["data"]):
        words.append("--help")
    try:
        status = build(words)(args=words, prog_name="palora", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except Exception as error:
        if debugging(words):
            traceback.print_exc()
        else:
            print(f"palora: {sentence(error)}", file=sys.stderr)
        return int(getattr(error, "exit_code", 1))


def build(words: Sequence[str]) -> typer.Typer:
    """The application. The flags of methods need PyTorch, so `train` has them only when it is asked for."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Pareto low-rank adapters: train one model that holds a whole Pareto front.",
    )
    app.callback()(options)
    app.command("train")(train.command(with_method_flags="train" in words))
    app.command("evaluate")(evaluate.evaluate)
    app.add_typer(data.app, name="data")
    app.command("recipes")(recipes.recipes)
    app.command("doctor")(doctor.doctor)
    app.command("bench")(bench.bench)
    app.command("ablate")(ablate.ablate)
    app.command("toy")(toy.toy)
    return app


def show_version(wanted: bool) -> None:
    """`palora --version`."""
    if wanted:
        print(f"palora {palora.__version__}")
        raise typer.Exit


def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. Also: PALORA_DEBUG=1.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", is_eager=True, callback=show_version)
    ] = False,
) -> None:
    """What holds for every command; `main` reads --debug itself, as errors may come before this is called."""


def debugging(words: Sequence[str]) -> bool:
    """Whether tracebacks are wanted: --debug before the command, or PALORA_DEBUG=1."""
    before_command = takewhile(lambda word: word.startswith("-"), words)
    return "--debug" in before_command or os.environ.get("PALORA_DEBUG", "") not in ("", "0")


def sentence(error: Any) -> str:
    """An error as one line. Errors of ours and bad values explain themselves; anything else is a defect."""
    if hasattr(error, "format_message"):  # a wrong command line
        text = error.format_message()
    elif isinstance(error, (PaloraError, ValueError, OSError, ImportError)):
        text = str(error)
    elif type(error).__name__ == "OutOfMemoryError":
        text = "The device ran out of memory: lower --batch, or take the rays in groups with --ray-chunk 1."
    else:
        text = f"unexpected {type(error).__name__}: {error} (palora --debug … shows where)"
    return " ".join(text[:4000].split()) or f"{type(error).__name__} (palora --debug … shows where)"
