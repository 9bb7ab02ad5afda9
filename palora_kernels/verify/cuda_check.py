"""`python -m palora_kernels.verify.cuda_check`: compile every CUDA kernel and show what it takes from a multiprocessor.

Needs nvcc, but no GPU and no CUDA build of torch. Prints registers, shared memory and spilled bytes for sm_80, sm_90
and sm_100; ``--arch 80 90`` chooses others. Exits with 1 if a kernel spills, with 2 if there is no nvcc.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from palora_kernels.native import build_cuda

ARCHITECTURES = ("80", "90", "100")
_TYPES = {"f": "float32", "d": "float64", "4bf16": "bfloat16", "4fp16": "float16"}


@dataclass(frozen=True)
class Usage:
    """One kernel as ptxas compiled it for one architecture; sizes in bytes."""

    kernel: str
    architecture: str
    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int

    @property
    def spills(self) -> bool:
        return self.stack + self.spill_stores + self.spill_loads > 0


def readable(symbol: str) -> str:
    """A mangled kernel name as "update_kernel float32 x4": its template arguments are a type and a width."""
    found = re.search(r"\d+([a-z_]+_kernel)I(?:NS_)?(f|d|4bf16|4fp16)E?Li(\d+)E", symbol)
    if found is None:
        return symbol
    return f"{found.group(1)} {_TYPES[found.group(2)]} x{found.group(3)}"


def parse(text: str) -> list[Usage]:
    """What `nvcc -Xptxas -v` reported."""
    entries = re.split(r"Compiling entry function ", text)[1:]
    usages = []
    for entry in entries:
        name = re.match(r"'(\w+)' for 'sm_(\w+)'", entry)
        memory = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", entry)
        registers = re.search(r"Used (\d+) registers", entry)
        shared = re.search(r"(\d+) bytes smem", entry)
        if name is None or memory is None or registers is None:
            raise RuntimeError(f"ptxas reported something unexpected: {entry[:300]}")
        usages.append(
            Usage(
                readable(name.group(1)),
                name.group(2),
                int(registers.group(1)),
                int(shared.group(1)) if shared else 0,
                *map(int, memory.groups()),
            )
        )
    return usages


def compile_all(architectures: Sequence[str] = ARCHITECTURES, csrc: Path | None = None) -> list[Usage]:
    """Compile every kernel file for every architecture. Raises RuntimeError where nvcc is missing or fails."""
    compiler, source = build_cuda.nvcc(), csrc or build_cuda.source_folder()
    if compiler is None or source is None:
        raise RuntimeError(build_cuda.toolkit_obstacle() or "no CUDA toolkit")

    def compiled(unit: str) -> list[Usage]:
        codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
        with tempfile.TemporaryDirectory() as folder:
            command = [compiler, *build_cuda.KERNEL_FLAGS, *codes, "-Xptxas", "-v", "-c", source / "cuda" / unit]
            out = [str(part) for part in (*command, "-o", Path(folder) / "out.o")]
            done = subprocess.run(out, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"nvcc failed on {unit}:\n{done.stderr}")
        return parse(done.stderr)

    with ThreadPoolExecutor(2) as pool:
        usages = [usage for found in pool.map(compiled, build_cuda.KERNELS) for usage in found]
    return sorted(usages, key=lambda u: (u.kernel, int(u.architecture)))


def table(usages: Sequence[Usage]) -> str:
    lines = [f"{'kernel':34}{'sm':>5}{'registers':>11}{'shared B':>10}{'spilled B':>11}"]
    for u in usages:
        spilled = u.spill_stores + u.spill_loads
        lines.append(f"{u.kernel:34}{u.architecture:>5}{u.registers:>11}{u.shared:>10}{spilled:>11}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--arch", nargs="+", default=list(ARCHITECTURES), help="compute capabilities, as 80 90 100")
    chosen = parser.parse_args(arguments)
    compiler = build_cuda.nvcc()
    if compiler is None:
        print("cuda-check: nvcc was found neither in CUDA_HOME nor on PATH; nothing was compiled.", file=sys.stderr)
        return 2
    usages = compile_all(chosen.arch)
    print(table(usages))
    spilling = [u for u in usages if u.spills]
    for u in spilling:
        print(f"cuda-check: {u.kernel} spills on sm_{u.architecture}", file=sys.stderr)
    version = build_cuda.toolkit_version(compiler)
    print(f"{len(usages)} kernels compiled by nvcc {version}, {len(spilling)} of them spill.")
    return 1 if spilling else 0


if __name__ == "__main__":
    raise SystemExit(main())
