"""Files as data of unknown origin: read within bounds, checked against a type, or one sentence that names the file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from palora.errors import PaloraError
from palora_kernels.reading import MOST, NotAFileError, open_file, parse_json, read_json, require_file
from palora_kernels.typed import conform

MOST_MEMBERS = 2_000_000  # of an archive


@contextmanager
def reading(what: str, path: str | os.PathLike[str], remedy: str = "") -> Iterator[None]:
    """Within, an OSError or ValueError becomes a PaloraError: "<what> <path> is damaged (<why>): <remedy>."."""
    try:
        yield
    except (OSError, ValueError) as error:
        unread = isinstance(error, (OSError, NotAFileError))
        reason = " ".join(str(getattr(error, "strerror", None) or error).split()).rstrip(".")
        end = f": {remedy}." if remedy else "."
        said = f"{what} {os.fspath(path)} {'cannot be read' if unread else 'is damaged'} ({reason}){end}"
        raise PaloraError(said) from error


def read_record(path: Path, kind: Any, what: str, remedy: str = "", nan: bool = False) -> Any:
    """The JSON file `path` as a `kind` (`palora_kernels.typed.conform`). Raises PaloraError."""
    with reading(what, path, remedy):
        return conform("", read_json(path, nan=nan), kind)


def read_records(path: Path, kind: Any, what: str) -> list[Any]:
    """The lines of a JSON-lines file, each as a `kind`, nan allowed. A last line without its end is left out: it was
    being written. Raises PaloraError, naming the line."""
    records: list[Any] = []
    with reading(what, path), open_file(path) as file:
        while line := file.readline(MOST + 1):
            if not line.endswith(b"\n"):
                if len(line) > MOST:
                    raise ValueError(f"line {len(records) + 1} has more than {MOST:,} bytes")
                break
            try:
                records.append(conform("", parse_json(line, nan=True), kind))
            except ValueError as error:
                raise ValueError(f"line {len(records) + 1}: {error}") from error
    return records


def open_archive(path: Path, most: int, stored: bool = False) -> zipfile.ZipFile:
    """A zip file whose members, unpacked, have at most `most` bytes each; with `stored`, none is compressed and
    together they are no larger than the file, as PyTorch writes them. OSError or ValueError for any other."""
    size = require_file(path)
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, ValueError):
        raise
    except Exception as error:  # zipfile's parser raises many kinds on damaged directories
        raise ValueError(f"it is not a sound zip file ({error or type(error).__name__})") from error
    try:
        _check_members(archive.infolist(), size, most, stored)
    except BaseException:
        archive.close()
        raise
    return archive


def _check_members(members: list[zipfile.ZipInfo], size: int, most: int, stored: bool) -> None:
    if len(members) > MOST_MEMBERS:
        raise ValueError(f"it has {len(members):,} files, more than {MOST_MEMBERS:,}")
    for member in members:
        if member.flag_bits & 0x1:
            raise ValueError(f"{member.filename} in it is encrypted")
        if member.file_size > most:
            raise ValueError(f"{member.filename} in it says that it has {member.file_size:,} bytes, more than {most:,}")
        if stored and member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{member.filename} in it is compressed")
    if stored and sum(member.file_size for member in members) > size:
        raise ValueError("its files are larger than the whole")


def read_member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """The content of a member, its checksum verified. KeyError if there is none of that name; ValueError if it is
    damaged, or longer than `most` whatever the directory says."""
    try:
        with archive.open(name) as file:
            data = file.read(most + 1)
    except KeyError:
        raise
    except Exception as error:  # every method of compression has errors of its own
        raise ValueError(str(error) or type(error).__name__) from error
    if len(data) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return data
