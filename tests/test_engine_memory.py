"""Freed memory that stays in the process is not fetched from the system again."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys, torch
from palora.engine.memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)
def step():
    blocks = [torch.ones(9_000_000) for _ in range(4)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, mode], capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("this C library has no mallopt")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_pages_are_touched_for_the_first_time_once() -> None:
    """Four blocks of 36 MB, five times, after three times that settle the heap: kept, hardly any page comes anew.

    Blocks above 32 MiB are the ones that glibc, left to itself, maps and unmaps every time.
    """
    kept, given_back = _faults("keep"), _faults("give back")
    assert kept * 5 < given_back, (kept, given_back)
