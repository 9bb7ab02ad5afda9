"""The configuration in a file, and files that survive a crash."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import tiny

from palora.engine import RunConfig, atomic
from palora.errors import PaloraError


def test_configuration_checks_its_values() -> None:
    for name, value in {"epochs": 0, "batch": 0, "limit": 0, "ray_chunk": -1, "lr": 0.0, "seed": -1}.items():
        with pytest.raises(ValueError, match=f"`{name}` should .*Found {value}"):
            tiny(**{name: value})
    with pytest.raises(ValueError, match=r"`precision` should be fp32 or bf16\. Found 'fp16'"):
        tiny(precision="fp16")


def test_configuration_survives_json(tmp_path: Path) -> None:
    config = tiny(lr_milestones=(3, 5), reference=(1.0, 2.0))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_dict()))
    assert RunConfig.read(path) == config
    path.write_text("{")
    with pytest.raises(PaloraError, match=r"config\.json is damaged"):
        RunConfig.read(path)
    path.write_text(json.dumps({**config.to_dict(), "rubbish": 1}))
    with pytest.raises(PaloraError, match="does not know the settings rubbish"):
        RunConfig.read(path)


def test_crash_between_write_and_rename_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crash(BaseException):
        pass

    path = tmp_path / "last.pt"
    atomic.write(path, lambda file: torch.save({"step": 1}, file))
    synced: list[int] = []
    original = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), original(handle)))

    def crash(*args: Any) -> None:
        assert synced  # the content was on the disk before the rename
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(Crash):
            atomic.write(path, lambda file: torch.save({"step": 2}, file))
    assert torch.load(path) == {"step": 1}

    def half(file: Any) -> None:
        file.write(b"half a checkpoint")
        raise Crash

    with pytest.raises(Crash):
        atomic.write(path, half)
    assert torch.load(path) == {"step": 1}
    (tmp_path / ".last.pt.tmp").write_bytes(b"left by a killed process")
    atomic.write(path, lambda file: torch.save({"step": 3}, file))
    assert torch.load(path) == {"step": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
