"""The command line: `palora train`, `evaluate`, `data`, `recipes`, `doctor`. `main` is the console entry
point.

Modules here import PyTorch inside functions only, so that ``palora --help`` answers at once.
"""

from __future__ import annotations

from palora.cli.main import main

__all__ = ["main"]
