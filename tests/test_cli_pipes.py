"""A reader that leaves (`palora … | head -1`), and output that is closed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from engine_runs import small_set

pytest.importorskip("typer")
pytest.importorskip("matplotlib")

import palora.data
from palora.cli import main
from palora.cli.pipes import Output
from palora.engine import read_metrics

RUN = ["train", "multimnist-small", "--epochs", "2", "--batch", "16", "--limit", "32", "--rays", "2", "--device", "cpu"]
FILES = {"checkpoints", "config.json", "environment.json", "front.json", "front.pdf", "front.png", "metrics.jsonl"}
FILES |= {"costs.jsonl", "samples.json"}


@contextmanager
def nobody(monkeypatch: pytest.MonkeyPatch, *names: str) -> Iterator[None]:
    """Inside, stdout, or the streams named, is a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    with monkeypatch.context() as patch, os.fdopen(writing, "w") as stream:  # closing it finds nothing that could fail
        for name in names or ("stdout",):
            patch.setattr(sys, name, stream)
        yield


@pytest.mark.parametrize("words", [["recipes"], ["--help"], ["train", "--help"], ["data", "list"], ["doctor"]])
def test_a_command_that_only_prints_ends_quietly(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with nobody(monkeypatch):
        assert main(words) == 141
    assert capsys.readouterr().err == ""


@pytest.mark.needs("moocore")
def test_a_training_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(palora.data, "load", lambda *args, **options: small_set())
    with nobody(monkeypatch):
        assert main([*RUN, "--out", "run"]) == 0
    assert {p.name for p in Path("run").iterdir()} == FILES
    assert [r["epoch"] for r in read_metrics("run")] == [1, 2]
    for words in (["evaluate", "run"], ["ablate", *RUN[1:-4], "--seeds", "0", "--out", "ablation"]):
        with nobody(monkeypatch):
            assert main(words) == 0
    assert Path("ablation/ablation.json").exists()
    assert capsys.readouterr().err == ""


def test_a_failure_that_nobody_hears_keeps_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    with nobody(monkeypatch, "stdout", "stderr"):
        assert main(["train", "nothing"]) == 1


def test_other_errors_of_a_stream_are_not_hidden() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        Output(Full()).write("text")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}


def test_the_process_itself_says_nothing_at_its_end() -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "palora", "recipes"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.close()
    assert child.wait(timeout=120) == 141
    assert child.stderr is not None
    with child.stderr:
        assert child.stderr.read() == b""


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell closes the streams")
@pytest.mark.needs("moocore")
def test_a_training_without_any_stream_writes_its_files() -> None:
    words = [sys.executable, "-m", "palora", *RUN, "--out", "run"]
    done = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *words], env=environment(), timeout=300, check=False)
    assert done.returncode == 0
    assert {p.name for p in Path("run").iterdir()} == FILES
    assert len(read_metrics("run")) == 2
