"""From run folders to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from palora.errors import PaloraError
from palora.files import write_file
from palora.report.page.data import payload
from palora.report.page.html import page

LARGEST = 5_000_000
"""Bytes of a page."""


def write_page(folders: Sequence[Path | str], out: Path | str | None = None, samples: bool = True) -> Path:
    """Write the page on evaluated run folders; returns its path.

    Args:
        folders: one or more runs of the same tasks.
        out: the file; None: report.html in the folder of a single run, or in the folder that all runs lie in.
        samples: with inputs of the data set and what the model answers.

    PaloraError for folders that are no evaluated runs, and for a page of more than LARGEST bytes.
    """
    folders = list(folders)
    text = page(payload(folders, samples))
    size = len(text.encode())
    if size > LARGEST:
        raise PaloraError(f"The page would have {size:,} bytes, more than {LARGEST:,}: name fewer runs.")
    path = Path(out) if out is not None else beside(folders)
    if path.is_dir():
        path = path / "report.html"
    write_file(path, text)
    return path


def beside(folders: Sequence[Path | str]) -> Path:
    """Where the page on `folders` goes by itself."""
    if len(folders) == 1:
        return Path(folders[0]) / "report.html"
    parents = {Path(folder).resolve().parent for folder in folders}
    if len(parents) > 1:
        raise PaloraError("The runs lie in different folders: say where the page goes with --out FILE.")
    return Path(folders[0]).parent / "report.html"
