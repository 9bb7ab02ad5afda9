"""Packages that only parts of palora need: each absence is one sentence, and the rest works without."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from palora.errors import PaloraError
from palora.optional import REQUIREMENTS, MissingPackageError, need

ROOT = Path(__file__).parent.parent
POSIX = ("fcntl", "resource", "pwd", "grp", "termios")

USE = """
import sys
from absent import hide
hide(*sys.argv[1:])

import torch
import palora

torch.manual_seed(0)
model = palora.models.LeNet()
x, rays = torch.randn(4, 1, 28, 28), palora.schedules.Annealed(tasks=2, rays=3)(0.5)
plain = [y.detach() for y in model(x)]
palora.adapt(model, tasks=2, rank=1)
with palora.at(model, rays):
    outputs = palora.split(model(x), 3)
losses = torch.stack([y.square().mean((1, 2)) for y in outputs], dim=1)
(rays * losses).sum().backward()
assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
for ours, before in zip(palora.merge(model, (0.3, 0.7))(x), plain):
    torch.testing.assert_close(ours, before)  # adapters begin at zero
front = palora.simplex_grid(2, 4)
assert palora.nondominated(front).all() and palora.knee(palora.Front(front, front.flip(1))) is not None
assert palora.monotonicity(front, -front).tolist() == [-1.0, -1.0]
palora.methods.build("palora", 2)
assert palora.recipes.names() and palora.data.describe() and palora.engine
import palora.bench.device.run
"""
"""What works without any of them, whatever is absent (the arguments)."""

MODULES = """
import importlib, sys, sysconfig
from absent import hide
hidden, names = sys.argv[1].split(","), sys.argv[2:]
hide(*hidden)
import torch

