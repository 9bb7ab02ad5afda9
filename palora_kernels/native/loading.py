"""Find the built extension or build it on first use, once per process and once per machine."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from palora_kernels.native import build

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})
AVAILABLE = "available"

_lock = threading.Lock()
_loaded = False
_failure: str | None = None


def status() -> str:
    """ "available" if the extension is built or can be built here, else the reason why not. Builds nothing."""
    if _loaded:
        return AVAILABLE
    if _failure is not None:
        return _failure
    if os.environ.get(build.FORCE) == "0":
        return f"switched off by {build.FORCE}=0"
    if _installed() is not None or _cached().is_file():
        return AVAILABLE
    return build.obstacle() or AVAILABLE


def ready() -> bool:
    """Load the extension, building it if need be. False, and once a line on stderr, where that fails."""
    if _loaded:
        return True
    if status() != AVAILABLE:
        return False
    with _lock:
        if not _loaded and _failure is None:
            _load()
    return _loaded


def supports(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cpu" and dtype in DTYPES


def _load() -> None:
    global _loaded, _failure
    try:
        library = _installed() or _cached()
        if library.is_file():
            torch.ops.load_library(str(library))
        else:
            _build(library)
        _loaded = True
    except Exception as error:
        last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        _failure = f"building or loading the C++ extension failed: {last[0]}"
        if os.environ.get(build.FORCE) == "1":
            raise RuntimeError(f"{build.FORCE}=1, but {_failure}") from error
        print(f"palora: {_failure}; using plain PyTorch operations.", file=sys.stderr)


def _installed() -> Path | None:
    """The library that setup.py built, if it fits this torch and these sources."""
    library = Path(build.__file__).parent / f"{build.library_name()}.so"
    return library if library.is_file() else None


def cache_folder() -> Path:
    """PALORA_CACHE/native, or beside the other extensions that torch builds."""
    root = os.environ.get("PALORA_CACHE")
    if root:
        return Path(root).expanduser() / "native"
    extensions = os.environ.get("TORCH_EXTENSIONS_DIR")
    if extensions:
        return Path(extensions).expanduser() / "palora"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "torch_extensions" / "palora"


def _cached() -> Path:
    return cache_folder() / build.library_name() / f"{build.library_name()}.so"


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """One builder at a time over all processes; the lock of a process that dies is released with it."""
    with open(folder.parent / f"{folder.name}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(library: Path) -> None:
    folder = library.parent
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder):
        if library.is_file():  # another process was faster
            torch.ops.load_library(str(library))
            return
        print(f"palora: building the C++ extension once, into {folder} (a minute or so)", file=sys.stderr)
        work = folder / "build"
        work.mkdir(exist_ok=True)
        (work / "lock").unlink(missing_ok=True)  # torch's own lock, left by a build that was interrupted
        os.replace(build.build_into(work), library)
