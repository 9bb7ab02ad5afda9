"""Plants one bug at a time in a copy of the packages and reports what the tests notice.

    python -m palora_kernels.verify.mutants                    all of the list, an hour or two
    python -m palora_kernels.verify.mutants --only "splitk"    those whose file or reason holds the text
    python -m palora_kernels.verify.mutants --list             is each bug's text still there, and once? Runs nothing

For each bug the tests of the default tier that should notice it are run: in the clean copy, where they have to pass,
and with the bug, where one has to fail. Exit code 1 if a bug survived, or no longer applies. Run it in a checkout:
tests are not shipped.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from palora_kernels.verify.planted import BUGS, Bug

ROOT = Path(__file__).resolve().parents[2]
_COPIED = ("palora_kernels", "python", "tests")  # what is edited, or found from the files of what is
_LEFT_OUT = shutil.ignore_patterns("__pycache__")
_SECONDS = 600  # of one run of the tests
_NOTICED, _SURVIVED, _STALE, _BROKEN = "noticed", "SURVIVED", "does not apply", "fails without the bug"


def applies(bug: Bug, root: Path = ROOT) -> bool:
    """Whether the text that the bug replaces occurs exactly once."""
    return (root / bug.file).is_file() and (root / bug.file).read_text(encoding="utf-8").count(bug.text) == 1


class Copy:
    """A copy of what the tests need; everything else in the checkout is linked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in _COPIED:
            shutil.copytree(ROOT / name, folder / name, ignore=_LEFT_OUT)
        for path in ROOT.iterdir():
            if path.name not in _COPIED and not path.name.startswith((".", "build", "runs")):
                (folder / path.name).symlink_to(path)
        self.clean: dict[str, bool] = {}  # whether tests pass here without a bug

    def outcome(self, bug: Bug) -> str:
        if not applies(bug, self.folder):
            return _STALE
        if bug.tests not in self.clean:
            self.clean[bug.tests] = self._passes(bug.tests)
        if not self.clean[bug.tests]:
            return _BROKEN
        path = self.folder / bug.file
        before = path.read_text(encoding="utf-8")
        path.write_text(before.replace(bug.text, bug.planted), encoding="utf-8")
        try:
            return _SURVIVED if self._passes(bug.tests) else _NOTICED
        finally:
            path.write_text(before, encoding="utf-8")

    def _passes(self, tests: str) -> bool:
        """Whether ``tests``, files and perhaps " -k " and an expression, pass; what never ends does not."""
        files, _, expression = tests.partition(" -k ")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
        command += [*files.split(), *(["-k", expression] if expression else [])]
        places = [str(self.folder), str(self.folder / "python")]
        # A changed file is read again, whatever its date: no bytecode is kept. The C++ kernels have no part in it.
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(places),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "PALORA_BUILD_NATIVE": "0",
        }
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=environment, timeout=_SECONDS, capture_output=True, text=True
            )
        except subprocess.TimeoutExpired:
            return False
        if done.returncode not in (0, 1, 2):  # 2: the bug broke an import
            raise RuntimeError(f"pytest could not run {tests}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.returncode == 0


def run(bugs: Sequence[Bug], jobs: int) -> Counter[str]:
    """Every outcome is printed as it comes."""
    found: Counter[str] = Counter()
    local, lock = threading.local(), threading.Lock()
    with tempfile.TemporaryDirectory(prefix="palora-mutants-") as folder, ThreadPoolExecutor(jobs) as workers:

        def one(bug: Bug) -> None:
            if not hasattr(local, "copy"):
                local.copy = Copy(Path(folder) / str(threading.get_ident()))
            start = time.monotonic()
            outcome = local.copy.outcome(bug)
            with lock:
                found[outcome] += 1
                print(f"{outcome:<{len(_BROKEN)}} {time.monotonic() - start:4.0f} s  {bug}", flush=True)

        list(workers.map(one, bugs))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m palora_kernels.verify.mutants", description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="bugs whose file or reason holds it")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="bugs that are tried at the same time: 1")
    parser.add_argument("--list", action="store_true", help="whether each still applies; nothing is run")
    options = parser.parse_args(arguments)
    bugs = [bug for bug in BUGS if options.only.lower() in str(bug).lower()]
    if options.list:
        stale = [bug for bug in bugs if not applies(bug)]
        for bug in bugs:
            print(f"{_STALE + ': ' if bug in stale else ''}{bug}")
        print(f"{len(bugs)} bugs, {len(stale)} of them no longer apply.")
        return 1 if stale else 0
    found = run(bugs, options.jobs)
    print(f"{len(bugs)} bugs: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(found.items())) + ".")
    return 0 if found[_NOTICED] == len(bugs) else 1


if __name__ == "__main__":
    sys.exit(main())
