"""Files that are either the old ones or the whole new ones, whatever happens while they are written.

What is written goes into a temporary folder beside the target, is brought to the disk, and then takes the target's
name. A process that is killed leaves at most that folder, with whatever the library that wrote had in it. While the
writer lives it holds a lock on the folder; `sweep` removes those that nobody holds.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from palora_kernels.locking import NO_LOCKS


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """``with replacing(path) as new:`` write the file `new`; at the end of the block it takes the place of `path`.

    `new` has the same name, in a folder of its own. `path`'s folder is made if need be. The file gets the permissions
    that the user's umask leaves. If the block raises, `path` is as it was. Raises OSError where something cannot be
    written.
    """
    path = Path(path)
    make_folder(path.parent)
    sweep(path.parent, path.name)
    folder, handle = _claim(path)
    try:
        new = folder / path.name
        yield new
        os.chmod(new, folder.stat().st_mode & 0o666)  # some libraries make files that only their owner can read
        put(new, path)
    finally:
        _remove(folder, handle)


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """`content` as the file `path`; text as UTF-8. As `replacing`."""
    with replacing(path) as new:
        new.write_bytes(content.encode() if isinstance(content, str) else content)


def put(finished: Path, path: Path) -> None:
    """Bring the file `finished` to the disk and give it the name `path`, in a folder that exists on the same disk."""
    _sync(finished)
    os.replace(finished, path)
    _sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make `folder` and those above it, on the disk too."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in reversed(missing):
        _sync_folder(one.parent)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove the temporary folders that dead processes left in `folder`: those for the file `name`, or all."""
    if sys.platform == "win32":
        return
    temporary = re.compile(rf"\.{'.+' if name is None else re.escape(name)}\.[0-9a-f]{{8}}\.tmp")
    with suppress(OSError):  # a folder that cannot be listed can perhaps be written
        for found in os.listdir(folder):
            if temporary.fullmatch(found):
                _remove_if_dead(folder / found)


def _remove_if_dead(folder: Path) -> None:
    with suppress(OSError):  # BlockingIOError: its writer lives
        _remove(folder, _hold(folder))


def _remove(folder: Path, handle: int | None) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        if handle is not None:
            os.close(handle)


def _claim(path: Path) -> tuple[Path, int | None]:
    """A new temporary folder for `path`, and the handle by which this process holds it."""
    while True:
        folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        folder.mkdir()
        try:
            return folder, _hold(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process sweeps, and came between the two
        except OSError as error:
            if error.errno not in NO_LOCKS:
                folder.rmdir()
                raise
            return folder, None  # a file system without locks: nobody can sweep there either


def _hold(folder: Path) -> int | None:
    """The handle by which a folder is held; BlockingIOError: somebody else holds it."""
    if sys.platform == "win32":
        return None
    import fcntl  # not on Windows

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def _sync(path: Path) -> None:
    """Bring a file to the disk."""
    handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can: some have no such call, some refuse it."""
    if sys.platform == "win32":
        return
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EINVAL, errno.ENOTSUP):
            raise
