"""The command `palora`, and `python -m palora`, which is the same and needs no installation."""

from __future__ import annotations

import os
import sys
from typing import Any

from palora.optional import MissingPackageError


def bear_any_encoding(stream: Any) -> None:
    """What the stream's encoding lacks (ASCII, Latin-1, a file name that is no text) comes out as "?", not as an error
    in the middle of the output. stderr does so by itself."""
    if getattr(stream, "errors", None) in ("strict", "surrogateescape") and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")


def open_closed() -> None:
    """Lead nowhere what the process was started without (`palora … >&-`): its number would go to the next file that
    is opened, and what is printed into that file."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def main() -> int:
    """Run the command line on the arguments of the process; returns the exit status."""
    open_closed()
    bear_any_encoding(sys.stdout)
    try:
        from palora.cli import main as run
    except MissingPackageError as error:
        print(f"palora: {error}", file=sys.stderr)
        return 1
    return run()


if __name__ == "__main__":
    sys.exit(main())
