"""The command line: `palora train`, `evaluate`, `data`, `recipes`, `doctor`. `main` runs it; the console entry point is
`palora.__main__`, which also answers where typer is missing.

Modules here import PyTorch inside functions only, so that ``palora --help`` answers at once.
"""

from __future__ import annotations

from palora.optional import need

need("typer", "The command line")

from palora.cli.main import main

__all__ = ["main"]
