"""A run folder, or that of an ablation, has one writer at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from palora.errors import PaloraError
from palora.files import writing
from palora_kernels import files
from palora_kernels.locking import HeldError, locked

LOCK = ".lock"
"""The file in the folder that its writer holds; a process that was killed leaves it, held by nobody."""

_written: ContextVar[tuple[Path, ...]] = ContextVar("folders that this context writes", default=())


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Inside, no other process or thread writes `folder`; what dead ones left half-written there is removed.

    It is made if need be, and removed again if nothing came into it. Blocks for the same folder can be nested.
    Raises PaloraError, which names the process that writes it; and under torchrun, where every process would train a
    copy of its own.
    """
    place = folder.resolve()
    if place in _written.get():
        yield
        return
    refuse_several_processes()
    if folder.exists() and not folder.is_dir():
        raise PaloraError(f"{folder} is a file: choose another folder for the run with --out.")
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        with ExitStack() as stack:
            try:
                with writing(folder):
                    files.make_folder(folder)
                    stack.enter_context(locked(folder / LOCK))
            except HeldError as holder:
                raise PaloraError(
                    f"The run folder {folder} is being written by {holder}: wait until that has ended, or choose "
                    "another folder with --out."
                ) from None
            for part in (folder, folder / "checkpoints"):
                files.sweep(part)
            token = _written.set((*_written.get(), place))
            stack.callback(_written.reset, token)
            yield
    finally:
        with suppress(OSError):  # not empty: something came of it
            for one in made:
                one.rmdir()


def refuse_several_processes() -> None:
    """PaloraError where torchrun, or the like, started more than this process."""
    count = os.environ.get("WORLD_SIZE", "1")
    if count.isdigit() and int(count) > 1:
        raise PaloraError(
            f"One process writes a run, and {count} were started (WORLD_SIZE={count}): start it without torchrun, "
            "or with --nproc-per-node 1."
        )
