"""Shared by all tests: fixed seeds, and where the Triton kernels run.

Without a GPU they run in Triton's interpreter on CPU tensors, its arithmetic corrected (triton_interpreter.py); with
one, the same tests run on the device. Triton reads TRITON_INTERPRET when a kernel is decorated, so the choice is made
here, before any test file imports one. Programs that need compiled kernels start a process without the variable.
"""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton") is not None:
    import triton_interpreter

    triton_interpreter.correct()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def device() -> str:
    """Where Triton kernels run: "cuda" where there is a GPU, else "cpu" (the interpreter)."""
    return DEVICE
