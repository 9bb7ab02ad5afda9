"""A run folder has one writer: starts at the same time, torchrun, workers that outlive their parent."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from engine_runs import small_set

pytest.importorskip("typer")
pytest.importorskip("matplotlib")
pytest.importorskip("fcntl", reason="Windows has no fcntl, and nothing is locked there")

import palora.data
from palora.cli import main
from palora.engine import evaluate, read_metrics
from palora.engine.sole_writer import sole_writer
from palora.errors import PaloraError
from palora_kernels import files
from palora_kernels.locking import HeldError, locked

SHORT = ["--epochs", "1", "--batch", "16", "--limit", "32", "--method", "ls", "--device", "cpu"]
TRAIN = ["train", "multimnist-small", *SHORT, "--out", "run"]
ABLATE = ["ablate", "multimnist-small", *SHORT, "--seeds", "0", "--out", "run"]


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palora.data, "load", lambda *args, **options: small_set())


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "palora", *words],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.needs("moocore")
def test_of_two_starts_one_trains_and_the_other_names_it() -> None:
    words = ["train", "multimnist-small", "--epochs", "2", "--batch", "16", "--limit", "128", "--out", "run"]
    both = [start(*words) for _ in range(2)]
    said = [child.communicate(timeout=300)[1] for child in both]
    (winner,) = (child for child in both if child.returncode == 0)
    (loser,) = (child for child in both if child.returncode == 1)
    sentence = said[both.index(loser)]
    assert sentence.count("\n") == 1
    holder = rf"is being written by process {winner.pid} on \S+ \(palora train multimnist-small .*\): wait until"
    assert re.search(holder, sentence) or "is not empty: go on with --resume" in sentence, sentence
    assert [(r["kind"], r["epoch"]) for r in read_metrics("run")] == [("epoch", 1), ("epoch", 2)]
    assert not Path("run/.lock").exists()


@pytest.mark.slow
@pytest.mark.needs("moocore")
def test_many_starts_of_every_command() -> None:
    assert main([*TRAIN[:-1], "run"]) == 0
    for words in (["evaluate", "run"], [*TRAIN, "--resume"], [*ABLATE[:-1], "ablation"]):
        several = [start(*words) for _ in range(4)]
        said = [child.communicate(timeout=300)[1] for child in several]
        assert any(child.returncode == 0 for child in several)
        for child, text in zip(several, said, strict=True):
            assert child.returncode == 0 or "is being written by process" in text, text
    json.loads(Path("run/front.json").read_text())
    assert len(read_metrics("run")) == 1


@pytest.mark.usefixtures("_small")
@pytest.mark.needs("moocore")
def test_every_command_that_writes_a_run_asks_who_else_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(TRAIN) == 0
    with locked(Path("run/.lock")):
        for words in ([*TRAIN, "--resume"], ["evaluate", "run"], ABLATE):
            capsys.readouterr()
            assert main(words) == 1
            error = capsys.readouterr().err
            assert error.startswith(f"palora: The run folder run is being written by process {os.getpid()} on ")
            assert error.count("\n") == 1
    assert main(["evaluate", "run"]) == 0
    assert not Path("run/.lock").exists()


@pytest.mark.usefixtures("_small")
@pytest.mark.needs("moocore")
def test_several_processes_of_one_job_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for words in (TRAIN, ABLATE):
        assert main(words) == 1
        error = capsys.readouterr().err
        assert error == (
            "palora: One process writes a run, and 2 were started (WORLD_SIZE=2): start it without torchrun, or with "
            "--nproc-per-node 1.\n"
        )
    assert not Path("run").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(TRAIN) == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PaloraError, match="without torchrun"):
        evaluate("run")


def test_blocks_can_be_nested_but_other_threads_are_others(tmp_path: Path) -> None:
    folder = tmp_path / "deeper" / "run"
    seen: list[str] = []

    def other() -> None:
        try:
            with sole_writer(folder):
                seen.append("inside")
        except PaloraError as error:
            seen.append(str(error))

    with sole_writer(folder):
        with sole_writer(folder):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert folder.is_dir()
    assert "is being written by process" in seen[0]
    assert not folder.parent.exists()  # nothing came into it
    other()
    assert seen[1] == "inside"


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    dead = [tmp_path / ".config.json.01234567.tmp", tmp_path / "checkpoints" / ".last.pt.89abcdef.tmp"]
    for path in dead:
        path.mkdir(parents=True)
        (path / "half").write_text("half")
    (tmp_path / ".lock").write_text("process 1 on another machine")
    with sole_writer(tmp_path):
        assert not any(path.exists() for path in dead)


HOLD = """
import os, sys, time
from pathlib import Path
from palora_kernels.locking import locked
with locked(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    print(child, flush=True)
    time.sleep(600)
"""


def test_a_worker_that_outlives_its_killed_parent_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        try:
            with pytest.raises(HeldError, match=f"process {parent.pid} on "), locked(path):
                pass
            parent.kill()
            parent.wait(timeout=30)
            os.kill(worker, 0)  # it is still there
            with locked(path):
                pass
        finally:
            os.kill(worker, signal.SIGKILL)


def test_who_waits_comes_after_the_holder(tmp_path: Path) -> None:
    order: list[str] = []
    path = tmp_path / "lock"

    def waiting() -> None:
        with locked(path, wait=True):
            order.append("second")

    with locked(path):
        threads = [threading.Thread(target=waiting) for _ in range(3)]
        for thread in threads:
            thread.start()
        threads[0].join(0.3)
        order.append("first")
    for thread in threads:
        thread.join(30)
    assert order == ["first", "second", "second", "second"]
    assert not path.exists()


def test_a_file_system_without_locks_is_said_and_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.warns(UserWarning, match="run lies on a file system without locks"), sole_writer(tmp_path / "run"):
        files.write(tmp_path / "run" / "file", "text")
    assert (tmp_path / "run" / "file").read_text() == "text"


@pytest.mark.slow
@pytest.mark.needs("moocore")
def test_torchrun_itself() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "palora", *TRAIN]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "start it without torchrun" in done.stderr
    assert not Path("run").exists()
