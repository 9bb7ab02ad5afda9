"""Find the built extensions or build them on first use, once per process and once per machine.

There are two: C++ for the CPU (`build`), and CUDA C++ (`build_cuda`) where torch was built with CUDA and there is a
toolkit. Each device's is found, built and loaded on its own, when a tensor on that device asks for it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from palora_kernels import files
from palora_kernels.locking import locked
from palora_kernels.native import build, build_cuda, trust

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})
AVAILABLE = "available"


@dataclass
class Extension:
    """One device's library: how it is built, and what became of it in this process."""

    device: str
    name: str
    dtypes: frozenset[torch.dtype]
    library_name: Callable[[], str]
    obstacle: Callable[[], str | None]
    build_into: Callable[[Path], Path]
    loaded: bool = False
    failure: str | None = None

    def status(self) -> str:
        if self.loaded:
            return AVAILABLE
        if self.failure is not None:
            return self.failure
        if os.environ.get(build.FORCE) == "0":
            return f"switched off by {build.FORCE}=0"
        if self.device == "cuda" and (unusable := build_cuda.torch_obstacle()) is not None:
            return unusable
        if self.installed() is not None or (self.cached().is_file() and self.remark() is None):
            return AVAILABLE
        return self.obstacle() or AVAILABLE

    def installed(self) -> Path | None:
        """The library that setup.py built, if it fits this torch and these sources."""
        library = Path(build.__file__).parent / f"{self.library_name()}.so"
        return library if library.is_file() else None

    def remark(self) -> str | None:
        """Why what lies in the cache is not loaded but built anew, or None."""
        library = self.cached()
        if self.installed() is not None:
            return None
        return trust.obstacle(library) if library.exists() else trust.folder_obstacle(library.parent)

    def cached(self) -> Path:
        """Where the first use puts it; a CUDA library is compiled for the GPUs that are visible then."""
        kind = "".join(f"_sm{a}" for a in build_cuda.visible()) if self.device == "cuda" else ""
        return cache_folder() / f"{self.library_name()}{kind}" / f"{self.library_name()}.so"


_EXTENSIONS = {
    "cpu": Extension(
        "cpu", "the C++ extension", DTYPES, build.library_name, build.obstacle, lambda folder: build.build_into(folder)
    ),
    "cuda": Extension(
        "cuda",
        "the CUDA extension",
        DTYPES | {torch.float16},
        build_cuda.library_name,
        build_cuda.obstacle,
        build_cuda.build_into,
    ),
}
_lock = threading.Lock()


def status(device: str = "cpu") -> str:
    """ "available" if a device's extension is built or can be built here, else the reason why not. Builds nothing."""
    return _EXTENSIONS[device].status()


def remark(device: str = "cpu") -> str | None:
    """Why a device's cached library is not trusted, and so built anew; None if there is nothing to say."""
    return _EXTENSIONS[device].remark()


def ready(device: str = "cpu") -> bool:
    """Load an extension, building it if need be. False, and once a line on stderr, where that fails."""
    extension = _EXTENSIONS[device]
    if extension.loaded:
        return True
    if extension.status() != AVAILABLE:
        return False
    with _lock:
        if not extension.loaded and extension.failure is None:
            _load(extension)
    return extension.loaded


def obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend cannot take tensors of a device and dtype, or None."""
    extension = _EXTENSIONS.get(device.type)
    if extension is None:
        return f"it runs on the CPU and on CUDA devices, and the tensors are on {device.type}"
    if dtype not in extension.dtypes:
        names = ", ".join(sorted(str(known).removeprefix("torch.") for known in extension.dtypes))
        return f"on {device.type} it runs {names}, and the tensors are {str(dtype).removeprefix('torch.')}"
    missing = extension.status()
    return None if missing == AVAILABLE else missing


def supports(device: torch.device, dtype: torch.dtype) -> bool:
    return obstacle(device, dtype) is None


def _load(extension: Extension) -> None:
    try:
        installed, library = extension.installed(), extension.cached()
        if installed is not None:
            torch.ops.load_library(str(installed))
        elif library.is_file() and extension.remark() is None:
            torch.ops.load_library(str(library))
        else:
            _build(extension, library)
        extension.loaded = True
    except Exception as error:
        last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        extension.failure = f"building or loading {extension.name} failed: {last[0]}"
        if os.environ.get(build.FORCE) == "1":
            raise RuntimeError(f"{build.FORCE}=1, but {extension.failure}") from error
        print(f"palora: {extension.failure}; using plain PyTorch operations.", file=sys.stderr)


def _installed() -> Path | None:
    """The library for the CPU that setup.py built, if there is one that fits."""
    return _EXTENSIONS["cpu"].installed()


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


def _build(extension: Extension, library: Path) -> None:
    distrusted = extension.remark()
    if distrusted is not None:
        print(f"palora: the cached library is not used: {distrusted}.", file=sys.stderr)
        if trust.folder_obstacle(library.parent) is not None:
            library = Path(tempfile.mkdtemp(prefix="palora-")) / "native" / library.name  # for this process alone
    folder = library.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(folder.parent / f"{folder.name}.lock", wait=True):  # one builder at a time over all processes
        if library.is_file() and trust.obstacle(library) is None:  # another process was faster
            torch.ops.load_library(str(library))
            return
        print(f"palora: building {extension.name} once, into {folder} (a minute or so)", file=sys.stderr)
        work = folder / "build"
        shutil.rmtree(work, ignore_errors=True)  # nothing of an interrupted build, or of somebody else's, is linked
        work.mkdir(mode=0o700)
        built = extension.build_into(work)
        trust.record(built)
        files.put(built.with_suffix(".sha256"), library.with_suffix(".sha256"))
        files.put(built, library)
        torch.ops.load_library(str(library))
