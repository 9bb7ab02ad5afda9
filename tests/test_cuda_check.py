"""Every CUDA kernel compiles for the architectures we name, none spills, and the library loads without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from palora_kernels.native import build_cuda, loading
from palora_kernels.verify import cuda_check

ROOT = Path(__file__).parents[1]
_OBSTACLE = build_cuda.toolkit_obstacle()
needs_nvcc = pytest.mark.skipif(_OBSTACLE is not None, reason=str(_OBSTACLE))


@needs_nvcc
def test_no_kernel_spills_on_an_h100() -> None:
    usages = cuda_check.compile_all(["90"])
    # Six kernels, four dtypes, two widths.
    assert len({u.kernel for u in usages}) == 48
    assert [u for u in usages if u.spills] == []
    assert all(0 < u.registers <= 85 and u.shared <= 48 << 10 for u in usages)


@pytest.mark.slow
@needs_nvcc
def test_the_command_prints_every_kernel_for_every_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    assert cuda_check.main([]) == 0
    assert "144 kernels compiled" in capsys.readouterr().out


def test_a_spill_fails_and_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    symbol = "_ZN11palora_cuda1_13update_kernelINS_4bf16ELi8EEEvNS_6UpdateE"
    report = (
        f"ptxas info    : Compiling entry function '{symbol}' for 'sm_90'\n"
        f"ptxas info    : Function properties for {symbol}\n"
        "    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads\n"
        "ptxas info    : Used 64 registers, used 1 barriers, 16384 bytes smem\n"
    )
    usages = cuda_check.parse(report)
    assert usages == [cuda_check.Usage("update_kernel bfloat16 x8", "90", 64, 16384, 16, 12, 8)]
    monkeypatch.setattr(build_cuda, "nvcc", lambda: Path("nvcc"))
    monkeypatch.setattr(build_cuda, "toolkit_version", lambda compiler: "13.0")
    monkeypatch.setattr(cuda_check, "compile_all", lambda architectures: usages)
    assert cuda_check.main([]) == 1
    assert "update_kernel bfloat16 x8 spills on sm_90" in capsys.readouterr().err


def test_without_nvcc_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment = {**os.environ, "CUDA_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "palora_kernels.verify.cuda_check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nvcc was found neither" in done.stderr


def test_the_reason_why_there_is_no_cuda_library() -> None:
    if torch.version.cuda is not None:
        pytest.skip("this torch was built with CUDA")
    assert "built for the CPU only" in loading.status("cuda") or "ROCm" in loading.status("cuda")
    assert not loading.ready("cuda")
    assert "this torch" in str(loading.obstacle(torch.device("cuda"), torch.float16))
    assert "float16" in str(loading.obstacle(torch.device("cpu"), torch.float16))


@pytest.mark.slow
@needs_nvcc
def test_the_library_builds_and_loads_beside_any_build_of_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    built = build_cuda.build_into(tmp_path)
    code = (
        f"import torch; torch.ops.load_library({str(built)!r})\n"
        "ops = ('low_rank_update', 'combine', 'weigh', 'column_sums', 'plane_sums', 'dots')\n"
        "print(*[torch._C._dispatch_has_kernel_for_dispatch_key(f'palora_native::{op}', 'CUDA') for op in ops])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True"] * 6, done.stderr
