"""Reading files of unknown origin: ordinary ones alone, so that nothing waits for a pipe, of bounded length and depth.

Everything here raises OSError where a file cannot be read, and ValueError for what it holds.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import IO, Any

MOST = 64 * 2**20
"""Bytes of a JSON file, or of a line of one."""
LONGEST = 4096
"""Characters of a text in it."""
DEEPEST = 32
"""Levels of a JSON value."""


class NotAFileError(ValueError):
    """A folder, a pipe, a socket or a device lies where a file should."""


_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def open_file(path: str | os.PathLike[str]) -> IO[bytes]:
    """An ordinary file, opened for reading; NotAFileError for a folder, a pipe, a socket or a device."""
    require_file(path)
    # Between the two it may have been replaced: opened without waiting, it is looked at once more.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _require_ordinary(os.fstat(handle))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def require_file(path: str | os.PathLike[str]) -> int:
    """The bytes of an ordinary file; NotAFileError for anything else: before a library opens it."""
    about = os.stat(path)
    _require_ordinary(about)
    return about.st_size


def _require_ordinary(about: os.stat_result) -> None:
    for test, what in _KINDS.items():
        if test(about.st_mode):
            raise NotAFileError(f"it is {what}, not a file")


def read_bytes(path: str | os.PathLike[str], most: int = MOST) -> bytes:
    """The content of an ordinary file of at most so many bytes."""
    with open_file(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return data


def read_json(path: Path, most: int = MOST, nan: bool = False, longest: int = LONGEST) -> Any:
    """What a JSON file says."""
    return parse_json(read_bytes(path, most), nan, longest)


def parse_json(text: bytes | str, nan: bool = False, longest: int = LONGEST) -> Any:
    """What JSON text says; ``nan``: with NaN and Infinity, which Python's writer puts and JSON does not have;
    ``longest``: the most characters of a text in it."""
    try:
        value = json.loads(text, parse_constant=float if nan else _refuse)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels") from None
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"it is nested deeper than {DEEPEST} levels")
        if any(isinstance(one, str) and len(one) > longest for one in level):
            raise ValueError(f"it holds a text of more than {longest:,} characters")
        branches = [one for one in level if isinstance(one, (dict, list))]
        level = [child for one in branches for child in (one.values() if isinstance(one, dict) else one)]
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")
