"""Four IDX files (images and labels, for training and for testing) found, downloaded and verified.

MNIST and Fashion-MNIST come in this form under the same file names.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palora.data.download import Progress, fetch, sound
from palora.data.entry import Folder
from palora.data.folder import data_root, ensure_folder, origin
from palora.data.idx import parse_idx, unpacked
from palora.data.places import advised
from palora.errors import PaloraError


@dataclass(frozen=True)
class File:
    """One canonical file; checksum and size are of the unzipped bytes, which every mirror has in common."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Digits:
    """Images (N, 28, 28) and labels (N,), both uint8, and a checksum of the files they came from."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    checksum: str


@dataclass(frozen=True)
class IdxSource:
    """The files of one set and where they may lie.

    Attributes:
        name: what `palora data prepare` calls it.
        title: what messages call it: "MNIST".
        folder: sub-folder of the data root.
        parts: "train" and "test" → (images, labels).
        mirrors: base URLs, tried in order.
        also: more folders that may hold the files: below the data root if relative.
    """

    name: str
    title: str
    folder: str
    parts: Mapping[str, tuple[File, File]]
    mirrors: Sequence[str]
    also: Sequence[str] = ()

    def locate(self, folder: Folder = None) -> Path | None:
        """The folder in or below the data root in which all four files lie, gzipped or not; else None."""
        return next((place for place in self._places(data_root(folder)) if not self._missing(place)), None)

    def require(self, folder: Folder = None) -> Path:
        """As `locate`, but raises a `PaloraError` that says what is missing, where, and how to get it."""
        place = self.locate(folder)
        if place is not None:
            return place
        root = data_root(folder)
        missing = min((self._missing(place) for place in self._places(root)), key=len)
        names = ", ".join(f"{file.name}[.gz]" for file in missing)
        absent = "" if root.is_dir() else "; that folder does not exist"
        raise PaloraError(
            f"The complete {self.title} set is not in {root / self.folder} or {root} ({origin(folder)}{absent}): "
            f"missing {names}. Get it with `palora data prepare {self.name}`, or name the folder that holds the "
            "four files with --data DIR or PALORA_DATA."
        )

    def read(self, part: str, place: Path) -> Digits:
        """Read and verify the "train" or "test" images in the folder `place`.

        Raises:
            PaloraError: a file is missing, damaged, or well-formed but not the canonical one.
        """
        arrays, checksums = [], []
        with advised(f"Run `palora data prepare {self.name}` to replace it, or name another folder with --data DIR."):
            for file in self.parts[part]:
                path = present(place, file)
                if path is None:
                    raise PaloraError(f"{place / file.name}[.gz] is missing.")
                content = unpacked(path)
                array = parse_idx(content, path)
                checksum = hashlib.sha256(content).hexdigest()
                if checksum != file.sha256:
                    raise PaloraError(
                        f"{path} is not the canonical {self.title} file: expected sha256 {file.sha256} of the "
                        f"unzipped content, found {checksum}."
                    )
                arrays.append(array)
                checksums.append(checksum)
        return Digits(arrays[0], arrays[1], hashlib.sha256("".join(checksums).encode()).hexdigest())

    def prepare(
        self, folder: Folder = None, progress: Progress | None = None, *, backoff: Sequence[float] = (0.5, 1.0, 2.0)
    ) -> Path:
        """Make the four files present and verified; returns the folder they lie in.

        Sound files are kept, whether gzipped or not; the others are downloaded to <data root>/<folder> (or
        next to those that are there). PALORA_MIRROR, a base URL whose <folder>/ holds the files, is tried
        before the public mirrors.
        """
        root = data_root(folder)
        place = min(self._places(root), key=lambda candidate: len(self._missing(candidate)))
        if not (self._missing(place) or self._damaged(place)):
            return place
        if place.is_absolute() and str(place) in self.also:  # a folder of the system is not written to
            place = root / self.folder
        ensure_folder(place)
        for file in self.files:
            path = present(place, file)
            if path is None or not sound(path, sha256=file.sha256, size=file.size):
                fetch(
                    [base + file.name + ".gz" for base in self._mirrors()],
                    place / (file.name + ".gz"),
                    sha256=file.sha256,
                    size=file.size,
                    gzipped=True,
                    remedy=(
                        f"Without a network: copy the four {self.title} files (*-ubyte.gz or *-ubyte) into a "
                        "folder and name it with --data DIR or PALORA_DATA."
                    ),
                    progress=progress,
                    backoff=backoff,
                )
                if path is not None and path.suffix != ".gz":
                    # The damaged unzipped file: the .gz beside it has taken its place.
                    path.unlink()
        return place

    @property
    def files(self) -> tuple[File, ...]:
        """All four."""
        return tuple(file for pair in self.parts.values() for file in pair)

    def _places(self, root: Path) -> tuple[Path, ...]:
        """Folders that may hold the files, the preferred one first; an absolute one of `also` stays as it is."""
        return root / self.folder, *(root / place for place in self.also), root

    def _missing(self, place: Path) -> list[File]:
        return [file for file in self.files if present(place, file) is None]

    def _damaged(self, place: Path) -> bool:
        here = [(path, file) for file in self.files if (path := present(place, file))]
        return any(not sound(path, sha256=file.sha256, size=file.size) for path, file in here)

    def _mirrors(self) -> tuple[str, ...]:
        own = os.environ.get("PALORA_MIRROR")
        return (f"{own.rstrip('/')}/{self.folder}/", *self.mirrors) if own else tuple(self.mirrors)


def present(place: Path, file: File) -> Path | None:
    """Where `file` lies in the folder `place`, gzipped or not."""
    candidates = (place / f"{file.name}.gz", place / file.name)
    return next((path for path in candidates if path.is_file()), None)
