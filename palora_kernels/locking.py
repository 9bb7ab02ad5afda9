"""A lock file that one process holds, with that process's name in it. A process that dies lets go of it."""

from __future__ import annotations

import errno
import os
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP})
"""What a file system without locks answers: some network file systems, as they are mounted."""


class HeldError(Exception):
    """Somebody else holds the lock; the message says who: "process 4711 on host (palora train …)"."""


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, in a folder that exists, against other processes and threads; it is gone afterwards.

    If another has it: `wait` until it is free, or raise HeldError. On a file system without locks a warning says so;
    on Windows nothing is locked. Raises OSError where the file cannot be written.
    """
    if sys.platform == "win32":
        yield
        return
    handle = _acquire(path, wait)
    process = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == process:  # a child that was forked meanwhile has no say in this
            with suppress(OSError):
                path.unlink()  # still held: who waits for it finds that it is gone, and makes a new one
            _handles.discard(handle)
            os.close(handle)


_handles: set[int] = set()


def _let_go_in_child() -> None:
    """A lock lasts until every process that inherited it is gone: workers must not outlive their parent's."""
    for handle in _handles:
        os.close(handle)
    _handles.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_let_go_in_child)


def _acquire(path: Path, wait: bool) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(handle, path, wait)
            if _still_at(path, handle):
                os.ftruncate(handle, 0)
                os.write(handle, _own_name().encode(errors="replace"))
                _handles.add(handle)
                return handle
        except BlockingIOError:
            raise HeldError(_holder(handle)) from None
        finally:
            if handle not in _handles:
                os.close(handle)


def _lock(handle: int, path: Path, wait: bool) -> None:
    import fcntl  # not on Windows

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warnings.warn(
            f"{path.parent} lies on a file system without locks ({error.strerror}): nothing keeps a second process "
            "from writing there.",
            stacklevel=2,
        )


def _still_at(path: Path, handle: int) -> bool:
    """Whether `handle` is of the file that is at `path` now, not of one that was removed there."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _own_name() -> str:
    program = Path(sys.argv[0] if sys.argv else "python")
    name = program.parent.name if program.name == "__main__.py" else program.name
    command = shlex.join([name, *sys.argv[1:]])
    return f"process {os.getpid()} on {platform.node()} ({command if len(command) <= 200 else command[:199] + '…'})"


def _holder(handle: int) -> str:
    """Who holds it, by its own words: they may come a moment after the lock."""
    for _ in range(20):
        text = os.pread(handle, 4000, 0).decode(errors="replace")
        if text:
            return " ".join(text.split())
        time.sleep(0.05)
    return "another process"
