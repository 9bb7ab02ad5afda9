"""Make the virtual environment of the Makefile: `python .ci/make_venv.py FOLDER [EXTRA ...]`.

Standard library only, and no syntax newer than Python 3.6: an old interpreter must get as far as the message.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

OLDEST = (3, 10)
ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="where the environment goes")
    parser.add_argument("extras", nargs="*", help="extras of pyproject.toml: test, lint, methods")
    parser.add_argument("--torch-index", default="", help="index of CPU builds of PyTorch")
    parser.add_argument("--installer", default="auto", choices=["auto", "uv", "pip"])
    parser.add_argument("--constraints", default="constraints.txt", help="the file of versions to install")
    options = parser.parse_args()
    check_version()
    folder = Path(options.folder)
    uv = find_uv(options.installer)
    create(folder, uv)
    install(folder, uv, options)


def check_version() -> None:
    if sys.version_info < OLDEST:
        found = "{}.{}.{}".format(*sys.version_info[:3])
        sys.exit(
            f"palora needs Python 3.10 or newer. Found {found} at {sys.executable}.\n"
            "Name another interpreter: make PYTHON=/path/to/python3.11"
        )


def find_uv(installer: str) -> "str | None":
    if installer == "pip":
        return None
    uv = shutil.which("uv")
    if uv is None and installer == "uv":
        sys.exit("INSTALLER=uv was asked for, but there is no `uv` on the PATH.")
    return uv


def create(folder: Path, uv: "str | None") -> None:
    if (folder / "bin" / "python").exists():
        return
    print(f"Making {folder} with Python {sys.version.split()[0]}", flush=True)
    if uv is not None:
        run([uv, "venv", "--quiet", "--seed", "--python", sys.executable, str(folder)])
    elif subprocess.call([sys.executable, "-m", "venv", str(folder)]) != 0:
        shutil.rmtree(str(folder), ignore_errors=True)
        sys.exit(
            f"`{sys.executable} -m venv` failed. On Debian and Ubuntu it needs a package of its own:\n"
            f"apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        )


def install(folder: Path, uv: "str | None", options: argparse.Namespace) -> None:
    python = str(folder / "bin" / "python")
    if uv is not None:
        # pip's rule, the best version of all indexes: uv alone would take whatever the first index has.
        command = [uv, "pip", "install", "--python", python, "--index-strategy", "unsafe-best-match"]
    else:
        command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    if options.torch_index and wants_cpu_build(options.torch_index):
        command += ["--extra-index-url", options.torch_index]
    what = f".[{','.join(options.extras)}]" if options.extras else "."
    print(f"Installing palora and what it needs ({'uv' if uv else 'pip'}); PyTorch takes a while", flush=True)
    run([*command, "--constraint", options.constraints, "--editable", what])


def wants_cpu_build(index: str) -> bool:
    """Whether to ask the index of CPU builds: there is no NVIDIA GPU and the index answers.

    The CPU build is a tenth of the size of the CUDA build that the usual index has. Where the index cannot be
    reached (no network, wheels found by pip's own settings) pip would try it anew for every package.
    """
    if shutil.which("nvidia-smi") is not None:
        return False
    if answers(index):
        return True
    print(f"{index} does not answer: PyTorch comes from pip's usual index", flush=True)
    return False


def answers(index: str, seconds: int = 3) -> bool:
    """Ask in a process of its own: no timeout of urllib covers a name server that does not reply."""
    child = os.fork()
    if child == 0:
        signal.alarm(seconds)
        try:
            with urllib.request.urlopen(index.rstrip("/") + "/torch/", timeout=seconds):
                os._exit(0)
        except (OSError, ValueError):
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def run(command: "list[str]") -> None:
    status = subprocess.call(command, cwd=str(ROOT))
    if status != 0:
        sys.exit(f"This command failed with status {status}: {' '.join(command)}")


if __name__ == "__main__":
    main()
