"""The native backend as a whole: what is said where it is absent, threads, poisoned memory, other processors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kernel_cases import assert_equals_definition, conv_case, convert, linear_case, run
from native_cases import needs_native

import palora_kernels as pk
from palora_kernels.native import build, loading

ROOT = Path(pk.__file__).parents[1]


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


_STATUS = "import palora_kernels as pk; print(pk.backends()['native'])"
_CALL = (
    "import torch, palora_kernels as pk; torch.manual_seed(0);"
    "print(pk.linear(torch.ones(4, 3), torch.ones(2, 3), None, torch.ones(2, 2, 1), torch.ones(2, 1, 3),"
    " torch.ones(2, 2)).sum().item())"
)


def test_switched_off_it_is_absent_and_everything_runs_on_eager() -> None:
    found = _python(_STATUS, PALORA_BUILD_NATIVE="0")
    assert "PALORA_BUILD_NATIVE=0" in found.stdout
    assert float(_python(_CALL, PALORA_BUILD_NATIVE="0").stdout) == 72.0
    named = _python(_CALL, PALORA_BUILD_NATIVE="0", PALORA_BACKEND="native")
    assert named.returncode != 0
    assert "PALORA_BUILD_NATIVE=0" in named.stderr


def test_without_a_compiler_the_reason_is_given(tmp_path: Path) -> None:
    found = _python(_STATUS, CXX="no-such-compiler", PALORA_CACHE=str(tmp_path))
    assert "no C++ compiler" in found.stdout or found.stdout.strip() == "available"  # available: installed built
    if "no C++ compiler" in found.stdout:
        assert float(_python(_CALL, CXX="no-such-compiler", PALORA_CACHE=str(tmp_path)).stdout) == 72.0


@pytest.mark.skipif(build.obstacle() is not None, reason="nothing can be built here")
def test_a_build_that_fails_is_said_once_and_forced_fails_loudly(tmp_path: Path) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    if loading._installed() is not None:
        pytest.skip("the extension is installed")
    environment = {"CXX": str(broken), "PALORA_CACHE": str(tmp_path)}
    found = _python(f"{_CALL};{_CALL}", **environment)
    assert found.stdout.split() == ["72.0", "72.0"]
    assert found.stderr.count("palora: building or loading the C++ extension failed") == 1
    forced = _python(_CALL, **environment, PALORA_BUILD_NATIVE="1")
    assert forced.returncode != 0
    assert "PALORA_BUILD_NATIVE=1" in forced.stderr


def test_asking_for_the_status_builds_nothing(tmp_path: Path) -> None:
    _python(_STATUS, PALORA_CACHE=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_dtype_it_does_not_serve_is_refused_by_name_and_served_by_eager() -> None:
    case = {k: v.half() if k != "lam" else v for k, v in linear_case(2, 2, 3, 3, 2, 1, shared=False).items()}
    assert pk.linear(**case).dtype == torch.float16
    if pk.backends()["native"] == "available":
        with pytest.raises(RuntimeError, match=r"'native'.*float16"):
            pk.linear(**case, backend="native")


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Uninitialised memory is filled with NaN, so that an element which is never written shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@needs_native
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("weight", [True, False])
def test_every_element_is_written(poisoned: None, shared: bool, weight: bool) -> None:
    assert torch.empty(3).isnan().all()
    case = linear_case(3, 37, 70, 35, 2, 3, shared=shared, weight=weight)
    assert_equals_definition("linear", case, torch.float32, "factored", "native", shared=shared)
    for form in ("matricised", "dense"):
        made = conv_case(3, 2, 1, 10, 2, 2, size=(11, 9), shared=True, form=form, weight=weight)
        case = convert(made, torch.float32)
        case["x"] = case["x"].detach()
        op = pk.conv2d if form == "matricised" else pk.conv2d_delta
        y = op(**case, shared=True, padding=1, backend="native")
        leaves = [v for k, v in case.items() if k != "x" and v is not None]
        assert y.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(y, leaves, torch.ones_like(y)))


@needs_native
def test_threads_do_not_disturb_each_other() -> None:
    cases = [convert(linear_case(3, 40, 64, 48, 2, 2, shared=i % 2 == 1), torch.float32) for i in range(4)]
    expected = [run(pk.linear, c, backend="native", shared=i % 2 == 1) for i, c in enumerate(cases)]
    failures: list[str] = []

    def work(i: int) -> None:
        for _ in range(20):
            found = run(pk.linear, cases[i], backend="native", shared=i % 2 == 1)
            failures.extend(k for k, v in found.items() if not torch.allclose(v, expected[i][k], atol=1e-4))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@needs_native
@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_narrower_vectors_compute_the_same(isa: str) -> None:
    """PALORA_ISA lowers the instruction set: the paths of older processors, on this one."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import torch, palora_kernels as pk\n"
        "from kernel_cases import assert_equals_definition as check, linear_case, conv_case\n"
        "torch.manual_seed(0)\n"
        "for dtype in (torch.float64, torch.float32, torch.bfloat16):\n"
        "  for shared in (False, True):\n"
        "    o = {'shared': shared, 'tested': 'native'}\n"
        "    check('linear', linear_case(3, 21, 70, 35, 2, 3, shared=shared), dtype, 'factored', **o)\n"
        "    check('conv2d', conv_case(3, 2, 3, 5, 2, 2, shared=shared), dtype, 'merged', **o)\n"
        "c = conv_case(3, 2, 2, 19, 2, 2, shared=True); x = c.pop('x')\n"
        "for v in c.values(): v.requires_grad_()\n"
        "def grads(b):\n"
        "  y = pk.conv2d(x, **c, shared=True, backend=b)\n"
        "  return [y, *torch.autograd.grad(y.sum(), list(c.values()))]\n"
        "for a, b in zip(grads('native'), grads('reference')): torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)\n"
        "print(torch.ops.palora_native.instruction_set())\n"
    )
    found = _python(code, PALORA_ISA=isa)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() in (isa, "baseline")


@pytest.mark.slow
@pytest.mark.skipif(build.obstacle() is not None, reason="nothing can be built here")
def test_first_use_builds_once_and_says_so_in_one_line(tmp_path: Path) -> None:
    if loading._installed() is not None:
        pytest.skip("the extension is installed")
    first = _python(_CALL, PALORA_CACHE=str(tmp_path))
    assert float(first.stdout) == 72.0
    assert first.stderr.count("\n") == 1
    assert "building the C++ extension once" in first.stderr
    second = _python(_CALL, PALORA_CACHE=str(tmp_path), PATH=str(tmp_path))  # found again, without any compiler
    assert float(second.stdout) == 72.0
    assert second.stderr == ""
    shutil.rmtree(tmp_path / "native")
