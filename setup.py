"""Where the two packages lie, and the C++ and CUDA extensions; everything else is in pyproject.toml."""

import importlib.util
from pathlib import Path

from setuptools import find_packages, setup

# One description of the build serves this file and the build on first use. It is loaded by its path: importing the
# package would import torch, which an isolated build does not have.
_spec = importlib.util.spec_from_file_location(
    "palora_native_build", Path(__file__).parent / "palora_kernels" / "native" / "build.py"
)
assert _spec is not None
assert _spec.loader is not None
build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)

setup(
    packages=find_packages(".", include=["palora_kernels", "palora_kernels.*"])
    + find_packages("python", include=["palora", "palora.*"])
    + [f"palora_kernels.native.csrc{part}" for part in ("", ".cpu", ".cuda", ".device")],
    package_dir={
        "palora": "python/palora",
        "palora_kernels": "palora_kernels",
        "palora_kernels.native.csrc": "csrc",  # the sources travel along, for the build on first use
    },
    package_data={
        "palora": ["py.typed", "data/bundled/*", "report/page/assets/*", "report/page/assets/vendor/*"],
        "palora_kernels": ["py.typed", "measured/*.json", "measured/*.md"],
        "palora_kernels.native.csrc.cpu": ["*.cpp", "*.h"],
        "palora_kernels.native.csrc.cuda": ["*.cu", "*.cpp", "*.h"],
        "palora_kernels.native.csrc.device": ["*.h"],
    },
    **build.setup_arguments(),
)
