"""The distribution palora-torch: its metadata, and what is built of it installs and runs without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import palora
from palora.engine.environment import describe, version

ROOT = Path(__file__).parent.parent
PIECES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff")
FOLDERS = ("python", "palora_kernels", "csrc", "tests", "docs", "results", "bench", ".ci")

LENET = """
import pathlib, sys
import torch, palora, palora_kernels
for package in (palora, palora_kernels):
    assert pathlib.Path(package.__file__).is_relative_to(sys.prefix), package.__file__
model = palora.adapt(palora.models.LeNet(), tasks=2, rank=1)
with palora.at(model, torch.eye(2)):
    outputs = palora.split(model(torch.randn(3, 1, 28, 28)), 2)
print([tuple(y.shape) for y in outputs], len(palora.data.load("multimnist-small").train))
"""


def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def test_the_version_is_stated_once() -> None:
    assert "version" not in project()
    assert palora.__version__ == describe()["palora"] == version("palora")
    assert "version:" not in (ROOT / "CITATION.cff").read_text(encoding="utf-8").replace("cff-version:", "")


def test_the_citation_names_paper_and_software() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert "title: palora\ntype: software\n" in text
    assert 'title: "Pareto Low-Rank Adapters: Efficient Multi-Task Learning with Preferences"' in text
    assert [text.index(name) for name in ("Dimitriadis", "Frossard", "Fleuret")] == sorted(
        text.index(name) for name in ("Dimitriadis", "Frossard", "Fleuret")
    )
    assert "arXiv:2407.08056" in text


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_elsewhere_neither_triton_nor_ninja_is_asked_for(platform: str) -> None:
    requirements = [Requirement(text) for text in project()["dependencies"]]

    def asked(where: str) -> set[str]:
        return {r.name for r in requirements if r.marker is None or r.marker.evaluate({"sys_platform": where})}

    assert asked("linux") - asked(platform) == {"triton", "ninja"}


@pytest.mark.parametrize("platform", ["win32", "darwin", "linux without a compiler"])
def test_setup_compiles_nothing_where_it_cannot(platform: str, tmp_path: Path) -> None:
    """setup.py takes its extensions from here; torch may be installed or not."""
    program = (
        "import importlib.util, platform, shutil, sys\n"  # Python's own modules, for the real platform
        "sys.platform = sys.argv[1].split()[0]\n"
        "for name in ('fcntl', 'resource', 'pwd', 'grp', 'termios'):\n    sys.modules[name] = None\n"
        "specification = importlib.util.spec_from_file_location('build', sys.argv[2])\n"
        "build = importlib.util.module_from_spec(specification)\n"
        "specification.loader.exec_module(build)\n"
        "assert build.setup_arguments() == {}\n"
    )
    file = ROOT / "palora_kernels" / "native" / "build.py"
    environment = {name: value for name, value in os.environ.items() if name not in ("CXX", "PALORA_BUILD_NATIVE")}
    environment["PATH"] = str(tmp_path)
    command = [sys.executable, "-c", program, platform, str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The "sdist" and the "wheel", the wheel built of the unpacked sdist; no compiler is on PATH."""
    pytest.importorskip("setuptools", minversion="77", reason="setuptools 77 or newer is not installed")
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    source.mkdir()
    for name in PIECES:
        shutil.copy(ROOT / name, source)
    for path in ROOT.glob("constraints*.txt"):
        shutil.copy(path, source)
    shutil.copy(ROOT / "CONTRIBUTING.md", source)
    shutil.copy(ROOT / "Makefile", source)
    junk = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so", "build")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=junk)
    sdist = folder / _build(source, "sdist", folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked")
    (unpacked,) = (folder / "unpacked").iterdir()
    return {"sdist": sdist, "wheel": folder / _build(unpacked, "wheel", folder)}


def _build(source: Path, kind: str, into: Path) -> str:
    program = "import sys; from setuptools import build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"
    done = subprocess.run(
        [sys.executable, "-c", program, f"build_{kind}", str(into)],
        cwd=source,
        env={**os.environ, "PATH": str(into)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_the_sdist_holds_what_a_clone_needs(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert built["sdist"].name == f"palora_torch-{palora.__version__}.tar.gz"
    for name in (*PIECES, "csrc/cpu/register.cpp", "csrc/cuda/ops.cpp", "tests/conftest.py", "tests/cuda/host_shim.h"):
        assert name in names
    assert {"python/palora/data/bundled/README.md", "results/gpu-check/h200.json"} <= names
    assert not [name for name in names if name.endswith((".pyc", ".so"))]


@pytest.mark.slow
def test_tables_of_measured_tiles_are_in_the_wheel(built: dict[str, Path]) -> None:
    table = "palora_kernels/measured/NVIDIA-H200.json"
    with zipfile.ZipFile(built["wheel"]) as archive:
        assert archive.read(table) == (ROOT / table).read_bytes()


@pytest.mark.slow
@pytest.mark.needs("typer", "pip", "PIL", "safetensors")
@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_it_installs_and_runs_elsewhere(kind: str, built: dict[str, Path], tmp_path: Path) -> None:
    """In a new environment that sees this one's packages, without a compiler and outside the checkout."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True, timeout=120)
    python = tmp_path / "venv" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CXX")}
    environment["PATH"] = str(python.parent)

    def run(*command: str | Path) -> str:
        words = [str(word) for word in command]
        done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    seen = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))  # of this environment
    (Path(where) / "packages.pth").write_text("\n".join(seen) + "\n")
    install = ("install", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed")
    run(python, "-m", "pip", *install, built[kind])
    assert run(python.parent / "palora", "--version") == f"palora {palora.__version__}\n"
    assert run(python, "-m", "palora", "--version") == f"palora {palora.__version__}\n"
    name = "import importlib.metadata as m; print(m.version('palora-torch'))"
    assert run(python, "-c", name) == f"{palora.__version__}\n"
    assert run(python, "-c", LENET).splitlines()[-1].startswith("[(2, 3, 10), (2, 3, 10)] ")
