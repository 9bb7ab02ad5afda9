"""Pipes, folders, sockets and devices where files should be; archives that unpack to far more than they are."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine_runs
import numpy as np
import pytest
from damage import answered
from engine_runs import tiny
from torch import nn

import palora
from palora import data
from palora.bench import table
from palora.bench.device import results
from palora.data.idx import read_idx
from palora.data.mat5 import read_matrix
from palora.data.npy_frames import Field, NpyFrames, within
from palora.data.pictures import Pictures
from palora.engine import RunConfig, RunFolder, evaluate, read_metrics, train
from palora.engine.evaluate import controls_beside
from palora.engine.state import load_checkpoint
from palora.errors import PaloraError
from palora.evaluation import Front
from palora.models import ResNet20
from palora.report.from_runs import draw_runs
from palora_kernels.triton.launching import tuning

READERS: dict[str, Callable[[Path], Any]] = {
    "config.json": RunConfig.read,
    "checkpoints/last.pt": load_checkpoint,
    "front.json": Front.load,
    "metrics.jsonl": lambda path: read_metrics(path.parent),
    "tuning.json": lambda path: tuning.read(path),
    "table.json": table.load,
    "results.json": results.load,
    "adapters.safetensors": lambda path: palora.load_adapters(_adapted(), path),
    "images": read_idx,
    "a.mat": lambda path: read_matrix(path, "a"),
    "weights.pt": lambda path: ResNet20((10,)).load_pretrained(path),
    "faces.zip": lambda path: Pictures(path, "Get it again.").pixels("a", "L"),
}


def _adapted() -> nn.Module:
    return palora.adapt(nn.Sequential(nn.Linear(6, 5)), 2, 1)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the name of a socket has to be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


OTHERS: dict[str, Callable[[Path], None]] = {
    "a pipe": pipe,
    "a folder": Path.mkdir,
    "a socket": listening,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


# Faces may lie in a folder.
UNFIT = [(name, other) for name in READERS for other in OTHERS if (name, other) != ("faces.zip", "a folder")]


@pytest.mark.parametrize("name, other", UNFIT)
def test_what_is_no_file_is_said_at_once(name: str, other: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    OTHERS[other](path)
    tuning.read.cache_clear()
    found = answered(lambda: READERS[name](path), (PaloraError, ValueError))
    assert isinstance(found, (PaloraError, ValueError))


@pytest.mark.parametrize("name", READERS)
def test_random_bytes_are_said_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(np.random.default_rng(0).bytes(4096))
    tuning.read.cache_clear()
    assert isinstance(answered(lambda: READERS[name](path), (PaloraError, ValueError)), (PaloraError, ValueError))


def zeros(times: int) -> bytes:
    """A raw deflate stream without end mark, of `times` × 16 MiB of zeros: 16 KB each."""
    squeeze = zlib.compressobj(1, wbits=-15)
    return (squeeze.compress(bytes(2**24)) + squeeze.flush(zlib.Z_FULL_FLUSH)) * times


def test_bombs_are_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(b"\x1f\x8b\x08" + bytes(7) + zeros(64))
    assert "more than" in str(answered(lambda: read_idx(path)))

    body = b"\x78\x01" + zeros(64)
    path = tmp_path / "a.mat"
    path.write_bytes(bytes(124) + b"\0\1IM" + struct.pack("<II", 15, len(body)) + body)
    assert "more than" in str(answered(lambda: read_matrix(path, "a")))

    for name, read in {"faces.zip": READERS["faces.zip"], "last.pt": load_checkpoint}.items():
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("a", bytes(2**26 + 1))
        assert isinstance(answered(lambda read=read, path=path: read(path)), PaloraError)


def test_a_directory_that_lies_about_a_member_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(2**26 + 1))
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", 2**26 + 1), struct.pack("<I", 100)))
    assert isinstance(answered(lambda: READERS["faces.zip"](path)), PaloraError)


def test_encrypted_archives_are_said(tmp_path: Path) -> None:
    for name, read in {"faces.zip": READERS["faces.zip"], "last.pt": load_checkpoint}.items():
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a", b"secret")
        content = bytearray(path.read_bytes())
        content[content.index(b"PK\1\2") + 8] |= 1
        path.write_bytes(content)
        assert "encrypted" in str(answered(lambda read=read, path=path: read(path)))


def test_huge_headers_cost_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "frames" / "image"
    folder.mkdir(parents=True)
    for number in range(2):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**9}, {10**6}, 3)}}".ljust(117) + "\n"
        (folder / f"{number}.npy").write_bytes(
            b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + bytes(64)
        )
    frames = NpyFrames(folder.parent, (Field("image", 3, within(0, 1)),), "Get it again.")
    assert isinstance(answered(frames.verify), PaloraError)
    path = tmp_path / "images"
    path.write_bytes(struct.pack(">HBBIII", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1))
    assert isinstance(answered(lambda: read_idx(path)), PaloraError)
    path = tmp_path / "adapters.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    assert isinstance(answered(lambda: palora.load_adapters(_adapted(), path)), PaloraError)


def test_no_picture_of_a_billion_pixels_is_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    picture = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )
    (tmp_path / "a").write_bytes(picture)
    assert "pixels" in str(answered(lambda: Pictures(tmp_path, "Get it again.").pixels("a", "RGB")))


# A run among damaged ones -------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two evaluated runs beside each other."""
    monkeypatch.setattr(data, "load", lambda *a, **k: engine_runs.small_set())
    for method in ("palora", "ls"):
        train(tiny(method=method, epochs=1), tmp_path / method)
        evaluate(tmp_path / method)
    return tmp_path


