"""Files that are the old ones or the whole new ones: permissions, crashes, what a dead writer leaves."""

from __future__ import annotations

import errno
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import palora
from palora.data.cache import cache_path, cached
from palora.errors import PaloraError, UnwritableError
from palora.evaluation import Front
from palora.files import replacing, write_file, writing
from palora_kernels import files
from palora_kernels.triton.launching import tuning

ROOT = Path(__file__).parents[1]


class Crash(BaseException):
    """What a signal handler may raise anywhere."""


def test_a_crash_at_any_moment_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write(path, "old")

    def crash(*args: Any, **options: Any) -> None:
        raise Crash

    for name in ("mkdir", "chmod", "fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, crash)
            with pytest.raises(Crash):
                files.write(path, "new")
        assert path.read_text() == "old"

    def half() -> None:
        with files.replacing(path) as new:
            new.write_text("half of the n")
            raise Crash

    with pytest.raises(Crash):
        half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_content_is_on_the_disk_before_the_name_changes_and_the_name_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noting_fsync(handle: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else f"file of {os.fstat(handle).st_size}"
        happened.append(f"sync {kind}")
        fsync(handle)

    def noting_replace(old: Any, new: Any) -> None:
        happened.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    files.write(tmp_path / "file", b"12345")
    assert happened == ["sync file of 5", "replace", "sync folder"]


def layer() -> nn.Module:
    return palora.adapt(nn.Sequential(nn.Linear(2, 2)), 2, 1)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "text": lambda path: write_file(path, "text"),
    "front": lambda path: Front(torch.eye(2), torch.eye(2), {}, ("a", "b"), "").save(path),
    "adapters": lambda path: palora.save_adapters(layer(), path),
    "tuning": lambda path: tuning.write(path, tuning.Tuning(), {}),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_permissions_are_those_of_the_umask(name: str, umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        WRITERS[name](tmp_path / "deeper" / "file.json")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "deeper" / "file.json").stat().st_mode) == 0o666 & ~umask
    assert os.listdir(tmp_path / "deeper") == ["file.json"]


def test_the_cache_of_prepared_data_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALORA_CACHE", str(tmp_path))
    before = os.umask(0o022)
    try:
        cached("set", {"seed": 1}, lambda: {"x": torch.zeros(3)})
    finally:
        os.umask(before)
    assert stat.S_IMODE(cache_path("set", {"seed": 1}).stat().st_mode) == 0o644


KILLED = """
import os, signal, sys
from palora_kernels import files
with files.replacing(sys.argv[1]) as new:
    new.write_text("half")
    (new.parent / ".of-a-library").write_text("half")
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    path = tmp_path / "file [1]"
    other = tmp_path / ".file [1].0123.tmp"
    other.write_text("somebody else's")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        assert child.stdout.readline() == b"ready\n"
        files.write(path, "mine")
        files.sweep(tmp_path)
        assert len(os.listdir(tmp_path)) == 3  # the living one's is there
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=30)
    files.write(tmp_path / "another", "")
    assert len(os.listdir(tmp_path)) == 4
    files.write(path, "mine again")
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, other.name, "another"])


def test_two_writers_do_each_other_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with files.replacing(path) as one, files.replacing(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_one_sentence_however_it_is_wrapped(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UnwritableError, match=r"file cannot be written: No space left on device$"), writing("file"):
        raise full
    pytorch = RuntimeError("unexpected pos 704 vs 598")
    pytorch.__context__ = full
    with pytest.raises(UnwritableError, match=r"No space left on device$"), replacing(tmp_path / "file"):
        raise pytorch
    with pytest.raises(RuntimeError, match="a defect"), writing("file"):
        raise RuntimeError("a defect")
    with pytest.raises(PaloraError, match="known already"), writing("file"):
        raise PaloraError("known already") from full
    assert os.listdir(tmp_path) == []


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A limit on the size of files stands in for it: PyTorch and safetensors find the same kind of error there."""
    program = """
import resource, signal, sys, torch, palora
from pathlib import Path
from torch import nn
from palora.errors import UnwritableError
from palora.files import replacing
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
model = palora.adapt(nn.Sequential(nn.Linear(300, 300)), 2, 50)
palora.save_adapters(model, folder / "adapters")
before = (folder / "adapters").read_bytes()
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
def checkpoint():
    with replacing(folder / "last.pt") as new, new.open("wb") as file:
        torch.save(model.state_dict(), file)
for write in (lambda: palora.save_adapters(model, folder / "adapters"), checkpoint):
    try:
        write()
    except UnwritableError as error:
        print(error)
assert (folder / "adapters").read_bytes() == before
assert [p.name for p in folder.iterdir()] == ["adapters"]
"""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "python")])
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths, "PALORA_BUILD_NATIVE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    adapters, checkpoint = done.stdout.splitlines()
    assert adapters.startswith(f"{tmp_path}/adapters cannot be written: ")
    assert "File too large" in adapters
    assert checkpoint == f"{tmp_path}/last.pt cannot be written: File too large"


def test_nothing_else_renames_files() -> None:
    """One place writes files atomically; an export is a folder, which it swaps whole."""
    found = [
        path.relative_to(ROOT)
        for folder in ("python/palora", "palora_kernels")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"os\.(replace|rename)|mkstemp|\.rename\(", path.read_text(encoding="utf-8"))
    ]
    folders = {Path("python/palora/exporting/run.py"), Path("python/palora/exporting/writing.py")}
    assert set(found) - folders == {Path("palora_kernels/files.py")}
