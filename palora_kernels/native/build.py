"""How the C++ extension is built: one description for setup.py and for building on first use.

setup.py imports this file by its path, so it imports torch only where torch is really needed, and nothing of this
package.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

FLAGS = ["-std=c++20", "-O3", "-fopenmp", "-ffp-contract=fast", "-DAT_PARALLEL_OPENMP=1"]
LINK_FLAGS = ["-fopenmp"]
UNITS = ("register", "dispatch", "kernels_avx512", "kernels_avx2", "kernels_baseline")  # what the compiler is called on
FORCE = "PALORA_BUILD_NATIVE"
_HERE = Path(__file__).resolve().parent


def source_folder() -> Path | None:
    """csrc/ beside the package in a checkout, or the copy that an installation carries."""
    for folder in (_HERE / "csrc", _HERE.parents[1] / "csrc"):
        if (folder / "cpu" / "register.cpp").is_file():
            return folder
    return None


def sources() -> list[Path]:
    folder = source_folder()
    return [] if folder is None else [folder / "cpu" / f"{unit}.cpp" for unit in UNITS]


@functools.cache
def key() -> str:
    """What a built library depends on: sources, flags, this version of torch, this kind of processor."""
    import torch

    digest = hashlib.sha256()
    folder = source_folder()
    for path in sorted((folder / "cpu").glob("*.*")) if folder is not None else []:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(" ".join([*FLAGS, *LINK_FLAGS, torch.__version__, platform.machine()]).encode())
    return digest.hexdigest()[:16]


def library_name() -> str:
    return f"palora_native_{key()}"


def compiler() -> str | None:
    """The C++ compiler that torch's build tools will call, if there is one."""
    return shutil.which(os.environ.get("CXX", "c++"))


def _ninja_folder() -> str | None:
    found = shutil.which("ninja")
    if found is not None:
        return str(Path(found).parent)
    beside = Path(sys.executable).parent  # an environment used without being activated
    return str(beside) if (beside / "ninja").is_file() else None


def obstacle() -> str | None:
    """Why the extension cannot be built here, or None. Cheap: nothing is run."""
    if os.environ.get(FORCE) == "0":
        return f"switched off by {FORCE}=0"
    if sys.platform != "linux":
        return f"the extension is built on Linux only, and this is {sys.platform}"
    if not sources():
        return "its C++ sources were not installed with this package"
    if compiler() is None:
        return f"no C++ compiler: {os.environ.get('CXX', 'c++')!r} was not found on PATH"
    if _ninja_folder() is None:
        return "ninja was not found on PATH; install it with `pip install ninja`"
    return None


def build_into(folder: Path) -> Path:
    """Compile on this machine, with ninja through torch's build tools; returns the library, which is then loaded."""
    from torch.utils import cpp_extension

    path = os.environ.get("PATH", "")
    ninja = _ninja_folder()
    if ninja is not None and ninja not in path.split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([path, ninja])
    try:
        cpp_extension.load(
            name=library_name(),
            sources=[str(source) for source in sources()],
            extra_cflags=FLAGS,
            extra_ldflags=LINK_FLAGS,
            build_directory=str(folder),
            is_python_module=False,
            verbose=False,
        )
    finally:
        os.environ["PATH"] = path
    return folder / f"{library_name()}.so"


def _build_for_cuda(work: Path, target: Path) -> None:
    """The CUDA library too, where torch was built with CUDA and there is a toolkit; elsewhere say why not."""
    specification = importlib.util.spec_from_file_location("palora_native_build_cuda", _HERE / "build_cuda.py")
    assert specification is not None
    assert specification.loader is not None
    build_cuda = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(build_cuda)
    missing = build_cuda.obstacle()
    if missing is not None:
        print(f"palora: no CUDA extension: {missing}.")
        return
    shutil.copy(build_cuda.build_into(work), target)


def setup_arguments() -> dict[str, Any]:
    """What setup.py passes to setuptools: the extension where torch and a compiler are at hand, else nothing.

    PALORA_BUILD_NATIVE=0 builds nothing; 1 makes everything that prevents the build an error, except that without a
    CUDA toolkit only the CUDA extension is left out. Without either, an installation in an isolated environment (where
    there is no torch) leaves the build to the first use.
    """
    forced = os.environ.get(FORCE) == "1"
    missing = obstacle()
    if missing is None and importlib.util.find_spec("torch") is None:
        missing = "torch is not installed in the build environment; pass --no-build-isolation to pip"
    if missing is not None:
        if forced:
            raise RuntimeError(f"{FORCE}=1, but the C++ extension cannot be built: {missing}.")
        return {}
    from torch.utils import cpp_extension

    class Build(cpp_extension.BuildExtension):  # type: ignore[misc, valid-type]
        def run(self) -> None:
            try:
                super().run()
                folder = _HERE if self.inplace else Path(self.build_lib) / "palora_kernels" / "native"
                _build_for_cuda(Path(self.build_temp) / "cuda", folder)
            except Exception as error:
                if forced:
                    raise
                print(f"palora: an extension was not built ({error}); the first use will try again.")
                self.extensions: list[Any] = []

    root = _HERE.parents[1]
    extension = cpp_extension.CppExtension(
        f"palora_kernels.native.{library_name()}",
        [os.path.relpath(source, root) for source in sources()],
        extra_compile_args=FLAGS,
        extra_link_args=LINK_FLAGS,
        py_limited_api=False,
    )
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": Build.with_options(no_python_abi_suffix=True, use_ninja=True)},
    }
