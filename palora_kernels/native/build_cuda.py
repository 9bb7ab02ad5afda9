"""How the CUDA library is built: nvcc for the kernels, the C++ compiler for the operators over torch's stable ABI.

The library needs torch's headers and a CUDA toolkit, but no GPU and not even a CUDA build of torch: beside a CPU build
it compiles and loads all the same, which is how it is tested. It is *used* where torch has CUDA; `obstacle` says so.
setup.py and `loading` both build through this file. Nothing is imported from this package, and torch only where needed.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

KERNELS = ("update.cu", "combine.cu", "sums.cu")
OPERATORS = "ops.cpp"
OLDEST_TORCH = (2, 10)  # the first whose stable ABI boxes a function by itself (TORCH_BOX)
STABLE_ABI = f"0x{OLDEST_TORCH[0]:02x}{OLDEST_TORCH[1]:02x}000000000000"
FLAGS = ["-std=c++20", "-O3", "-fPIC"]
KERNEL_FLAGS = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC"]
ARCHITECTURES = (80, 90, 100, 120)  # where no GPU is visible; the highest is also kept as PTX, for later ones
FORCE = "PALORA_BUILD_NATIVE"
_HERE = Path(__file__).resolve().parent


def source_folder() -> Path | None:
    """csrc/ beside the package in a checkout, or the copy that an installation carries."""
    for folder in (_HERE / "csrc", _HERE.parents[1] / "csrc"):
        if (folder / "cuda" / OPERATORS).is_file():
            return folder
    return None


def nvcc() -> Path | None:
    """The compiler of the toolkit in CUDA_HOME or CUDA_PATH, else nvcc on PATH, else that of /usr/local/cuda."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named:
        compiler = Path(named) / "bin" / "nvcc"
        return compiler if compiler.is_file() else None
    compiler = Path(shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
    return compiler if compiler.is_file() else None


@functools.cache
def _output(compiler: Path, option: str) -> str:
    return subprocess.run([compiler, option], capture_output=True, text=True, check=True).stdout


def toolkit_version(compiler: Path) -> str:
    """As "13.0"."""
    found = re.search(r"release (\d+\.\d+)", _output(compiler, "--version"))
    return found.group(1) if found else "unknown"


def toolkit_obstacle() -> str | None:
    """Why no CUDA source can be compiled here, or None."""
    if os.environ.get(FORCE) == "0":
        return f"switched off by {FORCE}=0"
    if sys.platform != "linux":
        return f"the CUDA library is built on Linux only, and this is {sys.platform}"
    if source_folder() is None:
        return "its sources were not installed with this package"
    if nvcc() is None:
        return "no CUDA toolkit: nvcc was found neither in CUDA_HOME nor on PATH"
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        return f"no C++ compiler: {os.environ.get('CXX', 'c++')!r} was not found on PATH"
    return None


def abi_obstacle() -> str | None:
    """Why the operators cannot be compiled against this torch, of whatever build, or None."""
    import torch

    if tuple(int(part) for part in torch.__version__.split(".")[:2]) >= OLDEST_TORCH:
        return None
    needed = ".".join(map(str, OLDEST_TORCH))
    return f"it uses the stable ABI of torch {needed} or newer, and this is torch {torch.__version__}"


def torch_obstacle() -> str | None:
    """Why this torch cannot use the library, or None. A GPU need not be visible."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed in the build environment; pass --no-build-isolation to pip"
    import torch

    if (missing := abi_obstacle()) is not None:
        return missing
    if torch.version.cuda is None:
        built = f"for ROCm {torch.version.hip}" if torch.version.hip else "for the CPU only"
        return f"this torch was built {built}"
    return None


def obstacle() -> str | None:
    """Why the library cannot be built for use here, or None."""
    missing = torch_obstacle() or toolkit_obstacle()
    compiler = nvcc()
    if missing is not None or compiler is None:
        return missing
    import torch

    assert torch.version.cuda is not None
    version = toolkit_version(compiler)
    if version.split(".")[0] != torch.version.cuda.split(".")[0]:
        return f"nvcc is of CUDA {version}, but torch was built with CUDA {torch.version.cuda}: another major version"
    return None


def visible() -> list[str]:
    """Compute capabilities of the GPUs here, as ["80", "90"]."""
    import torch

    if torch.version.cuda is None or not torch.cuda.is_available():
        return []
    found = (torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count()))
    return sorted({f"{major}{minor}" for major, minor in found}, key=int)


def architectures(compiler: Path) -> list[str]:
    """Compute capabilities to compile for: of the visible GPUs, else the usual ones that nvcc knows.

    TORCH_CUDA_ARCH_LIST ("8.0;9.0") overrides both.
    """
    listed = re.findall(r"(\d+)\.(\d+)", os.environ.get("TORCH_CUDA_ARCH_LIST", ""))
    if listed:
        return sorted({major + minor for major, minor in listed}, key=int)
    known = _output(compiler, "--list-gpu-arch").split()
    return visible() or [str(a) for a in ARCHITECTURES if f"compute_{a}" in known]


def _code_flags(targets: Sequence[str]) -> list[str]:
    flags = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in targets]
    return [*flags, f"-gencode=arch=compute_{targets[-1]},code=compute_{targets[-1]}"]


@functools.cache
def key() -> str:
    """What a built library depends on: sources, flags, this version of torch, this kind of processor."""
    import torch

    digest = hashlib.sha256()
    folder = source_folder()
    for path in sorted([*folder.glob("cuda/*"), *folder.glob("device/*")]) if folder is not None else []:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(" ".join([*FLAGS, *KERNEL_FLAGS, torch.__version__, platform.machine()]).encode())
    return digest.hexdigest()[:16]


def library_name() -> str:
    return f"palora_cuda_{key()}"


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} failed:\n{done.stderr.strip() or done.stdout.strip()}")


def build_into(folder: Path) -> Path:
    """Compile and link in ``folder``; returns the library, which is not loaded."""
    import torch

    source, compiler = source_folder(), nvcc()
    assert source is not None
    assert compiler is not None
    root = Path(torch.__file__).parent
    host = os.environ.get("CXX", "c++")
    folder.mkdir(parents=True, exist_ok=True)
    codes = _code_flags(architectures(compiler))
    torch_flags = ["-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={STABLE_ABI}", f"-I{root / 'include'}"]

    def build(unit: str) -> Path:
        out = folder / f"{unit}.o"
        if unit == OPERATORS:
            _run([host, *FLAGS, *torch_flags, "-c", source / "cuda" / unit, "-o", out])
        else:
            _run([compiler, *KERNEL_FLAGS, "-ccbin", host, *codes, "-c", source / "cuda" / unit, "-o", out])
        return out

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        objects = list(pool.map(build, [*KERNELS, OPERATORS]))
    library = folder / f"{library_name()}.so"
    # nvcc links the CUDA runtime statically, as cuBLAS and cuDNN carry theirs: no second libcudart.so is searched for.
    libraries = [f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch"]
    _run([compiler, "-shared", "-ccbin", host, *objects, "-o", library, *libraries])
    return library
