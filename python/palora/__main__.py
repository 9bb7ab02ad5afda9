"""The command `palora`, and `python -m palora`, which is the same and needs no installation."""

from __future__ import annotations

import sys

from palora.optional import MissingPackageError


def main() -> int:
    """Run the command line on the arguments of the process; returns the exit status."""
    try:
        from palora.cli import main as run
    except MissingPackageError as error:
        print(f"palora: {error}", file=sys.stderr)
        return 1
    return run()


if __name__ == "__main__":
    sys.exit(main())