def test_damaged_neighbours_are_named_and_break_nothing(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from palora.cli.results import finish

    assert list(controls_beside(runs / "palora")) == ["ls"]
    for number, spoil in enumerate(OTHERS.values()):
        for file in ("front.json", "config.json"):
            broken = runs / f"broken{number}-{file}"
            shutil.copytree(runs / "ls", broken)
            (broken / file).unlink()
            spoil(broken / file)
    other = json.loads((runs / "ls" / "front.json").read_text())
    stranger = runs / "a-stranger"
    shutil.copytree(runs / "ls", stranger)
    (stranger / "front.json").write_text(json.dumps({**other, "metrics": {}}))
    finish(runs / "palora", [])
    said = capsys.readouterr()
    assert said.err.count("left out") == 9
    for number in range(len(OTHERS)):
        assert f"broken{number}-front.json/front.json" in said.err
        assert f"broken{number}-config.json/config.json" in said.err
    assert "hypervolume" in said.out


def test_a_report_names_the_damaged_file_and_draws_the_rest(runs: Path) -> None:
    told: list[str] = []
    spoilt = runs / "spoilt"
    shutil.copytree(runs / "palora", spoilt)
    (spoilt / "metrics.jsonl").write_text('{"kind": "epoch"}\n')
    drawn = draw_runs({"palora": [runs / "palora", spoilt], "ls": [runs / "ls"]}, runs / "out", tell=told.append)
    assert len(told) == 1
    assert f"{spoilt / 'metrics.jsonl'} is damaged (line 1: `epoch` is missing)" in told[0]
    assert all(path.is_file() for path in drawn)
    with pytest.raises(PaloraError, match="None of the runs can be drawn"):
        draw_runs({"palora": [spoilt]}, runs / "out", tell=told.append)


def test_the_checkpoint_of_another_method_is_refused(runs: Path) -> None:
    shutil.copy(runs / "ls" / "checkpoints" / "last.pt", runs / "palora" / "checkpoints" / "last.pt")
    with pytest.raises(PaloraError, match=r"last\.pt is of another method or model: it lacks"):
        evaluate(runs / "palora")
    config = RunConfig.read(RunFolder(runs / "palora").config_file)
    with pytest.raises(PaloraError, match="is of another method or model"):
        train(config, runs / "palora", resume=True)


def test_the_command_line_says_one_sentence(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    os.mkfifo(run / "config.json")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    words = [sys.executable, "-m", "palora", "evaluate", str(run)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"palora: The configuration {run}/config.json cannot be read (it is a pipe, not a file).\n"
