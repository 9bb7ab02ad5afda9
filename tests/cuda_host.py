"""The CUDA sources compiled for the host: the operators under the CPU key, their kernels run by the shim. Not a test.

A GPU would run the same source lines; only the launch itself, the stream and the device's own arithmetic differ.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from palora_kernels.native import build_cuda

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
SHIM = Path(__file__).parent / "cuda"
KERNELS = ("update.cu", "combine.cu", "sums.cu")
FLAGS = ("-std=c++20", "-O1", "-fPIC", "-Wall", "-Wno-unknown-pragmas", "-DPALORA_HOST_KERNELS", f"-I{SHIM}")
SANITIZE = ("-g", "-fsanitize=address,alignment", "-fno-sanitize-recover=all")

_MISSING = build_cuda.abi_obstacle() or (None if shutil.which("c++") else "no C++ compiler")
needs_compiler = pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING))


def run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[-5000:]}"


def _content(csrc: Path) -> bytes:
    files = sorted([*csrc.glob("cuda/*"), *csrc.glob("device/*"), *SHIM.glob("*")])
    return b"\0".join(path.name.encode() + b"\0" + path.read_bytes() for path in files)


def library(cache: Path, *extra: str, csrc: Path = CSRC, units: Sequence[str] = (*KERNELS, "ops.cpp")) -> Path:
    """The shared library of ``units`` with ``extra`` flags, built once per content in ``cache``."""
    key = hashlib.sha256(_content(csrc) + " ".join([*FLAGS, *extra, *units, torch.__version__]).encode())
    folder = cache / key.hexdigest()[:16]
    target = folder / "host_kernels.so"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    torch_folder = Path(torch.__file__).parent
    flags = [*FLAGS, *extra, "-DPALORA_DISPATCH_KEY=CPU", f"-DTORCH_TARGET_VERSION={build_cuda.STABLE_ABI}"]

    def build(unit: str) -> str:
        out = folder / f"{unit}.o"
        include = [f"-I{torch_folder / 'include'}"] if unit.endswith(".cpp") else []
        run(["c++", *flags, *include, "-x", "c++", "-c", str(csrc / "cuda" / unit), "-o", str(out)])
        return str(out)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(build, units))
    unfinished = folder / "unfinished.so"
    libraries = [f"-L{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch"]
    run(["c++", "-shared", *extra, *objects, "-o", str(unfinished), *libraries])
    unfinished.replace(target)
    return target
