"""The CUDA kernels under AddressSanitizer on the host, and proof that the shim shows what it is meant to show."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cuda_host import CSRC, ROOT, SANITIZE, SHIM, library, needs_compiler, run

pytestmark = needs_compiler


def _cache(pytestconfig: pytest.Config) -> Path:
    assert pytestconfig.cache is not None
    return Path(pytestconfig.cache.mkdir("cuda_host"))


_TOY = """
#include "host_shim.h"
#include <cstdio>
#include <vector>

__global__ void reverse(const float* in, float* out, int count) {
  __shared__ float shared[64];
  int thread = threadIdx.x;
  shared[thread] = in[blockIdx.x * 64 + thread %s];
  %s
  out[blockIdx.x * 64 + thread] = shared[63 - thread];
}

int main() {
  std::vector<float> in(128), out(128);
  for (int i = 0; i < 128; ++i) in[i] = i;
  host_shim::run(2, 64, [&] { reverse(in.data(), out.data(), 128); });
  int wrong = 0;
  for (int i = 0; i < 128; ++i) wrong += out[i] != i / 64 * 64 + 63 - i %% 64;
  std::printf("%%d", wrong);
}
"""


@pytest.mark.parametrize(
    "fault, offset, barrier",
    [
        ("none", "", "__syncthreads();"),
        ("race", "", ""),
        ("bounds", "+ 1", "__syncthreads();"),
        ("divergence", "", "if (thread < 32) __syncthreads();"),
    ],
)
def test_a_toy_kernel_with_and_without_faults(fault: str, offset: str, barrier: str, tmp_path: Path) -> None:
    source, program = tmp_path / "toy.cpp", tmp_path / "toy"
    source.write_text(_TOY % (offset, barrier))
    run(["c++", "-std=c++20", "-O1", *SANITIZE, f"-I{SHIM}", str(source), "-o", str(program)])
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    if fault == "none":
        assert (done.returncode, done.stdout) == (0, "0"), done.stderr
    elif fault == "race":
        assert done.returncode == 0
        assert int(done.stdout) > 0
    elif fault == "bounds":
        assert "heap-buffer-overflow" in done.stderr
    else:
        assert "miss a barrier" in done.stderr


def test_conversions_equal_torch(tmp_path: Path) -> None:
    target = tmp_path / "numbers.so"
    run(["c++", "-std=c++20", "-O2", "-fPIC", "-shared", str(SHIM / "numbers.cpp"), "-o", str(target)])
    code = ctypes.CDLL(str(target))

    def converted(name: str, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        out = torch.empty(values.shape, dtype=dtype)
        pointers = (ctypes.c_void_p(values.data_ptr()), ctypes.c_void_p(out.data_ptr()))
        getattr(code, name)(*pointers, ctypes.c_int64(values.numel()))
        return out

    every = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    bits = torch.randint(-(2**31), 2**31, (200_000,), dtype=torch.int64).to(torch.int32).view(torch.float32)
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float16, "fp16")):
        exact = every.view(dtype).float()
        torch.testing.assert_close(
            converted(f"widen_{name}", every.view(dtype), torch.float32), exact, rtol=0, atol=0, equal_nan=True
        )
        finite = exact[exact.isfinite()].sort().values
        ties = (finite[1:] + finite[:-1]) / 2  # exact in float32
        scaled = torch.randn(100_000) * 10.0 ** torch.randint(-9, 6, (100_000,))
        for values in (ties, bits, scaled, exact):
            torch.testing.assert_close(
                converted(f"narrow_{name}", values, dtype), values.to(dtype), rtol=0, atol=0, equal_nan=True
            )


_UNDER_SANITIZER = """
import sys, torch
sys.path[:0] = [{root!r}, {tests!r}]
torch.ops.load_library({library!r})
torch.set_num_threads(1)
from kernel_cases import assert_equals_definition, conv_case, linear_case, linear_delta_case
from palora_kernels import implementations
implementations.MODULES["eager"] = "palora_kernels.native.cuda.{{}}"
for dtype in (torch.float32, torch.bfloat16):
    for shared in (False, True):
        for shape in ((3, 2, 7, 6, 2, 1), (2, 3, 16, 24, 2, 5)):
            for algorithm in ("factored", "merged"):
                assert_equals_definition("linear", linear_case(*shape, shared=shared), dtype, algorithm, shared=shared)
            case = linear_delta_case(*shape[:5], shared=shared)
            assert_equals_definition("linear_delta", case, dtype, "basis", shared=shared)
        for algorithm in ("merged", "basis", "factored"):
            case = conv_case(2, 1, 2, 5, 2, 1, size=(4, 4), shared=shared)
            assert_equals_definition("conv2d", case, dtype, algorithm, shared=shared, padding=1)
print("clean")
"""


def _sanitized(code: str, seed: int = 0) -> subprocess.CompletedProcess[str]:
    # libstdc++ too: the sanitizer looks for its __cxa_throw before Python loads it.
    names = ("libasan.so", "libstdc++.so.6")
    found = [subprocess.run(["c++", f"-print-file-name={name}"], capture_output=True, text=True) for name in names]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(done.stdout.strip() for done in found),
        "ASAN_OPTIONS": "detect_leaks=0",
        "HOST_SHIM_SEED": str(seed),
    }
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_all_operators_under_address_sanitizer(pytestconfig: pytest.Config) -> None:
    built = library(_cache(pytestconfig), *SANITIZE)
    folders = {"root": str(ROOT), "tests": str(Path(__file__).parent), "library": str(built)}
    done = _sanitized(_UNDER_SANITIZER.format(**folders))
    assert done.stdout.strip() == "clean", done.stderr[-5000:]


_LONG_SUM = """
import torch
torch.ops.load_library({library!r})
x, out = torch.randn(1, 40, 5), torch.empty(1, 5)
torch.ops.palora_native.column_sums(x, None, 0, out)
y, base = torch.empty(1, 9, 5), torch.randn(1, 9, 5)
left, right = torch.randn(1, 1, 9, 12), torch.randn(1, 1, 5, 12)
torch.ops.palora_native.low_rank_update(base, left, right, None, None, 1, 9, 0, y)
good = torch.allclose(out, x.sum(1), atol=1e-4), torch.allclose(y, base + (left @ right.mT)[0], atol=1e-4)
print(*good)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit, number, expected",
    [("sums.cu", 0, "False True"), ("update.cu", 0, "True False"), ("update.cu", 1, "True False")],
)
def test_every_barrier_is_needed(
    unit: str, number: int, expected: str, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """Without any one of the kernels' barriers a result is wrong: none is idle, and a lost one would be seen."""
    copy = tmp_path / "csrc"
    shutil.copytree(CSRC, copy)
    parts = (copy / "cuda" / unit).read_text().split("__syncthreads()")
    assert len(parts) == {"sums.cu": 2, "update.cu": 3}[unit]
    parts[number : number + 2] = [f"{parts[number]}(void)0{parts[number + 1]}"]
    (copy / "cuda" / unit).write_text("__syncthreads()".join(parts))
    built = library(_cache(pytestconfig), csrc=copy)
    done = subprocess.run(
        [sys.executable, "-c", _LONG_SUM.format(library=str(built))], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == expected, done.stderr
