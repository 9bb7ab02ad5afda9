"""A short command that dies at its k-th file operation, for every k, and is then gone on with as it says itself.

    python crash_points.py FOLDER DEATH NUMBER COMMAND …       (palora's, without --out)

DEATH: "kill" (the process is gone at once), "full" (this operation finds the disk full) or "stays full" (the following
ones too), and NUMBER 1 for each operation, 5 for each fifth; or "random", and SIGKILL at NUMBER moments. Every try is a
process of its own, forked from this one, which has run the command once on one thread. Prints as JSON how often it died
and what went wrong.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

OPERATIONS = ("open", "mkdir", "rmdir", "unlink", "replace", "rename", "fsync", "chmod", "ftruncate", "write")


class Dying:
    """Counts the operations below `folder`, and lets the one numbered `at` (from 0) fail by `death`."""

    def __init__(self, folder: Path, at: int | None, death: str) -> None:
        self.folder, self.at, self.death, self.count = os.path.realpath(folder), at, death, 0
        self.ended = False

    def install(self) -> None:
        for name in OPERATIONS:
            setattr(os, name, self._counted(getattr(os, name)))
        original = io.open

        def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            if not set(mode) & set("wax+") or not self._concerns(file):
                return original(file, mode, *args, **options)
            self._happens()
            return Written(original(file, mode, *args, **options), self._happens)

        io.open = builtins.open = opened  # type: ignore[assignment]

    def _counted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **options: Any) -> Any:
            if self._concerns(args[0], options.get("dir_fd")):
                self._happens()
            return original(*args, **options)

        return operation

    def _concerns(self, what: Any, folder: int | None = None) -> bool:
        if isinstance(what, int) or folder is not None:
            link = f"/proc/self/fd/{what if isinstance(what, int) else folder}"
            path = os.readlink(link) if os.path.lexists(link) else ""
        else:
            path = os.path.abspath(os.fspath(what))
        return f"{path}/".startswith(f"{self.folder}/")

    def _happens(self) -> None:
        number, self.count = self.count, self.count + 1
        if self.ended or self.at is None or number < self.at or (number > self.at and self.death != "stays full"):
            return
        if self.death == "kill":
            os._exit(137)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Written:
    """A file whose first write counts; with a thousand others, it would take hours."""

    def __init__(self, file: Any, happens: Callable[[], None]) -> None:
        self.file, self.happens = file, happens

    def write(self, content: Any) -> Any:
        happens, self.happens = self.happens, lambda: None
        happens()
        return self.file.write(content)

    def __enter__(self) -> Written:
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def attempt(words: list[str], dying: Dying | None = None, seconds: float | None = None) -> tuple[int, str, int]:
    """Run a command of palora's in a process of its own, for so many `seconds` at most: its status, what it said on
    stderr, its operations."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            if dying is not None:
                dying.install()
            status = run(words)
        if dying is not None:
            dying.ended = True
        with os.fdopen(writing, "w") as pipe:
            json.dump((status, said.getvalue(), dying.count if dying else 0), pipe)
        os._exit(0)
    os.close(writing)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return tuple(json.loads(answer)) if answer else (137, "", 0)  # type: ignore[return-value]


def run(words: list[str]) -> int:
    from palora.cli import main

    try:
        return main(words)
    except BaseException as error:
        print(f"left by {type(error).__name__}: {error}", file=sys.stderr)
        return -1


def after(death: str, words: list[str], status: int, said: str) -> str | None:
    """Go on as the messages say; what is wrong with them, or None."""
    if death == "kill":
        status, said, _ = attempt(words)
        if status != 0 and "go on with --resume" in said:
            status, said, _ = attempt([*words, "--resume"])
        return None if status == 0 else f"status {status}: {said}"
    if status == 0:  # what failed was no more than cleaning up, which the next start does
        status, said, _ = attempt([*words, "--resume"] if words[0] == "train" else words)
        return None if status == 0 else f"status {status}: {said}"
    if status != 1 or said.count("\n") != 1 or not re.match(r"palora: .*No space left on device", said):
        return f"status {status}: {said}"
    named = re.search(r"Go on with: (.*)$", said)
    if named is None and "The same command" not in said:
        return f"names no command: {said}"
    status, again, _ = attempt(shlex.split(named[1])[1:] if named else words)
    return None if status == 0 else f"{said} but then status {status}: {again}"


def contents(folder: Path) -> dict[str, Any]:
    """Name → what is in the file; checkpoints as their tensors and numbers."""
    import torch

    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".pt":
            found[name] = repr(torch.load(path, weights_only=True))
        elif path.name not in ("environment.json", "ablation.json", "costs.jsonl"):  # the folder, and times
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def everywhere(folder: Path, death: str, every: int, words: list[str]) -> dict[str, Any]:
    """Points at which the command can die, all or each so many-th."""
    out = folder / "run"
    with contextlib.redirect_stdout(io.StringIO()):
        assert run([*words, "--out", str(folder / "warm")]) == 0
    words = [*words, "--out", str(out)]
    status, said, count = attempt(words, Dying(out, None, death))
    assert status == 0, said
    whole = contents(out)
    wrong = []
    for at in range(0, count, every):
        shutil.rmtree(out)
        status, said, _ = attempt(words, Dying(out, at, death))
        problem = after(death, words, status, said)
        problem = problem or differences(contents(out), whole)
        if problem is not None:
            wrong.append(f"operation {at} of {count}: {problem}")
    return {"died": len(range(0, count, every)), "wrong": wrong}


def at_random(folder: Path, count: int, words: list[str]) -> dict[str, Any]:
    """SIGKILL after a random time; a second one, half of the time, while the run is gone on with."""
    out, random = folder / "run", Random(0)
    with contextlib.redirect_stdout(io.StringIO()):
        assert run([*words, "--out", str(folder / "warm")]) == 0
    words = [*words, "--out", str(out)]
    began = time.monotonic()
    assert attempt(words)[0] == 0
    whole, seconds = contents(out), time.monotonic() - began
    wrong = []
    for number in range(count):
        shutil.rmtree(out)
        attempt(words, seconds=random.uniform(0, seconds))
        if random.random() < 0.5:
            begun = (out / "config.json").exists()
            attempt([*words, "--resume"] if begun else words, seconds=random.uniform(0, seconds))
        problem = after("kill", words, 137, "") or differences(contents(out), whole)
        if problem is not None:
            wrong.append(f"kill {number}: {problem}")
    return {"died": count, "wrong": wrong}


def differences(found: dict[str, Any], whole: dict[str, Any]) -> str | None:
    names = sorted(n for n in found.keys() | whole.keys() if found.get(n, 0) != whole.get(n, 0))
    return f"differs in {', '.join(names)}" if names else None


def prepare() -> None:
    """Few samples, small pictures."""
    import engine_runs
    import torch

    import palora.data
    import palora.report.ablation
    import palora.report.figures
    from palora.files import replacing

    def picture(what: Any, path: Path, **options: Any) -> None:
        with replacing(path) as new:
            new.write_bytes(b"a picture")

    torch.set_num_threads(1)  # no threads that a fork would lose
    palora.report.figures.front_figure = picture  # type: ignore[assignment]
    palora.report.ablation.ablation_figure = picture  # type: ignore[assignment]
    engine_runs.small_set()
    palora.data.load = lambda *args, **options: engine_runs.small_set()  # type: ignore[assignment]


if __name__ == "__main__":
    prepare()
    where, how, number, command = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]
    told = at_random(where, number, command) if how == "random" else everywhere(where, how, number, command)
    print(json.dumps(told))
