"""Writing files: as `palora_kernels.files`, and what goes wrong is one sentence for the person at the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from palora.errors import PaloraError, UnwritableError
from palora_kernels import files


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """:func:`palora_kernels.files.replacing`: the file that is given is, when the block ends, `path`, or nothing is."""
    with writing(path), files.replacing(path) as new:
        yield new


def write_file(path: str | os.PathLike[str], text: str) -> None:
    """`text` as the file `path`, which is the old one or the whole new one whatever happens."""
    with writing(path):
        files.write(path, text)


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Inside, an error that the system raised, however a library wrapped it, becomes UnwritableError of `path`."""
    try:
        yield
    except PaloraError:
        raise
    except Exception as error:
        reason = _of_the_system(error)
        if reason is None:
            raise
        raise UnwritableError(f"{os.fspath(path)} cannot be written: {reason}") from error


def _of_the_system(error: BaseException | None) -> str | None:
    while error is not None:
        if isinstance(error, OSError):
            return error.strerror or str(error)
        if type(error).__name__ == "SafetensorError":  # it keeps no cause
            return str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None
