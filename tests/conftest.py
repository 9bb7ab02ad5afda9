"""Shared by all tests: fixed seeds, folders of their own (isolation.py), and where the Triton kernels run.

Without a GPU they run in Triton's interpreter on CPU tensors, its arithmetic corrected (triton_interpreter.py) and
every access checked for races and bounds (palora_kernels.verify.races); with one, the same tests run on the device.
Triton reads TRITON_INTERPRET when a kernel is decorated, so the choice is made here, before any test file imports one.
Programs that need compiled kernels start a process without the variable.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

pytest_plugins = ["isolation"]

# Kernels are compared with the exact definition. What PyTorch allows convolutions unless told otherwise is tested where
# it is meant.
torch.backends.cudnn.allow_tf32 = False
# Tests lay NaN beside what a plan may read. Where a CPU has AMX, oneDNN's product of bfloat16 matrices multiplies what
# lies behind a row of odd length by zero, and 0*NaN is NaN.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton") is not None:
    import triton_interpreter

    from palora_kernels.verify import races

    triton_interpreter.correct()
    WATCHED = races.watch()


def pytest_report_header() -> str:
    """Which data sets the tests read as published; of all others they read bundled or generated files."""
    from palora.data import describe
    from palora.data.folder import data_root

    if not os.environ.get("PALORA_DATA"):
        return "data: bundled and generated (PALORA_DATA is not set)"
    published = [row.name for row in describe() if row.present and not row.name.startswith("multi")]
    return f"data: as published in {data_root()}: {', '.join(published) or 'nothing'}; else bundled and generated"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.needs("moocore")`: only parts of palora need that package, and the other tests run without."""
    for mark in item.iter_markers("needs"):
        for package in mark.args:
            pytest.importorskip(package, reason=f"the package {package} is not installed")


@pytest.hookimpl(tryfirst=True)  # before xdist starts its workers
def pytest_sessionstart(session: pytest.Session) -> None:
    """Build the C++ extension if the tests' cache has none, lest a test with a time limit waits for the compiler."""
    from palora_kernels.native import build, loading

    extension = loading._EXTENSIONS["cpu"]
    if build.obstacle() is None and extension.installed() is None and not extension.cached().is_file():
        session.config.get_terminal_writer().line(f"building the C++ extension once, into {loading.cache_folder()}")
        subprocess.run([sys.executable, "-m", "palora_kernels.native"], check=True, stderr=subprocess.DEVNULL)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _forget() -> None:
    """No test takes launches from the memory of another, which may have changed what they depend on."""
    from palora_kernels import direct
    from palora_kernels.triton.launching import replay

    direct.forget()
    replay.forget()


@pytest.fixture(scope="session")
def device() -> str:
    """Where Triton kernels run: "cuda" where there is a GPU, else "cpu" (the interpreter)."""
    return DEVICE
