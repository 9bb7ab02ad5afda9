"""Pictures in a zip file or a folder, read by name, with errors that say which one is damaged."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palora.errors import PaloraError
from palora.optional import need
from palora.reading import open_archive, read_member
from palora_kernels.reading import read_bytes

_MOST = 2**26  # bytes of a picture's file
_MOST_PIXELS = 2**25


def beside(name: str) -> bool:
    """Whether a file is none of the set's: a Mac puts "._x" beside each file x in its archives, and on foreign disks,
    under the same ending, or all of them below "__MACOSX"."""
    return any(part.startswith("._") or part == "__MACOSX" for part in name.split("/"))


class Pictures:
    """The files of a zip file, or of a folder and those below it."""

    def __init__(self, path: Path, remedy: str) -> None:
        """`remedy`: the sentence that ends every error message. PaloraError if `path` cannot be opened."""
        self.path, self.remedy = path, remedy
        self._zip: zipfile.ZipFile | None = None
        if path.is_dir():
            files = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*"))}
            found = {name: file.stat() for name, file in files.items() if not beside(name) and file.is_file()}
            self.stamps = {name: f"{about.st_size} {about.st_mtime_ns}" for name, about in found.items()}
            return
        try:
            self._zip = open_archive(path, _MOST)
        except (OSError, ValueError) as error:
            raise PaloraError(f"{path} is damaged or cut short ({error}). {remedy}") from error
        members = sorted(self._zip.infolist(), key=lambda member: member.filename)
        kept = [member for member in members if not member.is_dir() and not beside(member.filename)]
        self.stamps = {member.filename: f"{member.CRC:08x}" for member in kept}
        """File → what changes with its content: the checksum in the zip file, or size and time of change."""

    @property
    def names(self) -> list[str]:
        """All files, in the order of the alphabet."""
        return list(self.stamps)

    def bytes(self, name: str) -> bytes:
        """The content of a file; PaloraError if it is damaged (a zip file keeps checksums)."""
        try:
            return read_member(self._zip, name, _MOST) if self._zip else read_bytes(self.path / name, _MOST)
        except KeyError:
            raise PaloraError(f"{self.path} has no file {name}. {self.remedy}") from None
        except (OSError, ValueError) as error:
            raise PaloraError(f"{name} in {self.path} is damaged ({error}). {self.remedy}") from error

    def pixels(self, name: str, mode: str, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """A picture as (H, W, 3) for mode "RGB" or (H, W) for "L", resized to `size` (width, height) if it is not.

        PaloraError if it does not decode.
        """
        Image = need("PIL.Image", "Reading pictures")
        content = self.bytes(name)
        try:
            with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as picture:
                if picture.width * picture.height > _MOST_PIXELS:
                    raise ValueError(f"{picture.width} × {picture.height} pixels are too many")
                found = picture if picture.mode == mode else picture.convert(mode)
                if size is not None and found.size != size:
                    found = found.resize(size, Image.Resampling.BILINEAR)
                return np.array(found, dtype=np.uint8)
        except Exception as error:  # the decoders raise many kinds on damaged pictures
            reason = "of no known format" if isinstance(error, Image.UnidentifiedImageError) else error
            raise PaloraError(f"{name} in {self.path} is not a sound picture ({reason}). {self.remedy}") from error