sysconfig.get_config_vars()  # read from a file named after the real platform
sys.platform = {platform!r}
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{{name}}: {{type(error).__name__}}: {{error}}")
"""
"""Import every module; print those that cannot be imported and why."""


def modules(package: str, root: Path) -> list[str]:
    """All modules of a package, from its files, but those that are programs."""
    files = sorted((root / package).rglob("*.py"))
    names = [".".join(file.relative_to(root).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def run(program: str, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """`program` in a process that finds this checkout, `absent`, and nothing on PATH: no compiler, no ninja."""
    found = os.pathsep.join([str(ROOT), str(ROOT / "python"), str(ROOT / "tests"), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": found, "PATH": path, "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, *(["-c", program] if program else []), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


OPTIONAL = ("triton", "ninja", "mpl_toolkits", *REQUIREMENTS)


@pytest.mark.parametrize(
    "hidden",
    [
        pytest.param(OPTIONAL, id="all"),
        *(pytest.param((name,), id=name, marks=pytest.mark.slow) for name in OPTIONAL),
    ],
)
def test_layers_rays_and_fronts_work_without(hidden: tuple[str, ...], tmp_path: Path) -> None:
    done = run(USE, *hidden, path=str(tmp_path))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("platform", ["linux", "win32", pytest.param("darwin", marks=pytest.mark.slow)])
def test_what_cannot_be_imported_without_says_why(platform: str) -> None:
    """On Windows the modules of POSIX are absent too. Only the command line and figures need a package at import."""
    hidden = OPTIONAL if platform == "linux" else (*OPTIONAL, *POSIX)
    names = [*modules("palora_kernels", ROOT), *modules("palora", ROOT / "python")]
    assert len(names) > 200
    done = run(MODULES.format(platform=platform), ",".join(hidden), *names)
    assert done.returncode == 0, done.stderr
    failed = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    for name, why in failed.items():
        if name.startswith("palora.cli"):
            assert why.startswith("MissingPackageError: The command line needs typer"), (name, why)
        elif name.startswith(("palora.report", "palora.explore")):
            assert why.startswith("MissingPackageError: Drawing figures needs matplotlib"), (name, why)
        else:
            assert name.startswith(("palora_kernels.triton.", "palora_kernels.verify.")), (name, why)
            assert why == "ModuleNotFoundError: No module named 'triton'", (name, why)


def test_the_kernels_import_nothing_of_the_pipeline() -> None:
    """Whatever is installed: not palora, and no package that only parts of palora need."""
    program = (
        "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    names = [name for name in modules("palora_kernels", ROOT) if ".triton." not in name and ".variants" not in name]
    done = run(program, *names)
    assert done.returncode == 0, done.stderr
    assert not {"palora", *REQUIREMENTS} & set(done.stdout.split())


def test_no_file_of_the_kernels_names_them() -> None:
    """Nor later, inside a function."""
    imports = re.compile(rf"^\s*(?:import|from)\s+(palora|{'|'.join(REQUIREMENTS)})\b", re.MULTILINE)
    for file in (ROOT / "palora_kernels").rglob("*.py"):
        assert not imports.findall(file.read_text()), file


def test_a_missing_package_is_one_sentence() -> None:
    with pytest.raises(MissingPackageError) as caught:
        need("torchjd.no_such_module", "The method 'x'")
    assert isinstance(caught.value, PaloraError)
    assert isinstance(caught.value, ImportError)
    text = str(caught.value)
    assert text.startswith("The method 'x' needs torchjd, which cannot be imported here (No module named 'torchjd")
    assert text.endswith("): pip install 'torchjd>=0.18,<0.19'.")


def test_what_reads_and_writes_files_says_what_is_missing() -> None:
    program = (
        "from absent import hide; hide('safetensors', 'PIL')\n"
        "import numpy, palora, palora.data.cache, palora.data.collage as collage\n"
        "model = palora.adapt(palora.models.MLP(2, (3,), (1, 1)), 2, 1)\n"
        "for call in (lambda: palora.save_adapters(model, 'never'), lambda: palora.load_adapters(model, __file__),\n"
        "             lambda: palora.data.cache.cached('x', {}, dict),\n"
        "             lambda: collage.resize(numpy.zeros((1, 4, 4), dtype='u1'), 2)):\n"
        "    try:\n        call()\n    except palora.PaloraError as error:\n        print(error)\n"
    )
    done = run(program.replace("__file__", repr(__file__)))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(", which")[0] for line in lines] == [
        "A file of adapters needs safetensors",
        "A file of adapters needs safetensors",
        "The cache of prepared data needs safetensors",
        "Resizing pictures needs PIL",
    ]
    assert lines[-1].endswith("pip install 'pillow>=10'.")


def test_what_to_install_is_what_the_metadata_ask_for() -> None:
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [Requirement(text) for text in (*project["dependencies"], *extras["methods"], *extras["onnx"])]
    ranges = {requirement.name: requirement.specifier for requirement in asked}
    for text in REQUIREMENTS.values():
        requirement = Requirement(text)
        assert requirement.specifier == ranges[requirement.name], text


@pytest.mark.parametrize(
    "hidden",
    ["typer", "moocore", *(pytest.param(name, marks=pytest.mark.slow) for name in ("matplotlib", "rich"))],
)
def test_the_command_line_says_what_is_missing_before_it_works(hidden: str, tmp_path: Path) -> None:
    if hidden != "typer":
        pytest.importorskip("typer", reason="the package typer is not installed")
    program = (
        f"from absent import hide; hide({hidden!r}, {'mpl_toolkits'!r})\n"
        f"import sys; sys.argv = ['palora', 'train', 'multimnist-small', '--out', {str(tmp_path / 'run')!r}]\n"
        "from palora.__main__ import main; sys.exit(main())"
    )
    done = run(program)
    assert done.returncode == 1
    assert re.fullmatch(rf"palora: [^\n]* needs {hidden}, [^\n]*: pip install '{hidden}[^\n]*'\.\n", done.stderr)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.needs("typer")
def test_the_package_is_a_command() -> None:
    """`python -m palora`, from a checkout too; the entry point calls the same function."""
    import palora

    done = run("", "-m", "palora", "--version")
    assert (done.returncode, done.stdout) == (0, f"palora {palora.__version__}\n"), done.stderr


@pytest.mark.slow
@pytest.mark.needs("typer")
def test_the_benchmark_needs_nothing_else(tmp_path: Path) -> None:
    """The command itself; on a GPU `--device cuda` runs the same imports."""
    program = (
        "import sys; from absent import hide; hide('moocore', 'matplotlib', 'mpl_toolkits', 'safetensors', 'PIL')\n"
        "sys.argv = ['palora', 'bench', '--only', 'no such group', '--device', 'cpu']\n"
        "from palora.__main__ import main; sys.exit(main())"
    )
    done = run(program, path=str(tmp_path))
    assert done.returncode == 0, done.stderr
