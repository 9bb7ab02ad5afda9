"""MNIST: the four canonical files, found or downloaded, and verified by their unzipped content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palora.data.download import ContentError, Progress, check_content, fetch
from palora.data.entry import Entry, Folder
from palora.data.folder import data_root, ensure_folder, origin
from palora.data.idx import GZIP_MAGIC, parse_idx, unpacked
from palora.errors import PaloraError

BUNDLED = Path(__file__).parent / "bundled"
"""Folder of the package with the 10,000 test digits."""

LICENCE = "CC BY-SA 3.0 (as usually cited)"

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)


@dataclass(frozen=True)
class _File:
    """One canonical file; checksum and size are of the unzipped bytes, which every mirror has in common."""

    name: str
    sha256: str
    size: int


_PARTS = {
    "train": (
        _File(
            "train-images-idx3-ubyte",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            47_040_016,
        ),
        _File(
            "train-labels-idx1-ubyte",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            60_008,
        ),
    ),
    "test": (
        _File(
            "t10k-images-idx3-ubyte",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            7_840_016,
        ),
        _File(
            "t10k-labels-idx1-ubyte",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            10_008,
        ),
    ),
}
_FILES = tuple(file for pair in _PARTS.values() for file in pair)

_REMEDY = (
    "Without a network: copy the four MNIST files (*-ubyte.gz or *-ubyte) into a folder and name it with "
    "--data DIR or PALORA_DATA"
)


@dataclass(frozen=True)
class Digits:
    """Images (N, 28, 28) and labels (N,), both uint8, and a checksum of the files they came from."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    checksum: str


def locate(folder: Folder = None) -> Path | None:
    """The folder in or below the data root in which all four files lie, gzipped or not; else None."""
    return next((place for place in _places(data_root(folder)) if not _missing(place)), None)


def require(folder: Folder = None) -> Path:
    """As `locate`, but raises a `PaloraError` that says what is missing, where, and how to get it."""
    place = locate(folder)
    if place is not None:
        return place
    root = data_root(folder)
    missing = min((_missing(place) for place in _places(root)), key=len)
    names = ", ".join(f"{file.name}[.gz]" for file in missing)
    absent = "" if root.is_dir() else "; that folder does not exist"
    raise PaloraError(
        f"The complete MNIST set is not in {root / 'mnist'} or {root} ({origin(folder)}{absent}): missing "
        f"{names}. Get it with `palora data prepare mnist`, or name the folder that holds the four files "
        "with --data DIR or PALORA_DATA."
    )


def read(part: str, place: Path) -> Digits:
    """Read and verify the "train" (60,000) or "test" (10,000) digits in the folder `place`.

    Raises:
        PaloraError: a file is missing, damaged, or well-formed but not the canonical one.
    """
    arrays, checksums = [], []
    for file in _PARTS[part]:
        path = _present(place, file)
        if path is None:
            raise PaloraError(f"{place / file.name}[.gz] is missing: run `palora data prepare mnist`.")
        content = unpacked(path)
        array = parse_idx(content, path)
        checksum = hashlib.sha256(content).hexdigest()
        if checksum != file.sha256:
            raise PaloraError(
                f"{path} is not the canonical MNIST file: expected sha256 {file.sha256} of the unzipped "
                f"content, found {checksum}. Run `palora data prepare mnist` to replace it, or name another "
                "folder with --data DIR."
            )
        arrays.append(array)
        checksums.append(checksum)
    return Digits(arrays[0], arrays[1], hashlib.sha256("".join(checksums).encode()).hexdigest())


def prepare(
    folder: Folder = None, progress: Progress | None = None, *, backoff: Sequence[float] = (0.5, 1.0, 2.0)
) -> Path:
    """Make the four files present and verified; returns the folder they lie in.

    Sound files are kept, whether gzipped or not; the others are downloaded to <data root>/mnist (or next to
    those that are there). PALORA_MIRROR, a base URL whose mnist/ holds the files, is tried before the public
    mirrors.
    """
    root = data_root(folder)
    place = min(_places(root), key=lambda candidate: len(_missing(candidate)))
    ensure_folder(place)
    for file in _FILES:
        path = _present(place, file)
        if path is None or not _sound(path, file):
            fetch(
                [base + file.name + ".gz" for base in _mirrors()],
                place / (file.name + ".gz"),
                sha256=file.sha256,
                size=file.size,
                gzipped=True,
                remedy=f"{_REMEDY}.",
                progress=progress,
                backoff=backoff,
            )
            if path is not None and path.suffix != ".gz":
                # The damaged unzipped file: the .gz beside it has taken its place.
                path.unlink()
    return place


def _places(root: Path) -> tuple[Path, ...]:
    """Folders that may hold the files, the preferred one first; the last is where torchvision puts them."""
    return root / "mnist", root, root / "MNIST" / "raw"


def _present(place: Path, file: _File) -> Path | None:
    candidates = (place / f"{file.name}.gz", place / file.name)
    return next((path for path in candidates if path.is_file()), None)


def _missing(place: Path) -> list[_File]:
    return [file for file in _FILES if _present(place, file) is None]


def _sound(path: Path, file: _File) -> bool:
    try:
        with open(path, "rb") as opened:
            gzipped = opened.read(2) == GZIP_MAGIC
        check_content(path, sha256=file.sha256, size=file.size, gzipped=gzipped)
    except (ContentError, OSError):
        return False
    return True


def _mirrors() -> tuple[str, ...]:
    own = os.environ.get("PALORA_MIRROR")
    return (f"{own.rstrip('/')}/mnist/", *MIRRORS) if own else MIRRORS


ENTRY = Entry(
    name="mnist",
    needs="four files (download)",
    licence=LICENCE,
    size="11 MB",
    locate=locate,
    prepare=prepare,
)
