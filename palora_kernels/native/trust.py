"""Whether a library in the cache may be loaded: this user's alone, and the bytes that were built. See SECURITY.md."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path


def digest(library: Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()


def record(library: Path) -> None:
    """Write the hash of a library that was just built beside it."""
    os.chmod(library, 0o700)
    beside = library.with_suffix(".sha256")
    beside.write_text(digest(library))
    os.chmod(beside, 0o600)


def folder_obstacle(folder: Path) -> str | None:
    """Why nothing in a folder can be trusted, or None. A folder that does not exist is judged by those around it."""
    if not hasattr(os, "getuid"):
        return None
    folder = folder.absolute()
    for one in (folder, *folder.resolve().parents):
        if not one.exists() and not one.is_symlink():
            continue
        found = one.lstat() if one == folder else one.stat()
        if one == folder and (found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode)):
            return f"{one} is not a folder of this user's"
        if found.st_uid not in (0, os.getuid()):
            return f"{one} belongs to another user"
        if found.st_mode & 0o022 and (one == folder or not found.st_mode & stat.S_ISVTX):
            return f"others can write in {one}; run `chmod go-w` on it"
    return None


def obstacle(library: Path) -> str | None:
    """Why an existing library is not loaded, or None."""
    missing = folder_obstacle(library.parent)
    if missing is not None:
        return missing
    beside = library.with_suffix(".sha256")
    for one in (library, beside):
        if not one.is_file() or one.is_symlink():
            return f"{one} is missing or no plain file"
        found = one.lstat()
        if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022):
            return f"{one} belongs to another user, or others can write it"
    if beside.read_text(errors="replace").strip() != digest(library):
        return f"{library} is not the file that was built: its hash is another than the one written beside it"
    return None
