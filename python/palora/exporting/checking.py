"""Load what was written in another process, where palora cannot be imported, and compare what it answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from palora.errors import PaloraError

TOLERANCE = 1e-4
"""The largest difference that counts as rounding, relative to the largest value of an output (float32)."""

PROGRAM = '''
import json, sys
from collections.abc import Mapping
from importlib.abc import MetaPathFinder

folder, load, path = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
sys.path[:] = path
sys.dont_write_bytecode = True


class Block(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("palora", "palora_kernels"):
            raise ImportError(f"{name} is not to be imported here")


sys.meta_path.insert(0, Block())
sys.path.insert(0, folder)

import torch

def flat(value):
    if not isinstance(value, (list, tuple, Mapping)):
        return [torch.as_tensor(value)]
    parts = value if isinstance(value, (list, tuple)) else list(value.values())
    return [tensor for part in parts for tensor in flat(part)]

torch.set_grad_enabled(False)
inputs, expected = torch.load(f"{folder}/.check.pt", weights_only=True)
answer = {}
exec(load, answer)
largest = 0.0
for count in (len(inputs[0]), 1):
    outputs = flat(answer["model"](*(x[:count] for x in inputs)))
    assert len(outputs) == len(expected), f"{len(outputs)} outputs instead of {len(expected)}"
    for found, wanted in zip(outputs, expected):
        wanted = wanted[:count]
        assert found.shape == wanted.shape, f"shape {tuple(found.shape)} instead of {tuple(wanted.shape)}"
        scale = max(1.0, wanted.abs().max().item())
        difference = ((found.double() - wanted.double()).abs().max() / scale).item()
        largest = max(largest, difference) if difference == difference else float("inf")
assert not any(name.partition(".")[0] in ("palora", "palora_kernels") for name in sys.modules)
print("largest", largest)
'''


def check(folder: Path, load: str, inputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Run `load`, Python that defines ``model(*inputs)``, in `folder`, on all rows and on one row.

    Returns the largest difference from `expected`, relative to each output's largest value (at least 1). Raises
    PaloraError where it is above TOLERANCE, or what was written cannot be loaded.
    """
    path = json.dumps([entry for entry in sys.path if entry])
    command = [sys.executable, "-I", "-c", PROGRAM, str(folder.resolve()), load, path]
    exchange = folder / ".check.pt"
    torch.save(([x.detach().cpu() for x in inputs], [y.detach().cpu() for y in expected]), exchange)
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    finally:
        exchange.unlink()
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    if done.returncode:
        raise PaloraError(f"What was written does not work without palora: {last.rstrip('.')}.")
    largest = float(done.stdout.split()[-1])
    if not largest <= TOLERANCE:
        raise PaloraError(f"What was written answers differently: by {largest:.2g}, where {TOLERANCE:g} is rounding.")
    return largest
