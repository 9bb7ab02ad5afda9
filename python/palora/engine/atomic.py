"""A file that is either the old one or the whole new one, whatever happens while it is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write(path: Path, writer: Callable[[IO[bytes]], None]) -> None:
    """Let `writer` fill a temporary file beside `path`, bring it to the disk, then rename it to `path`."""
    temporary = path.with_name(f".{path.name}.tmp")  # one name: what a killed process left is written over
    try:
        with temporary.open("wb") as file:
            writer(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """The rename itself must reach the disk, where the system can promise that."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
