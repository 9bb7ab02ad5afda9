"""Where the files of a set may lie, and what to say when they do not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from palora.data.entry import Folder
from palora.data.folder import data_root, origin
from palora.errors import PaloraError


def places(folder: Folder, sub: str) -> tuple[Path, Path]:
    """Folders that may hold the files: <data root>/<sub>, or the data root itself."""
    root = data_root(folder)
    return root / sub, root


def present(place: Path, name: str) -> Path | None:
    """`name` or `name`.gz in the folder `place`."""
    return next((path for path in (place / name, place / f"{name}.gz") if path.is_file()), None)


def locate(folder: Folder, sub: str, names: Iterable[str]) -> Path | None:
    """The first of `places` that holds all of `names`, gzipped or not; else None."""
    names = list(names)
    return next((place for place in places(folder, sub) if all(present(place, name) for name in names)), None)


@contextmanager
def advised(remedy: str) -> Iterator[None]:
    """Within, a PaloraError on what is wrong with a file ends with `remedy`: where to get a sound one."""
    try:
        yield
    except PaloraError as error:
        raise PaloraError(f"{error} {remedy}") from error


def missing(folder: Folder, sub: str, title: str, what: str, remedy: str) -> PaloraError:
    """`title` is not there: where it was looked for, what is missing, and where to get it."""
    root = data_root(folder)
    absent = "" if root.is_dir() else "; that folder does not exist"
    return PaloraError(
        f"{title} is not in {root / sub} or {root} ({origin(folder)}{absent}): missing {what}. {remedy} Then name "
        "the folder with --data DIR or PALORA_DATA."
    )
